"""The control that must lose: GRPO with the sign of searches turned round."""

from __future__ import annotations

import numpy as np
import pytest

from calibadv_algo.advantages.flipped import FlippedSearches, flip
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory, Turn


def _trajectory(reward: float, *kinds: str) -> Trajectory:
    turns = tuple(
        Turn(
            action_ids=(1, 2),
            action_text="",
            logprobs=(0.0, 0.0),
            info={"action": kind} if kind else {},
            reward=reward if place == len(kinds) - 1 else 0.0,
        )
        for place, kind in enumerate(kinds)
    )
    return Trajectory(
        group_id="g", task_id="t", prompt_ids=(1,), prompt_text="", turns=turns, reset_info={}
    )


def test_the_sign_turns_round_on_searches_alone() -> None:
    group = Group(
        (_trajectory(1.0, "search", "search", "answer"), _trajectory(0.0, "search", "answer"))
    )
    unscored = np.full((2, 3), np.nan)
    grpo, flipped = Grpo()(group, unscored), FlippedSearches()(group, unscored)
    np.testing.assert_array_equal(flipped, grpo * [[-1, -1, 1], [-1, 1, 1]])
    assert flipped[0, 0] < 0 < grpo[0, 0]


def test_a_search_that_ends_an_episode_is_no_search() -> None:
    group = Group((_trajectory(1.0, "search"), _trajectory(0.0, "answer")))
    unscored = np.full((2, 1), np.nan)
    np.testing.assert_array_equal(FlippedSearches()(group, unscored), Grpo()(group, unscored))


def test_environments_without_actions_are_refused() -> None:
    with pytest.raises(MissingInfoKeyError, match="FlippedSearches"):
        FlippedSearches()(Group((_trajectory(1.0, "", ""),)), np.full((1, 2), np.nan))


def test_flipping_twice_changes_nothing() -> None:
    values, mask = np.array([[1.5, -2.0]]), np.array([[True, False]])
    np.testing.assert_array_equal(flip(flip(values, mask), mask), values)
