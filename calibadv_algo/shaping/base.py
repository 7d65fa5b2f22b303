"""What stands between the episodes as they were played and those that are learnt from."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from calibadv_algo.types import Group


class RewardShaping(Protocol):
    """Gives the turns of a group other rewards, from facts that were recorded."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        ...

    def __call__(self, group: Group) -> Group:
        """Returns the same trajectories in the same order; nothing but rewards differs."""
        ...


@runtime_checkable
class ResamplingFilter(Protocol):
    """A filter that wants more questions to be played in place of the groups that it drops."""

    @property
    def max_batches(self) -> int:
        """Most collections of an update, at least 1."""
        ...

    @property
    def on_exhaust(self) -> Literal["train", "raise"]:
        """What happens if the last of them leaves too few groups."""
        ...


def turn_rewards(group: Group) -> Float[np.ndarray, "group turn"]:
    """Returns the reward of every turn, 0 where there is no turn."""
    rewards = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards[row, : len(trajectory.turns)] = [turn.reward for turn in trajectory.turns]
    return rewards


def with_rewards(group: Group, rewards: Float[np.ndarray, "group turn"]) -> Group:
    """The same group with other rewards.

    Args:
        group: Trajectories of one question.
        rewards: Reward of every turn; entries beyond a trajectory's turns are not read.

    Returns:
        A new group.

    Raises:
        ValueError: if the shape is another or a reward is not finite.
    """
    if rewards.shape != (len(group), group.max_turns):
        raise ValueError(
            f"rewards must have the group's shape {(len(group), group.max_turns)} "
            f"(trajectories, turns), got {rewards.shape}"
        )
    trajectories = []
    for trajectory, row in zip(group.trajectories, rewards.tolist(), strict=True):
        values = row[: len(trajectory.turns)]
        if not np.isfinite(values).all():
            raise ValueError(
                f"rewards must be finite, got {values} for task {trajectory.task_id!r}"
            )
        turns = tuple(
            replace(turn, reward=value)
            for turn, value in zip(trajectory.turns, values, strict=True)
        )
        trajectories.append(replace(trajectory, turns=turns))
    return Group(tuple(trajectories))
