"""GRPO: a trajectory's reward relative to its group, the same for all of its turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts, spread
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import POSITIVE

Normalization = Literal["group", "none"]
"""``group`` divides by the group's standard deviation; ``none`` does not (Dr. GRPO)."""

Singleton = Literal["raw", "zero"]
"""Advantage of a group of one: its reward as it is, or nothing."""

_ROUNDING = 1e-12


def group_normalized(
    rewards: Float[np.ndarray, " group"],
    *,
    epsilon: float = 1e-6,
    normalization: Normalization = "group",
    singleton: Singleton = "raw",
) -> Float[np.ndarray, " group"]:
    """Compares each reward with its group.

    ``(reward - mean) / (std + epsilon)`` with the sample standard deviation (n - 1); with
    ``normalization="none"`` just ``reward - mean``.

    **Source:** GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.2); Dr. GRPO
    (arXiv 2503.20783) for ``none``; epsilon and groups of one as in verl.

    **Differs:** deviations below 1e-12 of the largest reward are rounding and count as 0, so
    that groups of equal rewards give exact zeros and no trajectory gets a sign by accident.

    Args:
        rewards: Returns of the trajectories of one group.
        epsilon: Added to the standard deviation, not negative.
        normalization: Divisor: the deviation, or none.
        singleton: What a group of one gets. ``raw`` takes mean 0 and deviation 1, as verl
            does, so that its advantage is about its reward.

    Returns:
        One advantage a trajectory: zeros if all rewards are equal (a group of one apart).
    """
    values = rewards.tolist()
    if len(values) == 1:
        deviations, std = (values if singleton == "raw" else [0.0]), 1.0
    else:
        mean = math.fsum(values) / len(values)
        rounding = _ROUNDING * max(map(abs, values))
        # Comparisons with NaN are false: it passes on here, where `> rounding` would make it 0.
        deviations = [0.0 if abs(value - mean) <= rounding else value - mean for value in values]
        std = math.sqrt(math.fsum(d * d for d in deviations) / (len(values) - 1))
    scale = std + epsilon if normalization == "group" else 1.0
    return np.array(deviations) / scale


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRelative(AdvantageEstimator):
    """Base of GRPO and of the estimators that start from it.

    Attributes:
        epsilon: Added to the standard deviation.
        normalization: ``group`` for GRPO, ``none`` for Dr. GRPO.
        singleton: What a group of one gets to start with: its ``raw`` reward, or ``zero``.
    """

    epsilon: Annotated[float, POSITIVE] = 1e-6
    normalization: Normalization = "group"
    singleton: Singleton = "raw"

    def group_relative(self, group: Group, counts: Matrix) -> Matrix:
        """GRPO's advantage of every turn, 0 where there is no turn."""
        advantages = group_normalized(
            group_rewards(group),
            epsilon=self.epsilon,
            normalization=self.normalization,
            singleton=self.singleton,
        )
        return spread(advantages, counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grpo(GroupRelative):
    """GRPO's advantage: one number a trajectory, whatever its turns did.

    **Bias:** none in direction with ``normalization="none"``: ``(n - 1) / n`` of the true gradient.
    Dividing by the deviation keeps the direction where rewards are 0 or 1 and weighs groups by
    their spread elsewhere.
    """

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        return self.group_relative(group, counts)
