"""GAE on tokens and on two levels: definitions as oracles, numbers worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.advantages.base import (
    ValueAdvantage,
)
from calibadv_algo.advantages.bilevel_gae import BiLevelGae, bilevel_gae
from calibadv_algo.advantages.gae import PpoGae, gae
from calibadv_algo.types import Group, Trajectory, Turn

UNIT = st.floats(0, 1)
NUMBERS = st.floats(-2, 2)
TURNS = st.lists(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=4
)


def trajectory(lengths: list[int]) -> Trajectory:
    turns = tuple(
        Turn(action_ids=(1,) * length, action_text="", logprobs=(0.0,) * length)
        for length in lengths
    )
    return Trajectory(group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=turns)


def sum_of_deltas(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> list[float]:
    """The definition: a discounted sum of temporal differences."""
    following = [*values[1:], 0.0][: len(values)]
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, following, strict=True)]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8), UNIT, UNIT)
def test_gae_is_its_definition(tokens: list[tuple[float, float]], gamma: float, lam: float) -> None:
    rewards, values = [r for r, _ in tokens], [v for _, v in tokens]
    advantages, returns = gae(np.array(rewards), np.array(values), gamma=gamma, lam=lam)
    np.testing.assert_allclose(advantages, sum_of_deltas(rewards, values, gamma, lam), atol=1e-9)
    np.testing.assert_allclose(returns, advantages + np.array(values), atol=1e-12)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_without_discounts_it_is_reward_to_go_minus_value(
    tokens: list[tuple[float, float]],
) -> None:
    rewards, values = np.array([r for r, _ in tokens]), np.array([v for _, v in tokens])
    advantages, returns = gae(rewards, values)
    to_go = np.cumsum(rewards[::-1])[::-1]
    np.testing.assert_allclose(advantages, to_go - values, atol=1e-9)
    np.testing.assert_allclose(returns, to_go, atol=1e-9)


def test_gae_by_hand() -> None:
    advantages, returns = gae(
        np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.5]), gamma=0.5, lam=0.5
    )
    # deltas: 0.125 - 0.5, 0.25 - 0.25, 1 - 0.5
    np.testing.assert_allclose(advantages, [-0.375 + 0.0625 * 0.5, 0.125, 0.5])
    np.testing.assert_allclose(returns, [0.15625, 0.375, 1.0])
    with pytest.raises(ValueError, match="values must have 2"):
        gae(np.zeros(2), np.zeros(3))


def bilevel_by_loop(
    turns: list[list[tuple[float, float]]], gamma: float, lam: float, turn_gamma: float
) -> list[float]:
    """Two nested definitions, turn by turn."""
    last = [turn[-1] for turn in turns]
    high = sum_of_deltas([r for r, _ in last], [v for _, v in last], turn_gamma, lam)
    result = []
    for turn, advantage in zip(turns, high, strict=True):
        rewards = [r for r, _ in turn[:-1]] + [advantage + turn[-1][1]]
        result += sum_of_deltas(rewards, [v for _, v in turn], gamma, lam)
    return result


@given(TURNS, UNIT, UNIT, UNIT)
def test_bilevel_gae_is_two_nested_ones(
    turns: list[list[tuple[float, float]]], gamma: float, lam: float, turn_gamma: float
) -> None:
    rewards = np.array([r for turn in turns for r, _ in turn])
    values = np.array([v for turn in turns for _, v in turn])
    lengths = [len(turn) for turn in turns]
    advantages, returns = bilevel_gae(
        rewards, values, lengths, gamma=gamma, lam=lam, turn_gamma=turn_gamma
    )
    expected = bilevel_by_loop(turns, gamma, lam, turn_gamma)
    np.testing.assert_allclose(advantages, expected, atol=1e-9)
    np.testing.assert_allclose(returns, advantages + values, atol=1e-12)


def test_turns_without_a_reward_are_still_turns() -> None:
    values = np.array([0.5, 0.25, 0.5, 0.75])
    rewards = np.array([0.0, 0.0, 0.0, 0.0])
    advantages, returns = bilevel_gae(rewards, values, [2, 2], turn_gamma=0.5)
    # The second turn's target is 0, the first one's 0.5 * 0 + nothing: rewards to go are 0.
    np.testing.assert_allclose(returns, [0.0] * 4, atol=1e-12)
    np.testing.assert_allclose(advantages, -values)
    merged, _ = bilevel_gae(np.array([0.0, 1.0, 0.0, 1.0]), values, [4], turn_gamma=0.5)
    apart, _ = bilevel_gae(np.array([0.0, 1.0, 0.0, 1.0]), values, [2, 2], turn_gamma=0.5)
    assert merged[0] != pytest.approx(apart[0])


@pytest.mark.parametrize("lengths", [[1, 1], [3, 0], [2, 2]])
def test_bilevel_turn_lengths_must_fit(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="turn_lengths must be positive and add up to 3"):
        bilevel_gae(np.zeros(3), np.zeros(3), lengths)


def test_turns_have_no_advantages_without_a_critic() -> None:
    for estimator in (PpoGae(), BiLevelGae()):
        assert isinstance(estimator, ValueAdvantage)
        with pytest.raises(TypeError, match="needs the values of a critic"):
            estimator(Group((trajectory([1]),)), np.zeros((1, 1)))


def test_types_compute_what_the_functions_do() -> None:
    rewards, values = np.array([0.0, 0.5, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    episode = trajectory([2, 2])
    ppo = PpoGae(gamma=0.9, lam=0.8).token_advantages(episode, rewards, values)
    np.testing.assert_array_equal(ppo, gae(rewards, values, gamma=0.9, lam=0.8))
    two = BiLevelGae(gamma=0.9, lam=0.8, turn_gamma=0.7).token_advantages(episode, rewards, values)
    np.testing.assert_array_equal(
        two, bilevel_gae(rewards, values, [2, 2], gamma=0.9, lam=0.8, turn_gamma=0.7)
    )


@pytest.mark.parametrize("kind", [PpoGae, BiLevelGae])
def test_whitening_is_over_the_batch_or_not_at_all(kind: Any) -> None:
    parts = [np.array([1.0, 2.0]), np.array([6.0])]
    white = np.concatenate(kind().finish_tokens(parts))
    assert white.mean() == pytest.approx(0.0, abs=1e-12)
    assert white.std(ddof=1) == pytest.approx(1.0)
    for kept, given_part in zip(kind(whitening="none").finish_tokens(parts), parts, strict=True):
        np.testing.assert_array_equal(kept, given_part)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PpoGae(gamma=1.1), "gamma must be in"),
        (lambda: PpoGae(lam=-0.1), "lam must be in"),
        (lambda: PpoGae(whitening="group"), "whitening must be batch or none"),
        (lambda: BiLevelGae(turn_gamma=2), "turn_gamma must be in"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
