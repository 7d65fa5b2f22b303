"""Losses against verl's outputs, hand-worked numbers and a slow loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibadv_algo.losses.base import LossTokens, aggregate
from calibadv_algo.losses.cispo import Cispo
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.kl import (
    divergence,
    kl_k1,
    kl_k2,
    kl_k3,
)
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.mismatch import SequenceTis, TokenTis
from tests.algo.loss_tokens import batch_of, loss_tokens

VECTORS = json.loads(
    (Path(__file__).parents[2] / "conformance" / "data" / "misc_vectors.json").read_text(
        encoding="utf-8"
    )
)
MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def flat(name: str) -> Tensor:
    """One of the reference's padded inputs without what its mask hides."""
    mask = torch.tensor(VECTORS["inputs"]["mask"]) > 0
    return torch.tensor(VECTORS["inputs"][name])[mask]


def sequence() -> Tensor:
    """Row of each token that the mask shows."""
    return (torch.tensor(VECTORS["inputs"]["mask"]) > 0).nonzero()[:, 0]


def recorded() -> LossTokens:
    """The reference's tokens."""
    return loss_tokens(flat("logp"), flat("old_logp"), flat("loss_adv"), sequence())


def empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(0), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "clip_high"), [("sym", 0.2), ("cliphigher", 0.28)])
def test_clipped_surrogate_agrees_with_verl(name: str, clip_high: float, mode: Any) -> None:
    loss = ClippedSurrogate(clip_high=clip_high, dual_clip=3.0)(recorded())
    width = len(VECTORS["inputs"]["mask"][0])
    constant = width if mode == "seq-mean-token-sum-norm" else None
    expected = VECTORS["outputs"][f"vanilla_{name}_{mode}"][0]
    assert aggregate(loss, sequence(), mode, denominator=constant).item() == pytest.approx(
        expected, abs=2e-6
    )


@pytest.mark.parametrize(("name", "clip_high"), [("sym", 0.2), ("cliphigher", 0.28)])
def test_share_of_clipped_tokens_agrees_with_verl(name: str, clip_high: float) -> None:
    is_clipped = ClippedSurrogate(clip_high=clip_high).is_clipped(recorded())
    expected = VECTORS["outputs"][f"vanilla_{name}_token-mean"][1]["actor/pg_clipfrac"]
    assert is_clipped.double().mean().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "clip_high"), [("sym", 0.2), ("cliphigher", 0.28)])
def test_cispo_agrees_with_verl(name: str, clip_high: float) -> None:
    loss = Cispo(clip_high=clip_high)(recorded())
    expected = VECTORS["outputs"][f"cispo_{name}"]
    assert aggregate(loss, sequence()).item() == pytest.approx(expected, abs=2e-6)


def test_gspo_agrees_with_verl() -> None:
    loss = Gspo()(recorded())
    value = aggregate(loss, sequence(), "seq-mean-token-mean")
    assert value.item() == pytest.approx(VECTORS["outputs"]["gspo_3e-4_4e-4"], abs=2e-6)


@pytest.mark.parametrize(
    ("name", "key"), [("k1", "kl_k1"), ("k2", "kl_k2"), ("k3", "kl_k3"), ("abs", "kl_abs")]
)
def test_kl_agrees_with_verl(name: Any, key: str) -> None:
    estimate = divergence(name, flat("logp"), flat("ref_logp"), flat("old_logp"))
    value = aggregate(estimate, sequence()).item()
    assert value == pytest.approx(VECTORS["outputs"][key], abs=2e-6)


def test_surrogate_by_hand() -> None:
    logprobs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 5.0]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, -2.0])
    tokens = loss_tokens(logprobs, torch.zeros(5), advantages)
    loss = ClippedSurrogate()(tokens)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, 10.0]))
    higher = ClippedSurrogate(clip_high=0.28, dual_clip=3.0)(tokens)
    torch.testing.assert_close(higher, torch.tensor([-1.28, 1.5, -0.5, 0.8, 6.0]))


