"""Groups whose turns' infos say how likely the accepted answer was before them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from calibadv_algo.credit.beliefs import ANSWER_LOGPROBS, TAGGED_LOGPROBS
from calibadv_algo.types import Group, Trajectory, Turn


def scored_trajectory(
    tokens: Sequence[int],
    gains: Sequence[float],
    outcome: float,
    *,
    observations: Sequence[int] | None = None,
    is_log: bool = False,
    rewards: Sequence[float] | None = None,
    name: str = "g",
    reset_info: Mapping[str, Any] | None = None,
) -> Trajectory:
    """An episode with these gains in belief, from a level that keeps probabilities below 1."""
    levels = [0.0]
    for gain in gains:
        levels.append(levels[-1] + gain)
    shift = 0.0 if is_log else 0.5 - min(levels) + 1e-3
    logprobs = [each if is_log else math.log(each + shift) for each in levels]
    assert len(list(pairwise(levels))) == len(gains) == len(tokens) - 1
    own = [*(rewards or [0.0] * len(gains)), outcome]
    turns = tuple(
        Turn(
            action_ids=(7,) * count,
            action_text="",
            logprobs=(0.0,) * count,
            observation_ids=(8,)
            * (observations[place] if observations and place < len(gains) else 0),
            reward=own[place],
            info={
                ANSWER_LOGPROBS: (logprobs[place],),
                TAGGED_LOGPROBS: (logprobs[place],),
            },
        )
        for place, count in enumerate(tokens)
    )
    return Trajectory(
        group_id=name,
        task_id="t",
        prompt_ids=(0,),
        prompt_text="",
        turns=turns,
        reset_info=dict(reset_info or {}),
    )


def scored_group(members: Sequence[Mapping[str, Any]], *, is_log: bool = False) -> Group:
    """A group of the recorded form: tokens, observations, gains and an outcome each."""
    return Group(
        tuple(
            scored_trajectory(
                each["tokens"],
                each["gains"],
                each["outcome"],
                observations=each["obs"],
                is_log=is_log,
            )
            for each in members
        )
    )
