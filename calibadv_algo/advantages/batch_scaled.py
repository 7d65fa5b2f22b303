"""Advantages with a scale that the whole batch decides: GRPO by the batch's deviation, GPG.

A group alone cannot tell its scale, so the call returns the plain rewards and ``finish``, which
sees all groups, does the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Lt

from calibadv_algo.advantages.base import AnyMatrix, AnyVector, Matrix, outcomes, spread
from calibadv_algo.advantages.grpo import Singleton, group_normalized
from calibadv_algo.advantages.rloo import OutcomeBaseline
from calibadv_algo.types import Group
from calibadv_env.common.checks import POSITIVE


def batch_scaled(
    rewards: Sequence[AnyVector],
    *,
    epsilon: float = 1e-4,
    singleton: Singleton = "raw",
) -> list[AnyVector]:
    """Compares rewards with their group, in units of the batch's standard deviation.

    ``(reward - group mean) / (std over all rewards + epsilon)``, sample deviation.

    **Source:** TRL's ``scale_rewards="batch"`` (epsilon 1e-4); CalibAdv's code,
    ``use_global_std`` (epsilon 1e-6).

    **Differs:** a batch of one trajectory has deviation 1, where the original has NaN.

    Args:
        rewards: Returns of each group's trajectories.
        epsilon: Added to the deviation, not negative.
        singleton: What a group of one starts from: its ``raw`` reward, or ``zero``.

    Returns:
        One vector a group; zeros for groups of equal rewards (groups of one apart).
    """
    if not rewards:
        return []
    everything = np.concatenate(list(rewards))
    std = float(np.std(everything, ddof=1)) if len(everything) > 1 else 1.0
    scale = std + epsilon
    centred = [
        group_normalized(group, normalization="none", singleton=singleton) for group in rewards
    ]
    return [group / scale if scale > 0 else np.zeros_like(group) for group in centred]


def gpg_scaled(
    rewards: Sequence[AnyVector],
    *,
    f_norm: float = 1.0,
    singleton: Singleton = "raw",
) -> list[AnyVector]:
    """Scales group-centred rewards up by the share of trajectories that earned nothing.

    ``(B / number of nonzero rewards) * (reward - group mean) / f_norm`` with ``B``
    trajectories in the batch.

    **Source:** GPG (arXiv 2504.02546); verl's ``compute_gpg_outcome_advantage``.

    **Differs:** nothing beyond rounding.

    Args:
        rewards: Returns of each group's trajectories.
        f_norm: What everything is divided by, positive.
        singleton: What a group of one starts from: its ``raw`` reward, or ``zero``.

    Returns:
        One vector a group; zeros for groups of equal rewards (groups of one apart).
    """
    size = sum(len(group) for group in rewards)
    nonzero = sum(int(np.count_nonzero(group)) for group in rewards)
    factor = size / max(nonzero, 1) / f_norm
    return [
        group_normalized(group, normalization="none", singleton=singleton) * factor
        for group in rewards
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScale(OutcomeBaseline, ABC):
    """Base of estimators that compare trajectories with a scale of the whole batch."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Rewards of the trajectories, from which :meth:`finish` makes advantages."""
        return outcomes(group, correctness)

    @abstractmethod
    def scaled(self, rewards: Sequence[AnyVector]) -> list[AnyVector]:
        """Advantages of the trajectories of every group, from their rewards."""

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Scaled advantages of all groups."""
        scaled = self.scaled([matrix[:, 0] for matrix in advantages])
        return [spread(row, count) for row, count in zip(scaled, counts, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScaledGrpo(BatchScale):
    """GRPO in units of the whole batch's standard deviation, not the group's.

    Attributes:
        epsilon: Added to the deviation.
    """

    epsilon: Annotated[float, POSITIVE] = 1e-4

    def scaled(self, rewards: Sequence[AnyVector]) -> list[AnyVector]:
        """Applies :func:`batch_scaled` with these settings."""
        return batch_scaled(rewards, epsilon=self.epsilon, singleton=self.singleton)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpg(BatchScale):
    """GPG's advantage.

    Attributes:
        f_norm: What everything is divided by.
    """

    f_norm: Annotated[float, POSITIVE, Lt(math.inf)] = 1.0

    def scaled(self, rewards: Sequence[AnyVector]) -> list[AnyVector]:
        """Applies :func:`gpg_scaled` with these settings."""
        return gpg_scaled(rewards, f_norm=self.f_norm, singleton=self.singleton)
