"""The nouns: what a rollout records, and nothing that can be derived from it.

Token ids are kept as they were sampled. Which tokens were sampled and which were observed is
known by construction: actions and observations are separate fields and are joined only in
``batching.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One action and what followed.

    Attributes:
        action_ids: Token ids as sampled, at least one.
        action_text: What the environment was given.
        logprobs: Log-probability of each sampled token under the sampling policy at the
            sampling temperature, natural log; as long as ``action_ids``.
        observation_ids: Tokens of the observation that followed; empty after the last turn.
        observation_text: Its text.
        reward: What ``env.step`` returned.
        info: The environment's facts about this turn (``calibadv_env.info.StepInfo`` for the
            search environments, whatever it gives for others).
        is_cut: Whether the action was cut off by the token limit.
        context_ids: All tokens that the action was sampled from, where they do not go on from the
            turn before; None where they do, and for the first turn.
    """

    action_ids: tuple[int, ...]
    action_text: str
    logprobs: tuple[float, ...]
    observation_ids: tuple[int, ...] = ()
    observation_text: str = ""
    reward: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    is_cut: bool = False
    context_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses a turn without tokens and log-probs of another length."""
        if not self.action_ids:
            raise ValueError("action_ids must not be empty")
        if len(self.logprobs) != len(self.action_ids):
            raise ValueError(
                f"logprobs must be as long as action_ids ({len(self.action_ids)}), "
                f"got {len(self.logprobs)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One finished episode.

    Attributes:
        group_id: Trajectories of one group share it; unique per question instance.
        task_id: Which task was attempted.
        prompt_ids: Tokens of the first observation.
        prompt_text: Its text.
        turns: In order, at least one.
        is_terminated: Whether the task came to its end.
        is_truncated: Whether the budget ran out.
        reset_info: What ``env.reset`` reported.
        policy_version: Number of updates behind the policy that sampled it.
        seed: Seed of the episode's sampling.
    """

    group_id: str
    task_id: str
    prompt_ids: tuple[int, ...]
    prompt_text: str
    turns: tuple[Turn, ...]
    is_terminated: bool = True
    is_truncated: bool = False
    reset_info: Mapping[str, Any] = field(default_factory=dict)
    policy_version: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses an episode without turns."""
        if not self.turns:
            raise ValueError(f"trajectory of task {self.task_id!r} has no turns")

    @property
    def reward(self) -> float:
        """Undiscounted return: the sum of the turns' rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def num_tokens(self) -> int:
        """Length in tokens: prompt, actions and observations, each once."""
        return len(self.prompt_ids) + sum(
            len(turn.action_ids) + len(turn.observation_ids) for turn in self.turns
        )

    @property
    def num_action_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(len(turn.action_ids) for turn in self.turns)

    @property
    def final_info(self) -> Mapping[str, Any]:
        """The environment's facts about the last turn."""
        return self.turns[-1].info


@dataclass(frozen=True, slots=True)
class Segment:
    """Turns of an episode that were sampled from one growing context.

    Attributes:
        context_ids: What the first of them was sampled from.
        turns: In order, at least one.
    """

    context_ids: tuple[int, ...]
    turns: tuple[Turn, ...]

    @property
    def token_ids(self) -> list[int]:
        """Context, actions and the observations between them."""
        return [*self.context_before(len(self.turns) - 1), *self.turns[-1].action_ids]

    @property
    def num_tokens(self) -> int:
        """Number of :attr:`token_ids`."""
        count = sum(len(turn.action_ids) + len(turn.observation_ids) for turn in self.turns)
        return len(self.context_ids) + count - len(self.turns[-1].observation_ids)

    def context_before(self, place: int) -> tuple[int, ...]:
        """What one of its turns was sampled from."""
        parts = ((*each.action_ids, *each.observation_ids) for each in self.turns[:place])
        return (*self.context_ids, *chain.from_iterable(parts))


def segments(trajectory: Trajectory) -> list[Segment]:
    """Splits an episode where the context of a turn does not go on from the turn before.

    Returns:
        One segment, unless thoughts of earlier turns were stripped.
    """
    starts = [i for i, turn in enumerate(trajectory.turns) if i == 0 or turn.context_ids]
    found = []
    for start, end in zip(starts, [*starts[1:], len(trajectory.turns)], strict=True):
        first = trajectory.turns[start].context_ids or trajectory.prompt_ids
        found.append(Segment(first, trajectory.turns[start:end]))
    return found


def context_of(trajectory: Trajectory, place: int) -> tuple[int, ...]:
    """Tokens that a turn was sampled from; behind the last turn, what stands there."""
    start = max(
        (i for i, turn in enumerate(trajectory.turns[: place + 1]) if turn.context_ids), default=0
    )
    first = trajectory.turns[start].context_ids or trajectory.prompt_ids
    return Segment(first, trajectory.turns[start:]).context_before(place - start)


@dataclass(frozen=True, slots=True)
class Group:
    """Trajectories of one question instance, in the order in which they were started.

    Raises:
        ValueError: if it is empty or mixes group ids.
    """

    trajectories: tuple[Trajectory, ...]

    def __post_init__(self) -> None:
        """Checks that the trajectories belong together."""
        if not self.trajectories:
            raise ValueError("a group must not be empty")
        ids = {trajectory.group_id for trajectory in self.trajectories}
        if len(ids) > 1:
            raise ValueError(f"a group must have one group_id, got {sorted(ids)}")

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def group_id(self) -> str:
        """The shared id."""
        return self.trajectories[0].group_id

    @property
    def max_turns(self) -> int:
        """Largest number of turns in the group."""
        return max(len(trajectory.turns) for trajectory in self.trajectories)


def group_rewards(group: Group) -> Float[np.ndarray, " group"]:
    """Returns the undiscounted return of each trajectory.

    Raises:
        ValueError: if one of them is NaN or infinite.
    """
    rewards = [trajectory.reward for trajectory in group.trajectories]
    for index, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(
                f"reward of trajectory {index} of group {group.group_id!r} must be finite, "
                f"got {reward}"
            )
    return np.array(rewards, dtype=np.float64)


def token_counts(group: Group) -> Float[np.ndarray, "group turn"]:
    """Returns the number of sampled tokens of every turn, 0 where there is no turn."""
    rows = [[len(turn.action_ids) for turn in each.turns] for each in group.trajectories]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.float64)
