"""Base classes of what stands between the episodes played and those that are learnt from.

There are three kinds. A *filter* takes groups or trajectories away before anything is compared, so
they count nowhere. A *shaping* changes rewards. A *loss mask* leaves a trajectory in its group,
where it counts in the mean and the deviation of the rewards, and keeps its tokens out of the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.credit.beliefs import AnswerBelief
from calibadv_algo.types import Group
from calibadv_env.common.checks import Checked

OnExhaust = Literal["train", "raise"]
"""Reaction to used-up batches: train on what there is, or stop with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingPart(Checked):
    """Common base of filters, shapings and loss masks."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset()

    @property
    def answer_belief(self) -> AnswerBelief | None:
        """The belief in the accepted answers that the turns' infos must hold; None for none.

        Filters look at episodes before they are scored and cannot have one.
        """
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardShaping(ShapingPart, ABC):
    """Base of shapings: other rewards for the turns of a group, from recorded facts."""

    @abstractmethod
    def __call__(self, group: Group) -> Group:
        """Group of the same trajectories in the same order, with other rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter(ShapingPart, ABC):
    """Base of filters, which take groups, or trajectories of groups, out of an update."""

    @property
    def max_batches(self) -> int:
        """Most collections of an update; above 1 dropped groups are replaced by more questions."""
        return 1

    @property
    def on_exhaust(self) -> OnExhaust:
        """Reaction to too few groups after the last collection."""
        return "train"

    @abstractmethod
    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Remaining groups, in the order given; a group without trajectories is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMask(ShapingPart, ABC):
    """Base of loss masks, which keep trajectories of a group out of the loss."""

    @abstractmethod
    def __call__(self, group: Group) -> Bool[np.ndarray, " group"]:
        """True for each trajectory that is trained on."""


def turn_rewards(group: Group) -> Float[np.ndarray, "group turn"]:
    """Reward of every turn, 0 where there is no turn."""
    rewards = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards[row, : len(trajectory.turns)] = [turn.reward for turn in trajectory.turns]
    return rewards


def with_rewards(group: Group, rewards: Float[np.ndarray, "group turn"]) -> Group:
    """The group with other rewards; entries beyond a trajectory's turns are not read.

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
