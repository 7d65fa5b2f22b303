"""Advantages: hand-worked numbers, invariants, and a token-level loop as oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calibadv_algo.advantages.base import last_turns
from calibadv_algo.advantages.calibadv import (
    CalibAdv,
    Rebalance,
    SoftPenalty,
    rebalance_answers,
    soft_penalty,
)
from calibadv_algo.advantages.grpo import Grpo, group_normalized
from calibadv_algo.advantages.rloo import leave_one_out
from calibadv_algo.advantages.variants import (
    aggressive_penalty,
    clip_negatives,
    drop_solved_turns,
    is_risky,
    lifting_penalty,
    rebalance_pool,
    search_pools,
)
from calibadv_algo.advantages.whitening import whiten_batch
from calibadv_algo.types import Group, Trajectory, Turn, token_counts

NAN = math.nan
BAD = 1e-6


def make_group(rewards: Sequence[float], lengths: Sequence[Sequence[int]]) -> Group:
    """A group from the rewards and the token counts of the turns."""
    trajectories = []
    for reward, counts in zip(rewards, lengths, strict=True):
        turns = [
            Turn(
                action_ids=(7,) * count,
                action_text="",
                logprobs=(0.0,) * count,
                reward=reward if index == len(counts) - 1 else 0.0,
            )
            for index, count in enumerate(counts)
        ]
        trajectories.append(
            Trajectory(
                group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=tuple(turns)
            )
        )
    return Group(tuple(trajectories))


WORKED = make_group([1.0, 0.0, 0.0], [[10, 5], [12, 9, 6], [11, 10]])
WORKED_SCORES = np.array([[1.0, NAN, NAN], [1 / 3, 2 / 3, NAN], [BAD, NAN, NAN]])


def test_calibadv_on_the_worked_example() -> None:
    advantages = CalibAdv()(WORKED, WORKED_SCORES)
    expected = [
        [1.154698, 1.847518, 0.0],
        [-0.384900, -0.192450, -0.577349],
        [-0.577349, -0.577349, 0.0],
    ]
    np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_each_part_alone_on_the_worked_example() -> None:
    base = [[1.154698] * 2 + [0.0], [-0.577349] * 3, [-0.577349] * 2 + [0.0]]
    np.testing.assert_allclose(Grpo()(WORKED, WORKED_SCORES), base, atol=1e-5)
    spared = SoftPenalty()(WORKED, WORKED_SCORES)
    np.testing.assert_allclose(spared[1], [-0.384900, -0.192450, -0.577349], atol=1e-5)
    np.testing.assert_allclose(spared[[0, 2]], np.array(base)[[0, 2]], atol=1e-5)
    balanced = Rebalance()(WORKED, WORKED_SCORES)
    np.testing.assert_allclose(balanced[0], [1.154698, 1.847518, 0.0], atol=1e-5)
    np.testing.assert_allclose(balanced[1:], base[1:], atol=1e-5)


def test_rebalancing_the_negative_side() -> None:
    advantages = CalibAdv(adjust_positive=False, target_ratio=0.5)(WORKED, WORKED_SCORES)
    factor = 0.5 * (5 * 1.154698) / (16 * 0.577349)
    assert advantages[0, 1] == pytest.approx(1.154698, abs=1e-5)
    assert advantages[1, 2] == pytest.approx(-0.577349 * factor, abs=1e-5)
    assert advantages[1, 0] == pytest.approx(-0.384900, abs=1e-5)


def test_dr_grpo_does_not_divide() -> None:
    advantages = Grpo(normalization="none")(WORKED, WORKED_SCORES)
    np.testing.assert_allclose(advantages[:, 0], [2 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("singleton", ["raw", "zero"])
def test_groups_of_one(reward: float, singleton: Any) -> None:
    group = make_group([reward], [[3, 4]])
    scores = np.full((1, 2), NAN)
    expected = reward / (1 + 1e-6) if singleton == "raw" else 0.0
    np.testing.assert_allclose(Grpo(singleton=singleton)(group, scores), [[expected, expected]])
    np.testing.assert_allclose(CalibAdv(singleton=singleton)(group, scores), [[expected, 0.0]])


@pytest.mark.parametrize("reward", [0.0, 0.1, 6 / 7, 1.0])
@pytest.mark.parametrize("size", [2, 3, 5, 7])
@pytest.mark.parametrize("estimator", [Grpo(), SoftPenalty(), Rebalance(), CalibAdv()])
def test_equal_rewards_give_exact_zeros(estimator: Any, size: int, reward: float) -> None:
    group = make_group([reward] * size, [[2, 3]] * size)
    assert not estimator(group, np.full((size, 2), 1.0)).any()


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"correctness must have the group's shape \(3, 3\)"):
        CalibAdv()(WORKED, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CalibAdv(target_ratio=0.0), "target_ratio must be positive, got 0.0"),
        (lambda: Rebalance(target_ratio=-1.0), "target_ratio must be positive, got -1.0"),
        (lambda: Grpo(epsilon=0.0), "epsilon must be positive, got 0.0"),
        (lambda: CalibAdv(epsilon=-1.0), "epsilon must be positive, got -1.0"),
        (lambda: Grpo(normalization="batch"), "normalization must be group or none"),
        (lambda: SoftPenalty(singleton="mean"), "singleton must be raw or zero"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


rewards_strategy = st.sampled_from([0.0, 0.0, 0.25, 0.5, 2 / 3, 6 / 7, 1.0])
scores_strategy = st.sampled_from([NAN, BAD, 0.25, 1 / 3, 2 / 3, 1.0])


@st.composite
def scored_groups(draw: st.DrawFn) -> tuple[Group, np.ndarray]:
    size = draw(st.integers(1, 6))
    lengths = [draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)) for _ in range(size)]
    group = make_group([draw(rewards_strategy) for _ in range(size)], lengths)
    scores = np.full((size, group.max_turns), NAN)
    for row, counts in enumerate(lengths):
        for column in range(len(counts) - 1):
            scores[row, column] = draw(scores_strategy)
    return group, scores


def token_loop(group: Group, scores: np.ndarray, ratio: float, is_positive: bool) -> list[Any]:
    """CalibAdv with a vector of tokens for each trajectory, step by step."""
    rewards = np.array([trajectory.reward for trajectory in group.trajectories])
    single = len(rewards) == 1
    mean, std = (0.0, 1.0) if single else (rewards.mean(), rewards.std(ddof=1))
    rows = []
    for index, trajectory in enumerate(group.trajectories):
        advantage = (rewards[index] - mean) / (std + 1e-6)
        if not single and np.all(rewards == rewards[0]):
            advantage = 0.0
        row = []
        for turn, score in zip(trajectory.turns, scores[index], strict=False):
            keeps = 1 - score if advantage < 0 and score > BAD else 1.0
            row.append([advantage * keeps] * len(turn.action_ids))
        rows.append(row)
    last = [value for row in rows for value in row[-1]]
    positive = sum(value for value in last if value > 0)
    negative = -sum(value for value in last if value < 0)
    for row in rows:
        if positive == 0 or negative == 0:
            row[-1] = [0.0 for _ in row[-1]]
        elif is_positive:
            row[-1] = [v * negative / positive / ratio if v > 0 else v for v in row[-1]]
        else:
            row[-1] = [v * positive / negative * ratio if v < 0 else v for v in row[-1]]
    return rows


@settings(max_examples=150, deadline=None)
@given(scored_groups(), st.sampled_from([0.5, 0.7, 1.0, 2.0]), st.booleans())
def test_calibadv_equals_the_token_loop(
    case: tuple[Group, np.ndarray], ratio: float, is_positive: bool
) -> None:
    group, scores = case
    estimator = CalibAdv(target_ratio=ratio, adjust_positive=is_positive)
    advantages = estimator(group, scores)
    for row, expected in zip(
        advantages, token_loop(group, scores, ratio, is_positive), strict=True
    ):
        for index, tokens in enumerate(expected):
            np.testing.assert_allclose(row[index], tokens, atol=1e-9)
        assert not row[len(expected) :].any()


@settings(max_examples=60, deadline=None)
@given(scored_groups(), st.randoms(use_true_random=False))
def test_order_in_the_group_does_not_matter(case: tuple[Group, np.ndarray], random: Any) -> None:
    group, scores = case
    order = list(range(len(group)))
    random.shuffle(order)
    shuffled = Group(tuple(group.trajectories[index] for index in order))
    for estimator in (Grpo(), CalibAdv(), SoftPenalty(), Rebalance()):
        np.testing.assert_allclose(
            estimator(shuffled, scores[order]), estimator(group, scores)[order], atol=1e-12
        )


@settings(max_examples=100, deadline=None)
@given(scored_groups())
def test_soft_penalty_only_weakens_negatives(case: tuple[Group, np.ndarray]) -> None:
    group, scores = case
    base = Grpo()(group, scores)
    spared = soft_penalty(base, scores)
    assert (spared[base >= 0] == base[base >= 0]).all()
    assert (spared[base < 0] <= 0).all()
    assert (spared >= base).all()
    unscored = np.isnan(scores) | (scores <= BAD)
    assert (spared[unscored] == base[unscored]).all()


@settings(max_examples=60, deadline=None)
@given(scored_groups())
def test_without_scores_the_soft_penalty_is_grpo(case: tuple[Group, np.ndarray]) -> None:
    group, scores = case
    blank = np.full_like(scores, NAN)
    np.testing.assert_array_equal(SoftPenalty()(group, blank), Grpo()(group, blank))
    np.testing.assert_array_equal(CalibAdv()(group, blank), Rebalance()(group, blank))


@settings(max_examples=100, deadline=None)
@given(scored_groups(), st.sampled_from([0.3, 0.7, 1.0, 2.0]), st.booleans())
def test_masses_meet_the_target(
    case: tuple[Group, np.ndarray], ratio: float, is_positive: bool
) -> None:
    group, scores = case
    counts = token_counts(group)
    before = Grpo()(group, scores)
    last = last_turns(counts)
    after = rebalance_answers(before, counts, last, ratio, is_positive)
    np.testing.assert_array_equal(after[~last], before[~last])
    masses = (after * counts)[last]
    positive, negative = masses[masses > 0].sum(), -masses[masses < 0].sum()
    if not ((before[last] > 0).any() and (before[last] < 0).any()):
        assert not masses.any()
    elif is_positive:
        assert negative / positive == pytest.approx(ratio, rel=1e-9)
    else:
        assert positive / negative == pytest.approx(1 / ratio, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(rewards_strategy, min_size=2, max_size=8),
    st.floats(-3, 3).filter(lambda shift: abs(shift) > 1e-3),
)
def test_a_shift_of_all_rewards_changes_nothing(rewards: list[float], shift: float) -> None:
    shifted = np.array(rewards) + shift
    np.testing.assert_allclose(
        group_normalized(shifted), group_normalized(np.array(rewards)), atol=1e-7
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rewards_strategy, min_size=2, max_size=8))
def test_normalised_rewards_have_mean_zero_and_deviation_one(rewards: list[float]) -> None:
    assume(len(set(rewards)) > 1)
    normalised = group_normalized(np.array(rewards))
    assert normalised.mean() == pytest.approx(0.0, abs=1e-9)
    assert normalised.std(ddof=1) == pytest.approx(1.0, abs=1e-4)


def test_last_turns_and_counts() -> None:
    counts = token_counts(WORKED)
    np.testing.assert_array_equal(counts, [[10, 5, 0], [12, 9, 6], [11, 10, 0]])
    np.testing.assert_array_equal(
        last_turns(counts), [[False, True, False], [False, False, True], [False, True, False]]
    )
    pools = list(search_pools(counts))
    assert [pool.sum() for pool in pools] == [3, 1]


def test_lifting_and_aggressive_penalties() -> None:
    advantages = np.array([[2.0, 2.0], [-1.0, -1.0], [-1.0, -1.0]])
    scores = np.array([[1.0, NAN], [0.5, NAN], [0.25, NAN]])
    lifted = lifting_penalty(advantages, scores)
    np.testing.assert_allclose(lifted, [[2.0, 2.0], [0.5, -1.0], [-0.25, -1.0]])
    freed = aggressive_penalty(advantages, scores)
    np.testing.assert_allclose(freed, [[2.0, 2.0], [0.0, -1.0], [-0.75, -1.0]])
    both = aggressive_penalty(advantages, scores, lifting=True)
    np.testing.assert_allclose(both, [[2.0, 2.0], [0.0, -1.0], [-0.25, -1.0]])


def test_solved_turns_earn_nothing() -> None:
    advantages = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [0.5, 0.5, 0.0]])
    scores = np.array([[1.0, 1.0, NAN], [1.0, 0.5, NAN], [NAN, NAN, NAN]])
    dropped = drop_solved_turns(advantages, scores)
    np.testing.assert_array_equal(dropped, [[0.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [0.5, 0.5, 0.0]])


def test_negatives_are_cut_at_the_mean_positive() -> None:
    advantages, counts = np.array([[1.0, 3.0], [-4.0, -1.0]]), np.array([[3.0, 1.0], [2.0, 2.0]])
    clipped = clip_negatives(advantages, counts, target_ratio=1.0)
    np.testing.assert_array_equal(clipped, [[1.0, 3.0], [-1.5, -1.0]])
    np.testing.assert_array_equal(clip_negatives(-abs(advantages), counts), -abs(advantages))


def test_pools_with_one_sign() -> None:
    advantages, counts = np.array([[1.0], [2.0]]), np.ones((2, 1))
    pool = counts > 0
    assert not rebalance_pool(advantages, counts, pool).any()
    kept = rebalance_pool(advantages, counts, pool, keep_lone_positive=True)
    np.testing.assert_array_equal(kept, advantages)
    assert not rebalance_pool(-advantages, counts, pool, keep_lone_positive=True).any()
    assert not is_risky(advantages, counts, pool, 1.0)
    assert is_risky(-advantages, counts, pool, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_an_error(bad: float) -> None:
    """Comparisons with NaN are false: its group would get zeros, and nobody would know."""
    group = make_group([1.0, bad, 0.0], [[2], [3], [1]])
    scores = np.full((3, group.max_turns), np.nan)
    for estimator in (Grpo(), CalibAdv()):
        with pytest.raises(ValueError, match=r"reward of trajectory 1 .* must be finite, got"):
            estimator(group, scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_plain_formulas_pass_nan_on(bad: float) -> None:
    """As in verl: whoever calls them with other numbers is told by what comes out."""
    rewards = np.array([bad, 1.0, 0.0, 1.0])
    assert np.isnan(group_normalized(rewards)).any()
    assert not np.isfinite(leave_one_out(rewards)).all()
    with np.errstate(invalid="ignore"):
        (whitened,) = whiten_batch([rewards[:, None]], [np.ones((4, 1))])
    assert np.isnan(whitened).any()
