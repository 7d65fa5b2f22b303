"""Episodes as other trainers hold them: a prompt, and a completion with a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibadv_algo.types import Trajectory, Turn, segments

Spans = Sequence[tuple[int, int]]
"""First token of each turn within a completion, and the one behind its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Tokens of an episode after its prompt, actions and observations in turn.

    Attributes:
        ids: Token ids.
        logprobs: Log-probabilities as sampled; 0 for observed tokens.
        mask: 1 for sampled tokens, 0 for observed ones.
        spans: Where the turns' actions lie.
    """

    ids: list[int]
    logprobs: list[float]
    mask: list[int]
    spans: list[tuple[int, int]]


def completion_of(episode: Trajectory) -> Completion:
    """Joins the turns of an episode.

    An observation after the last action is left out, because nothing is predicted from it.

    Raises:
        ValueError: if the episode has several segments: one row cannot hold their contexts.
    """
    if len(segments(episode)) > 1:
        raise ValueError(
            "earlier_thoughts must be keep: a trainer that takes one completion an episode cannot "
            "see turns whose contexts do not go on"
        )
    result = Completion(ids=[], logprobs=[], mask=[], spans=[])
    last = len(episode.turns) - 1
    for place, turn in enumerate(episode.turns):
        observed = turn.observation_ids if place < last else ()
        start, length = len(result.ids), len(turn.action_ids)
        result.spans.append((start, start + length))
        result.ids.extend((*turn.action_ids, *observed))
        result.logprobs.extend((*turn.logprobs, *([0.0] * len(observed))))
        result.mask.extend([1] * length + [0] * len(observed))
    return result


def trajectory_of(
    spans: Spans, facts: Sequence[Mapping[str, Any]], rewards: Sequence[float]
) -> Trajectory:
    """Makes the trajectory of a row whose turns have lengths, facts and rewards; token ids are 0.

    Args:
        spans: Where the turns lie; at least one.
        facts: ``StepInfo`` of each turn.
        rewards: Reward of each turn.
    """
    lengths = [end - start for start, end in spans]
    turns = tuple(
        Turn(
            action_ids=(0,) * length,
            action_text="",
            logprobs=(0.0,) * length,
            reward=reward,
            info=info,
        )
        for length, info, reward in zip(lengths, facts, rewards, strict=True)
    )
    task = str(facts[0].get("task_id", ""))
    return Trajectory(group_id="", task_id=task, prompt_ids=(), prompt_text="", turns=turns)


def spread_turns(
    spans: Sequence[Spans], values: Sequence[Float[np.ndarray, " turn"]], like: Tensor
) -> Float[Tensor, "row token"]:
    """Puts a value of each turn onto the turn's tokens.

    Args:
        spans: Where the turns of each row lie.
        values: One value a turn for each row; none for a row that takes no part.
        like: A tensor with the shape, type and device of the result, which is 0 elsewhere.
    """
    result = torch.zeros_like(like)
    for place, (row, turns) in enumerate(zip(spans, values, strict=True)):
        for (start, end), value in zip(row, turns, strict=False):
            result[place, start:end] = float(value)
    return result
