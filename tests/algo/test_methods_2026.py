"""Methods of 2026 against what their authors' code gave on random inputs, and by enumeration.

``tests/data/methods_2026.json`` names the repositories and commits that were run.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calibadv_algo.advantages.cw_grpo import CwGrpo
from calibadv_algo.advantages.hgpo import hierarchical_relative
from calibadv_algo.advantages.max_rl import MaxRl, mean_normalized
from calibadv_algo.losses.base import Aggregation, LossTokens, PolicyObjective, aggregate
from calibadv_algo.losses.dppo import Dppo
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.mismatch import GeometricMask, MaskedIs, SequenceTis, TokenTis
from calibadv_algo.losses.turn_clipped import TurnClipped
from calibadv_algo.losses.vespo import Vespo
from tests.algo.loss_tokens import loss_tokens
from tests.algo.test_advantages_baselines import no_scores, outcome_group

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "methods_2026.json").read_text(encoding="utf-8")
)
TOKENS: list[dict[str, Any]] = RECORDED["tokens"]


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sequence_of(case: dict[str, Any]) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(case["lengths"])), tensor(case["lengths"]).int()
    )


def check(
    objective: PolicyObjective,
    tokens: LossTokens,
    expected: dict[str, Any],
    mode: Aggregation = "token-mean",
) -> None:
    """Value and gradient of an aggregated loss."""
    tokens.logprobs.requires_grad_()
    loss = aggregate(objective(tokens), tokens.sequence, mode)
    (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-5, abs=2e-6)
    torch.testing.assert_close(gradient, tensor(expected["grad"]), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo_agrees_with_verl(case: dict[str, Any], divergence: Any) -> None:
    expected = case["outputs"][f"dppo_{divergence}"]
    objective = Dppo(divergence=divergence, bound_low=0.15, bound_high=0.25, cap=3.0)
    tokens = loss_tokens(
        tensor(case["logp"]), tensor(case["old_logp"]), tensor(case["adv"]), sequence_of(case)
    )
    check(objective, tokens, expected)
    share = objective.is_clipped(tokens).double().mean().item()
    assert share == pytest.approx(expected["clipped"], abs=1e-6)


def test_the_recorded_tokens_meet_the_bounds() -> None:
    for name in ("dppo_tv", "dppo_kl"):
        shares = [case["outputs"][name]["clipped"] for case in TOKENS]
        assert 0.05 < np.mean(shares) < 0.95


@pytest.mark.parametrize("case", TOKENS)
def test_vespo_agrees_with_trl(case: dict[str, Any]) -> None:
    expected = case["outputs"]["vespo"]
    tokens = loss_tokens(
        tensor(case["logp"]), tensor(case["old_logp"]), tensor(expected["adv"]), sequence_of(case)
    )
    check(Vespo(), tokens, expected)


@pytest.mark.parametrize("case", TOKENS)
def test_gspo_summed_over_tokens_is_luspo(case: dict[str, Any]) -> None:
    tokens = loss_tokens(
        tensor(case["logp"]),
        tensor(case["old_logp"]),
        tensor(case["outputs"]["vespo"]["adv"]),
        sequence_of(case),
    )
    expected = case["outputs"]["luspo"]
    check(Gspo(clip_low=0.2, clip_high=0.28), tokens, expected, "seq-mean-token-sum")


@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize(
    ("name", "correction"),
    [
        ("token_truncate", TokenTis(floor=0.9, cap=1.1)),
        ("sequence_truncate", SequenceTis(floor=0.8, cap=1.3)),
        ("token_mask", MaskedIs(level="token", low=0.9, high=1.1)),
        ("sequence_mask", MaskedIs(level="sequence", low=0.8, high=1.3)),
        ("geometric", GeometricMask(low=0.95, high=1 / 0.95)),
    ],
)
def test_corrections_agree_with_trl_and_verl(
    case: dict[str, Any], name: str, correction: Any
) -> None:
    weights = correction.weights(
        tensor(case["old_logp"]), tensor(case["sampling_logp"]), sequence_of(case)
    )
    torch.testing.assert_close(weights, tensor(case["outputs"][name]), rtol=1e-5, atol=1e-6)


def test_corrections_say_which_tokens_are_at_a_bound() -> None:
    ratios = torch.log(torch.tensor([0.5, 1.0, 4.0]))
    places = torch.arange(3)
    both = TokenTis(floor=0.8, cap=2.0)
    weights = both.weights(ratios, torch.zeros(3), places)
    assert both.is_truncated(weights).tolist() == [True, False, True]
    geometric = GeometricMask(low=0.6, high=5.0, cap=3.0)
    weights = geometric.weights(ratios, torch.zeros(3), places)
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 3.0]))
    assert geometric.is_truncated(weights).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"floor must not be above cap 1\.0, got 2"):
        TokenTis(floor=2, cap=1.0)


@pytest.mark.parametrize("case", RECORDED["turn_clipped"])
def test_turn_level_surrogate_agrees_with_the_code_of_tree_grpo(case: dict[str, Any]) -> None:
    turns = [(row, turn) for row, own in enumerate(case["lengths"]) for turn in range(len(own))]
    counts = torch.tensor([count for own in case["lengths"] for count in own])
    sequence, turn = torch.tensor(turns).repeat_interleave(counts, dim=0).unbind(1)
    tokens = loss_tokens(
        tensor(case["logp"]), tensor(case["old_logp"]), tensor(case["adv"]), sequence, turn
    )
    objective = TurnClipped(clip_low=0.1, clip_high=0.15, dual_clip=3.0)
    check(objective, tokens, case)
    share = objective.is_clipped(tokens).double().mean().item()
    assert share == pytest.approx(case["clipped"], abs=1e-6)


def test_objectives_of_nothing_are_empty() -> None:
    nothing = torch.zeros(0)
    tokens = loss_tokens(nothing, nothing, nothing)
    for objective in (Dppo(), Dppo(divergence="kl"), Vespo(), TurnClipped()):
        assert objective(tokens).shape == objective.is_clipped(tokens).shape == (0,)


@pytest.mark.parametrize("case", RECORDED["cw_grpo"])
def test_cw_grpo_agrees_with_its_code(case: dict[str, Any]) -> None:
    group = outcome_group(case["rewards"], case["tokens"])
    correctness = no_scores(group)
    for row, scores in enumerate(case["scores"]):
        correctness[row, : len(scores) - 1] = scores[:-1]
    gamma = None if case["gamma"] >= 10 else case["gamma"]
    found = CwGrpo(gamma=gamma)(group, correctness)
    for row, expected in enumerate(case["advantages"]):
        np.testing.assert_allclose(found[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not found[row, len(expected) :].any()


def test_cw_grpo_gives_nothing_to_searches_that_are_scored_bad() -> None:
    group = outcome_group([1.0, 0.0], [[2, 2, 2], [2, 2]])
    correctness = np.array([[1e-6, 1.0, np.nan], [1.0, np.nan, np.nan]])
    found = CwGrpo(normalization="none")(group, correctness)
    np.testing.assert_allclose(found, [[0.0, 1.0, 0.5], [-0.5, -0.5, 0.0]])
    correctness[0] = 1e-6
    np.testing.assert_allclose(CwGrpo(normalization="none")(group, correctness)[0], [0, 0, 0.5])


@pytest.mark.parametrize("case", RECORDED["hgpo"])
def test_hgpo_agrees_with_its_code(case: dict[str, Any]) -> None:
    found = hierarchical_relative(
        case["states"],
        [np.array(own) for own in case["returns"]],
        history=case["history"],
        normalization=case["normalization"],
    )
    np.testing.assert_allclose(np.concatenate(found), case["advantages"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("chance", [0.1, 0.6])
def test_max_rl_is_the_beginning_of_the_gradient_of_the_log_likelihood(
    size: int, chance: float
) -> None:
    """Exact expectation over all groups of a policy that succeeds with a chance of p."""
    expected = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=size):
        rewards = np.array(outcome)
        probability = np.prod(np.where(rewards == 1, chance, 1 - chance))
        scores = np.where(rewards == 1, 1 / chance, -1 / (1 - chance))  # d log P / dp
        expected += probability * (mean_normalized(rewards) * scores).mean()
    series = sum((1 - chance) ** (k - 1) for k in range(1, size))
    assert expected == pytest.approx(series)


def test_max_rl_by_hand() -> None:
    group = outcome_group([1.0, 0.0, 0.0, 0.0], [[1, 2], [3], [1], [1]])
    found = MaxRl()(group, no_scores(group))
    np.testing.assert_allclose(found, [[3, 3], [-1, 0], [-1, 0], [-1, 0]])
    assert not mean_normalized(np.zeros(3)).any()
    assert not mean_normalized(np.full(3, 0.1)).any()
    with pytest.raises(ValueError, match="not negative, got -1"):
        mean_normalized(np.array([1.0, -1.0]))