def test_first_update_has_the_gradient_of_reinforce() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5])
    tokens = loss_tokens(logprobs, logprobs.detach(), advantages, torch.tensor([0, 0, 4]))
    for objective in (ClippedSurrogate(), Cispo(), Gspo()):
        (gradient,) = torch.autograd.grad(objective(tokens).sum(), logprobs)
        torch.testing.assert_close(gradient, -advantages)


def test_clipped_tokens_have_no_gradient_and_cispo_keeps_it() -> None:
    logprobs = torch.tensor([1.0, -1.0], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0])
    tokens = loss_tokens(logprobs, torch.zeros(2), advantages)
    (gradient,) = torch.autograd.grad(ClippedSurrogate()(tokens).sum(), logprobs)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(Cispo()(tokens).sum(), logprobs)
    torch.testing.assert_close(gradient, torch.tensor([-1.2, 0.8]))


def test_ratios_are_finite_for_any_logprobs() -> None:
    far = torch.tensor([500.0, -500.0])
    ones = torch.ones(2)
    up, down = (loss_tokens(far, torch.zeros(2), sign * ones) for sign in (1, -1))
    for loss in (
        ClippedSurrogate()(down),
        Cispo()(up),
        Gspo()(down),
        kl_k3(far, torch.zeros(2)),
        TokenTis().weights(far, torch.zeros(2), torch.arange(2)),
    ):
        assert torch.isfinite(loss).all()
    assert kl_k3(far, torch.zeros(2)).max() <= 10.0


@pytest.mark.parametrize("mode", MODES)
def test_nothing_gives_zero(mode: Any) -> None:
    nothing, nowhere = empty()
    constant = 8.0 if mode == "seq-mean-token-sum-norm" else None
    assert aggregate(nothing, nowhere, mode, denominator=constant).item() == 0.0
    tokens = loss_tokens(nothing, nothing, nothing, nowhere)
    assert ClippedSurrogate()(tokens).shape == Gspo()(tokens).shape == (0,)
    assert SequenceTis().weights(nothing, nothing, nowhere).shape == (0,)


def slow_aggregate(loss: list[float], rows: list[int], mode: str) -> float:
    by_row: dict[int, list[float]] = {}
    for value, row in zip(loss, rows, strict=True):
        by_row.setdefault(row, []).append(value)
    if mode == "token-mean":
        return sum(loss) / len(loss)
    if mode == "seq-mean-token-sum":
        return sum(map(sum, by_row.values())) / len(by_row)
    if mode == "seq-mean-token-mean":
        return sum(sum(values) / len(values) for values in by_row.values()) / len(by_row)
    return sum(loss) / 32


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 6)), min_size=1, max_size=30),
    st.sampled_from(MODES),
)
def test_aggregation_equals_the_loop_and_micro_batches_add_up(
    tokens: list[tuple[float, int]], mode: Any
) -> None:
    values, rows = [value for value, _ in tokens], [row for _, row in tokens]
    loss = torch.tensor(values, dtype=torch.float64)
    index = torch.tensor(rows)
    denominator = {
        "token-mean": len(values),
        "seq-mean-token-sum-norm": 32,
    }.get(mode, len(set(rows)))
    whole = aggregate(loss, index, mode, denominator=denominator).item()
    assert whole == pytest.approx(slow_aggregate(values, rows, mode), abs=1e-9)
    if mode != "seq-mean-token-sum-norm":
        assert aggregate(loss, index, mode).item() == pytest.approx(whole, abs=1e-9)
    parts = [index < 3, index >= 3]
    total = sum(
        aggregate(loss[part], index[part], mode, denominator=denominator).item() for part in parts
    )
    assert total == pytest.approx(whole, abs=1e-9)


def test_aggregation_refuses_nonsense() -> None:
    loss, index = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="denominator must be given for seq-mean-token-sum-norm"):
        aggregate(loss, index, "seq-mean-token-sum-norm")
    with pytest.raises(ValueError, match="denominator must be positive, got 0"):
        aggregate(loss, index, denominator=0)
    with pytest.raises(ValueError, match=r"mode must be one of .* got 'mean'"):
        aggregate(loss, index, "mean")  # type: ignore[arg-type]


