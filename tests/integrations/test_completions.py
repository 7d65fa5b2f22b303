"""Episodes as completions and rows as trajectories, by hand; needs no other trainer."""

from __future__ import annotations

import numpy as np
import torch

from calibadv_algo.integrations.completions import completion_of, spread_turns, trajectory_of
from calibadv_algo.types import Trajectory, Turn


def turn(action: tuple[int, ...], observed: tuple[int, ...]) -> Turn:
    return Turn(
        action_ids=action,
        action_text="",
        logprobs=tuple(-0.5 * token for token in action),
        observation_ids=observed,
        info={"task_id": "t"},
    )


EPISODE = Trajectory(
    group_id="g",
    task_id="t",
    prompt_ids=(9,),
    prompt_text="",
    turns=(turn((1, 2), (7,)), turn((3,), (7, 8)), turn((4, 5), (6,))),
)


def test_turns_and_observations_are_joined_without_the_last_observation() -> None:
    found = completion_of(EPISODE)
    assert found.ids == [1, 2, 7, 3, 7, 8, 4, 5]
    assert found.mask == [1, 1, 0, 1, 0, 0, 1, 1]
    assert found.logprobs == [-0.5, -1.0, 0, -1.5, 0, 0, -2.0, -2.5]
    assert found.spans == [(0, 2), (3, 4), (6, 8)]


def test_a_row_becomes_a_trajectory_of_the_same_shape() -> None:
    spans = completion_of(EPISODE).spans
    found = trajectory_of(spans, [each.info for each in EPISODE.turns], [0.0, 0.5, 1.0])
    assert [len(each.action_ids) for each in found.turns] == [2, 1, 2]
    assert [each.reward for each in found.turns] == [0.0, 0.5, 1.0]
    assert (found.task_id, found.reward) == ("t", 1.5)


def test_each_turn_has_its_value_on_its_own_tokens() -> None:
    spans = completion_of(EPISODE).spans
    like = torch.empty(2, 9, dtype=torch.float64)
    found = spread_turns([spans, spans], [np.array([1.0, -2.0, 3.0]), np.zeros(0)], like)
    assert found.tolist() == [[1, 1, 0, -2, 0, 0, 3, 3, 0], [0] * 9]
    assert found.dtype == torch.float64
