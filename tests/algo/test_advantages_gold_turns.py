"""The control that must win: every search that finds gold is paid."""

from __future__ import annotations

import numpy as np
import pytest

from calibadv_algo.advantages.gold_turns import GoldTurns
from calibadv_algo.advantages.turn_baseline import TurnBaseline
from calibadv_algo.types import Group, Trajectory, Turn


def _trajectory(reward: float, num_turns: int) -> Trajectory:
    turns = tuple(
        Turn(
            action_ids=(1, 2),
            action_text="",
            logprobs=(0.0, 0.0),
            info={},
            reward=reward if place == num_turns - 1 else 0.0,
        )
        for place in range(num_turns)
    )
    return Trajectory(
        group_id="g", task_id="t", prompt_ids=(1,), prompt_text="", turns=turns, reset_info={}
    )


GROUP = Group((_trajectory(1.0, 3), _trajectory(0.0, 2)))


def test_good_searches_are_paid_by_hand() -> None:
    good = np.array([[1.0, 0.4, np.nan], [1e-6, np.nan, np.nan]])
    # To go: 1.5, 1.25, 1 against 0, 0. The third turn is alone: the other's whole return.
    expected = [[1.5, 1.25, 1.0], [-1.5, -1.25, 0.0]]
    np.testing.assert_allclose(GoldTurns(worth=0.25)(GROUP, good), expected)


def test_without_good_searches_the_outcome_is_left() -> None:
    unscored = np.full((2, 3), np.nan)
    np.testing.assert_array_equal(GoldTurns()(GROUP, unscored), TurnBaseline()(GROUP, unscored))


def test_a_group_that_failed_alike_still_teaches() -> None:
    failed = Group((_trajectory(0.0, 2), _trajectory(0.0, 2)))
    found = GoldTurns()(failed, np.array([[1.0, np.nan], [1e-6, np.nan]]))
    assert found[0, 0] > 0 > found[1, 0]
    assert not found[:, 1].any()


def test_a_search_is_worth_something() -> None:
    with pytest.raises(ValueError, match="worth must be positive"):
        GoldTurns(worth=0.0)
