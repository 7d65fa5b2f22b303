"""Search-agent SAPO, STAMP and GAGPO: the paper's listing, numbers by hand, enumeration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.gagpo import Gagpo
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.stamp import Stamp, keep_sign
from calibadv_algo.losses.base import aggregate
from calibadv_algo.losses.search_sapo import SearchSapo
from calibadv_algo.types import Group
from tests.algo.loss_tokens import batch_of, loss_tokens
from tests.algo.test_advantages_baselines import make_group, no_scores
from tests.algo.test_methods_2026 import sequence_of, tensor

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "methods_2026_second.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", RECORDED["search_sapo"])
def test_search_sapo_agrees_with_the_listing_of_its_paper(case: dict[str, Any]) -> None:
    objective = SearchSapo()
    tokens = loss_tokens(
        tensor(case["logp"]), tensor(case["old_logp"]), tensor(case["adv"]), sequence_of(case)
    )
    tokens.logprobs.requires_grad_()
    batch = batch_of(tokens)
    loss = aggregate(objective(tokens), tokens.sequence, "token-mean")
    denominator = objective.penalty_denominator(batch)
    assert denominator is not None
    loss = loss + objective.penalty(tokens, batch).sum() / denominator
    (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    torch.testing.assert_close(gradient, tensor(case["grad"]), rtol=1e-6, atol=1e-9)


def test_only_good_tokens_that_fell_are_held_back() -> None:
    logp = torch.log(torch.tensor([0.5, 0.9, 0.5, 0.5]))
    old = torch.log(torch.tensor([1.0, 1.0, 1.0, 0.5]))
    tokens = loss_tokens(logp, old, torch.tensor([1.0, 1.0, -1.0, 0.0]))
    penalty = SearchSapo(coef=1.0).penalty(tokens, batch_of(tokens))
    assert penalty.tolist() == pytest.approx([np.log(2), 0, 0, 0])
    assert SearchSapo().penalty_denominator(batch_of(tokens)) == 3
    bad = loss_tokens(logp, old, torch.tensor([-1.0] * 4))
    assert SearchSapo().penalty_denominator(batch_of(bad)) == 1


def with_evidence(group: Group, recalls: list[list[float]], hops: int) -> Group:
    """The group with the share of the evidence that every turn has by then."""
    rows = []
    for each, own in zip(group.trajectories, recalls, strict=True):
        kinds = ["search"] * (len(own) - 1) + ["answer"]
        turns = tuple(
            replace(turn, info={"action": kind, "gold_recall": recall})
            for turn, kind, recall in zip(each.turns, kinds, own, strict=True)
        )
        rows.append(replace(each, turns=turns, reset_info={"hops": hops}))
    return Group(tuple(rows))


def test_stamp_gives_new_evidence_more_of_the_good_and_less_of_the_bad() -> None:
    """Two hops: a turn that meets one earns .03, one that meets both .06, and none twice."""
    plain = make_group([[(0.0, 1), (0.0, 1), (1.0, 1)], [(0.0, 1), (0.0, 1), (0.0, 1)]])
    group = with_evidence(plain, [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0]], hops=2)
    base = Grpo()(group, no_scores(group))
    found = Stamp()(group, no_scores(group))
    factors = [[1.03, 1.03, 1.0], [1 - 0.06, 1.0, 1.0]]
    np.testing.assert_allclose(found, base * np.array(factors))
    np.testing.assert_allclose(
        Stamp(cap=0.04)(group, no_scores(group))[1, 0], base[1, 0] * (1 - 0.04)
    )


def test_stamp_keeps_every_sign_and_knows_no_credit_without_evidence() -> None:
    values = np.array([[2.0, -2.0, 0.0]])
    assert np.array_equal(np.sign(keep_sign(values, np.full((1, 3), 0.99))), np.sign(values))
    plain = make_group([[(0.0, 1), (1.0, 1)], [(0.0, 1), (0.0, 1)]])
    group = with_evidence(plain, [[np.nan, np.nan]] * 2, hops=2)
    assert np.array_equal(Stamp()(group, no_scores(group)), Grpo()(group, no_scores(group)))


def with_states(rows: list[tuple[list[str], float]]) -> Group:
    """Episodes with these observations after their turns, the last of which earns the reward."""
    plain = make_group([[(0.0, 1)] * (len(seen)) + [(reward, 1)] for seen, reward in rows])
    return Group(
        tuple(
            replace(
                each,
                turns=tuple(
                    replace(turn, observation_text=text)
                    for turn, text in zip(each.turns, [*seen, ""], strict=True)
                ),
            )
            for each, (seen, _) in zip(plain.trajectories, rows, strict=True)
        )
    )


def test_gagpo_by_hand() -> None:
    """Fork at the root: a, met twice with returns 1 and 0, and b, met once with 1; gamma is 1."""
    group = with_states([(["a"], 1.0), (["a"], 0.0), (["b"], 1.0)])
    found = Gagpo(gamma=1.0, lam=0.5)(group, no_scores(group))
    root, a, b = 2 / 3, 0.5, 1.0
    last = [1 - a, 0 - a, 1 - b]
    first = [a - root + 0.5 * last[0], a - root + 0.5 * last[1], b - root + 0.5 * last[2]]
    raw = np.array([[first[i], last[i]] for i in range(3)])
    expected = (raw - raw.mean()) / (raw.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_gagpo_of_equal_episodes_is_nothing() -> None:
    group = with_states([(["a"], 1.0)] * 3)
    assert not Gagpo(gamma=1.0)(group, no_scores(group)).any()
