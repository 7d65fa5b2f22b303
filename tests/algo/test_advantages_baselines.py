"""RLOO, OPO, REINFORCE and its kin, GPG: loops as oracles, numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.advantages.acceptable import AcceptableGrpo
from calibadv_algo.advantages.batch_scaled import (
    BatchScaledGrpo,
    Gpg,
    batch_scaled,
    gpg_scaled,
)
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.reinforce import (
    Reinforce,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    discounted_returns,
    turn_returns,
)
from calibadv_algo.advantages.rloo import Opo, Rloo, leave_one_out, length_weighted
from calibadv_algo.advantages.whitening import whiten, whiten_batch, whiten_tokens
from calibadv_algo.types import Group, Trajectory, Turn

REWARDS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(-2, 2), min_size=2, max_size=6)


def make_group(turns: Sequence[Sequence[tuple[float, int]]], name: str = "g") -> Group:
    """A group from reward and number of tokens of every turn."""
    return Group(
        tuple(
            Trajectory(
                group_id=name,
                task_id="t",
                prompt_ids=(0,),
                prompt_text="",
                turns=tuple(
                    Turn(
                        action_ids=(7,) * count,
                        action_text="",
                        logprobs=(0.0,) * count,
                        reward=reward,
                    )
                    for reward, count in each
                ),
            )
            for each in turns
        )
    )


def outcome_group(rewards: Sequence[float], lengths: Sequence[Sequence[int]]) -> Group:
    """A group whose last turns alone have rewards."""
    return make_group(
        [
            [(reward if index == len(row) - 1 else 0.0, count) for index, count in enumerate(row)]
            for reward, row in zip(rewards, lengths, strict=True)
        ]
    )


def no_scores(group: Group) -> np.ndarray:
    return np.full((len(group), group.max_turns), np.nan)


def counts_of(group: Group) -> np.ndarray:
    rows = [[len(turn.action_ids) for turn in each.turns] for each in group.trajectories]
    return np.array([row + [0] * (group.max_turns - len(row)) for row in rows], dtype=float)


GROUP = outcome_group([1.0, 0.0, 0.0], [[3, 2], [4], [1, 1, 4]])


# RLOO and OPO


@given(REWARDS)
def test_leave_one_out_is_the_distance_from_the_others_mean(rewards: list[float]) -> None:
    expected = [
        reward - sum(rewards[:i] + rewards[i + 1 :]) / (len(rewards) - 1)
        for i, reward in enumerate(rewards)
    ]
    np.testing.assert_allclose(leave_one_out(np.array(rewards)), expected, atol=1e-9)


@given(REWARDS, st.data())
def test_length_weighted_baseline(rewards: list[float], data: st.DataObject) -> None:
    size = len(rewards)
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=size, max_size=size))
    tokens = [reward for reward, n in zip(rewards, lengths, strict=True) for _ in range(n)]
    baseline = sum(tokens) / len(tokens)
    result = length_weighted(np.array(rewards), np.array(lengths, dtype=float))
    np.testing.assert_allclose(result, np.array(rewards) - baseline, atol=1e-9)


def test_equal_rewards_give_exact_zeros() -> None:
    same = np.array([0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2])
    assert not leave_one_out(same).any()
    assert not length_weighted(same, np.array([1.0, 3.0, 7.0])).any()


@pytest.mark.parametrize("estimator", [Rloo, Opo, ReinforcePlusPlusBaseline])
def test_a_group_of_one(estimator: Any) -> None:
    lone = outcome_group([0.7], [[2, 3]])
    np.testing.assert_array_equal(estimator()(lone, no_scores(lone)), [[0.7, 0.7]])
    assert not estimator(singleton="zero")(lone, no_scores(lone)).any()


def test_estimators_spread_over_turns_and_leave_no_turns_alone() -> None:
    np.testing.assert_allclose(
        Rloo()(GROUP, no_scores(GROUP)), [[1, 1, 0], [-0.5, 0, 0], [-0.5] * 3]
    )
    mean = 5 / 15
    np.testing.assert_allclose(
        Opo()(GROUP, no_scores(GROUP)), [[1 - mean] * 2 + [0], [-mean, 0, 0], [-mean] * 3]
    )
    np.testing.assert_array_equal(
        Reinforce()(GROUP, no_scores(GROUP)), [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    )


@pytest.mark.parametrize(
    "estimator", [Rloo(), Opo(), Reinforce(), ReinforcePlusPlus(), Gpg(), BatchScaledGrpo()]
)
def test_a_wrong_shape_is_refused(estimator: Any) -> None:
    with pytest.raises(ValueError, match="shape"):
        estimator(GROUP, np.zeros((3, 2)))
    assert estimator.required_info_keys == frozenset()


# Whitening


def whitened_by_loop(values: list[float], ddof: int, epsilon: float) -> list[float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - ddof)
    return [(value - mean) / math.sqrt(variance + epsilon) for value in values]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.sampled_from([(1, 1e-8), (0, 1e-3)]))
def test_whitening_is_the_loop(values: list[float], setting: tuple[int, float]) -> None:
    ddof, epsilon = setting
    expected = whitened_by_loop(values, ddof, epsilon)
    result = whiten(np.array(values), ddof=ddof, epsilon=epsilon)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=1, max_size=8),
)
def test_weights_are_repetitions(pairs: list[tuple[float, int]]) -> None:
    values = np.array([value for value, _ in pairs])
    weights = np.array([float(weight) for _, weight in pairs])
    repeated = np.repeat(values, weights.astype(int))
    expected = whiten(repeated)
    result = np.repeat(whiten(values, weights), weights.astype(int))
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_whitening_of_nothing_one_and_equal() -> None:
    assert whiten(np.zeros(0)).shape == (0,)
    np.testing.assert_array_equal(whiten(np.array([3.0])), [0.0])
    np.testing.assert_array_equal(whiten(np.full(3, 0.1), epsilon=0.0), [0.0] * 3)
    np.testing.assert_array_equal(whiten(np.array([1.0, 2.0]), np.zeros(2)), [0.0, 0.0])
    beside = whiten(np.array([0.0, 1e-12, 1.0]), np.array([1.0, 1.0, 0.0]), epsilon=0.0)
    np.testing.assert_allclose(beside[:2], [-(0.5**0.5), 0.5**0.5])
    assert whiten_tokens([]) == []
    assert whiten_batch([], []) == []
    parts = whiten_tokens([np.array([1.0]), np.zeros(0), np.array([3.0])])
    assert [len(part) for part in parts] == [1, 0, 1]
    np.testing.assert_allclose(np.concatenate(parts), [-0.5 * 2**0.5, 0.5 * 2**0.5], atol=1e-6)


# REINFORCE++


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=4))
def test_returns_that_skip_or_stop_at_observations(turns: list[list[float]]) -> None:
    gamma = 0.9
    tokens = [reward for turn in turns for reward in turn]
    ends = np.cumsum([len(turn) for turn in turns])

    def expected(stops: bool) -> list[float]:
        result = []
        for start in range(len(tokens)):
            end = next(int(e) for e in ends if e > start) if stops else len(tokens)
            result.append(sum(gamma ** (k - start) * tokens[k] for k in range(start, end)))
        return result

    rewards, lengths = np.array(tokens), [len(turn) for turn in turns]
    np.testing.assert_allclose(discounted_returns(rewards, gamma), expected(False), atol=1e-9)
    np.testing.assert_allclose(
        discounted_returns(rewards, gamma, lengths), expected(True), atol=1e-9
    )


def test_returns_need_fitting_turn_lengths() -> None:
    with pytest.raises(ValueError, match="add up to 3"):
        discounted_returns(np.zeros(3), 1.0, [1, 1])
    assert discounted_returns(np.zeros(0), 1.0, []).shape == (0,)


def test_a_turns_return_is_that_of_all_its_tokens() -> None:
    group = make_group([[(0.5, 3), (0.0, 2), (1.0, 4)], [(0.25, 2)]])
    np.testing.assert_array_equal(turn_returns(group), [[1.5, 1.0, 1.0], [0.25, 0, 0]])
    np.testing.assert_array_equal(turn_returns(group, "reset"), [[0.5, 0.0, 1.0], [0.25, 0, 0]])
    tokens = np.array([0, 0, 0.5, 0, 0, 0, 0, 0, 1.0])
    np.testing.assert_array_equal(discounted_returns(tokens), np.repeat([1.5, 1.0, 1.0], [3, 2, 4]))


def test_reinforce_plus_plus_whitens_over_the_batchs_tokens() -> None:
    groups = [GROUP, make_group([[(0.5, 2)], [(1.0, 1), (0.0, 3)]], "h")]
    estimator = ReinforcePlusPlus()
    raw = [estimator(group, no_scores(group)) for group in groups]
    counts = [counts_of(group) for group in groups]
    result = estimator.finish(raw, counts)
    tokens = np.concatenate(
        [
            np.repeat(matrix.ravel(), count.ravel().astype(int))
            for matrix, count in zip(raw, counts, strict=True)
        ]
    )
    white = np.concatenate(
        [
            np.repeat(matrix.ravel(), count.ravel().astype(int))
            for matrix, count in zip(result, counts, strict=True)
        ]
    )
    np.testing.assert_allclose(white, whitened_by_loop(tokens.tolist(), 1, 1e-8), atol=1e-9)
    assert [matrix.shape for matrix in result] == [(3, 3), (2, 2)]
    assert result[0][0, 2] == 0.0


def test_r1_searchers_form_of_the_baseline() -> None:
    estimator = ReinforcePlusPlusBaseline(ddof=0, epsilon=0.0)
    raw = estimator(GROUP, no_scores(GROUP))
    np.testing.assert_allclose(raw[0], [2 / 3, 2 / 3, 0])
    (result,) = estimator.finish([raw], [counts_of(GROUP)])
    tokens = np.repeat(result.ravel(), counts_of(GROUP).ravel().astype(int))
    assert tokens.mean() == pytest.approx(0.0, abs=1e-12)
    assert tokens.std() == pytest.approx(1.0)
    flat = outcome_group([0.3, 0.3], [[2], [5]])
    (zeros,) = estimator.finish([estimator(flat, no_scores(flat))], [counts_of(flat)])
    assert not zeros.any()


# Scales of the batch


def test_batch_scaled_by_hand() -> None:
    first, second = batch_scaled([np.array([1.0, 0.0]), np.array([0.5, 0.5])], epsilon=0.0)
    std = np.std([1.0, 0.0, 0.5, 0.5], ddof=1)
    np.testing.assert_allclose(first, np.array([0.5, -0.5]) / std)
    assert not second.any()
    np.testing.assert_allclose(batch_scaled([np.array([0.7])])[0], [0.7 / 1.0001])
    assert not batch_scaled([np.array([0.7])], singleton="zero")[0].any()
    assert not batch_scaled([np.array([0.7, 0.7])], epsilon=0.0)[0].any()
    assert batch_scaled([]) == []


def test_gpg_by_hand() -> None:
    first, second = gpg_scaled([np.array([1.0, 0.0]), np.array([0.0, 0.0])], f_norm=2.0)
    np.testing.assert_allclose(first, [4 * 0.5 / 2, -4 * 0.5 / 2])
    assert not second.any()
    assert not gpg_scaled([np.zeros(3)])[0].any()
    assert gpg_scaled([]) == []


@pytest.mark.parametrize("estimator", [BatchScaledGrpo(), Gpg()])
def test_batch_estimators_finish_what_they_began(estimator: Any) -> None:
    groups = [GROUP, make_group([[(0.5, 2)], [(1.0, 1), (0.5, 3)]], "h")]
    raw = [estimator(group, no_scores(group)) for group in groups]
    result = estimator.finish(raw, [counts_of(group) for group in groups])
    rewards = [np.array([1.0, 0.0, 0.0]), np.array([0.5, 1.5])]
    scaled = (
        batch_scaled(rewards) if isinstance(estimator, BatchScaledGrpo) else gpg_scaled(rewards)
    )
    for matrix, values, group in zip(result, scaled, groups, strict=True):
        np.testing.assert_allclose(matrix, np.where(counts_of(group) > 0, values[:, None], 0.0))


# Acceptable answers


def test_acceptable_answers_are_excused_or_counted_as_wrong() -> None:
    group = outcome_group([1.0, 1.0, 0.75, 0.0], [[2]] * 4)
    plain = Grpo()(group, no_scores(group))[:, 0]
    excused = AcceptableGrpo()(group, no_scores(group))[:, 0]
    np.testing.assert_array_equal(
        excused, [plain[0], plain[1], 0.0 if plain[2] < 0 else plain[2], plain[3]]
    )
    group = outcome_group([1.0, 1.0, 0.8], [[2]] * 3)
    plain = Grpo()(group, no_scores(group))[:, 0]
    np.testing.assert_array_equal(
        AcceptableGrpo()(group, no_scores(group))[:, 0], [plain[0], plain[1], 0.0]
    )
    std = np.std([1.0, 1.0, 0.8], ddof=1)
    zeroed = AcceptableGrpo(treatment="zero-reward")(group, no_scores(group))[:, 0]
    assert zeroed[2] == pytest.approx((0.0 - 2.8 / 3) / (std + 1e-6))
    strict = AcceptableGrpo(threshold=0.9)(group, no_scores(group))[:, 0]
    np.testing.assert_array_equal(strict, plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rloo(singleton="none"), "singleton must be raw or zero"),
        (lambda: ReinforcePlusPlus(observations="stop"), "observations must be skip or reset"),
        (lambda: ReinforcePlusPlus(ddof=2), "ddof must be 0 or 1"),
        (lambda: ReinforcePlusPlusBaseline(epsilon=-1), "epsilon must not be negative"),
        (lambda: BatchScaledGrpo(epsilon=0), "epsilon must be positive"),
        (lambda: Gpg(f_norm=0), "f_norm must be positive"),
        (lambda: AcceptableGrpo(treatment="x"), "treatment must be excuse or zero-reward"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