def test_kl_estimates_by_hand() -> None:
    logprobs, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0])
    torch.testing.assert_close(kl_k1(logprobs, ref), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(kl_k2(logprobs, ref), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(kl_k3(logprobs, ref), torch.tensor([math.exp(-1.0), 0.0]))


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_straight_through_has_the_value_of_one_and_the_gradient_of_k2(name: Any) -> None:
    logprobs = torch.tensor([-1.0, -2.5], requires_grad=True)
    ref = torch.tensor([-2.0, -2.0])
    straight: Any = f"{name}+"
    estimate = divergence(straight, logprobs, ref, ref)
    torch.testing.assert_close(estimate, divergence(name, logprobs, ref, ref))
    (gradient,) = torch.autograd.grad(estimate.sum(), logprobs)
    torch.testing.assert_close(gradient, (logprobs - ref).detach())


def test_expected_kl_estimates_equal_the_divergence() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.2, 0.6])
    divergence = (policy * (policy / reference).log()).sum()
    for estimator in (kl_k1, kl_k3):
        estimate = (policy * estimator(policy.log(), reference.log())).sum()
        torch.testing.assert_close(estimate, divergence)


def test_importance_weights_are_capped_and_have_no_gradient() -> None:
    old = torch.log(torch.tensor([0.5, 0.6, 0.1])).requires_grad_()
    sampling = torch.log(torch.tensor([0.5, 0.2, 0.2]))
    weights = TokenTis().weights(old, sampling, torch.tensor([0, 2, 2]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 0.5]))
    assert not weights.requires_grad
    whole = SequenceTis().weights(old, sampling, torch.tensor([0, 2, 2]))
    torch.testing.assert_close(whole, torch.tensor([1.0, 1.5, 1.5]))
    assert not whole.requires_grad


# What counts as clipped, and second terms

SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 2])


def make_tokens(log_ratios: list[float], advantages: list[float]) -> LossTokens:
    """Six tokens of three sequences; the ratios are those to the old policy."""
    logprobs = (torch.tensor(log_ratios) - 1.0).requires_grad_()
    old = torch.full((6,), -1.0)
    return loss_tokens(logprobs, old, torch.tensor(advantages), SEQUENCE)


TOKENS = ([0.5, -0.5, 0.01, 0.5, -0.5, 0.0], [1.0, 1.0, 1.0, -1.0, -1.0, 2.0])


def test_dual_clip_bounds_the_ratio() -> None:
    tokens = make_tokens([2.0] * 6, [-1.0] * 6)
    assert ClippedSurrogate(dual_clip=3.0)(tokens).tolist() == [3.0] * 6
    assert float(ClippedSurrogate()(tokens)[0].detach()) == pytest.approx(2.718281828**2, rel=1e-5)


@pytest.mark.parametrize("objective", [ClippedSurrogate(), ClippedSurrogate(clip_low=0.5), Gspo()])
def test_clipped_tokens_are_those_without_gradient(objective: Any) -> None:
    for signs in (1.0, -1.0):
        tokens = make_tokens(TOKENS[0], [signs * value for value in TOKENS[1]])
        (gradient,) = torch.autograd.grad(objective(tokens).sum(), tokens.logprobs)
        assert torch.equal(objective.is_clipped(tokens), gradient == 0)
    assert bool(objective.is_clipped(make_tokens([0.9] * 6, [1.0] * 6)).all())


def test_cispo_keeps_every_gradient() -> None:
    tokens = make_tokens(*TOKENS)
    (gradient,) = torch.autograd.grad(Cispo()(tokens).sum(), tokens.logprobs)
    assert bool((gradient != 0).all())
    assert Cispo().is_clipped(tokens).tolist() == [True, True, False, True, True, False]


def test_only_some_objectives_have_a_second_term() -> None:
    tokens = make_tokens(*TOKENS)
    whole = batch_of(tokens)
    assert Llds().penalty_denominator(whole) == 6.0
    assert ClippedSurrogate().penalty_denominator(whole) is None
    assert ClippedSurrogate().penalty(tokens, whole).tolist() == [0.0] * 6
