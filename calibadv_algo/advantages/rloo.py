"""Baselines of a group other than its mean: RLOO leaves one out, OPO weighs by length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts, spread
from calibadv_algo.advantages.grpo import Singleton, group_normalized
from calibadv_algo.types import Group, group_rewards


def leave_one_out(
    rewards: Float[np.ndarray, " group"], *, singleton: Singleton = "raw"
) -> Float[np.ndarray, " group"]:
    """Compares each reward with the mean of the others.

    ``n / (n - 1) * (reward - mean)``, which is the reward minus the mean of the other
    ``n - 1``.

    **Source:** RLOO (arXiv 2402.14740); verl's ``compute_rloo_outcome_advantage``.

    **Differs:** rounding counts as 0, see
    :func:`~calibadv_algo.advantages.grpo.group_normalized`.

    Args:
        rewards: Returns of the trajectories of one group.
        singleton: What a group of one gets: its ``raw`` reward, as in verl, or ``zero``.

    Returns:
        One advantage a trajectory; zeros if all rewards are equal (a group of one apart).
    """
    size = len(rewards)
    deviations = group_normalized(rewards, normalization="none", singleton=singleton)
    return deviations if size == 1 else deviations * (size / (size - 1))


def length_weighted(
    rewards: Float[np.ndarray, " group"],
    lengths: Float[np.ndarray, " group"],
    *,
    singleton: Singleton = "raw",
) -> Float[np.ndarray, " group"]:
    """Compares each reward with the mean weighted by length.

    ``reward - sum(length * reward) / sum(length)``: the baseline of least variance if the
    squared gradient of a trajectory grows with its length.

    **Source:** OPO (arXiv 2505.23585); verl's ``compute_opo_outcome_advantage``.

    **Differs:** nothing beyond rounding: equal rewards give exact zeros.

    Args:
        rewards: Returns of the trajectories of one group.
        lengths: Number of sampled tokens of each, positive.
        singleton: What a group of one gets: its ``raw`` reward, as in verl, or ``zero``.

    Returns:
        One advantage a trajectory; zeros if all rewards are equal (a group of one apart).
    """
    if len(rewards) == 1:
        return rewards.copy() if singleton == "raw" else np.zeros(1)
    if np.all(rewards == rewards[0]):
        return np.zeros_like(rewards)
    return rewards - math.fsum(lengths * rewards) / math.fsum(lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBaseline(AdvantageEstimator):
    """Base of estimators whose advantage is a trajectory's reward minus a baseline.

    Attributes:
        singleton: What a group of one gets: its ``raw`` reward, or ``zero``.
    """

    singleton: Singleton = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rloo(OutcomeBaseline):
    """RLOO's advantage: a trajectory's reward minus the mean of its siblings'."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Reward minus baseline for every turn; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        return spread(leave_one_out(group_rewards(group), singleton=self.singleton), counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opo(OutcomeBaseline):
    """OPO's advantage: a trajectory's reward minus the group's mean by length."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Reward minus baseline for every turn; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        advantages = length_weighted(
            group_rewards(group), counts.sum(axis=1), singleton=self.singleton
        )
        return spread(advantages, counts)
