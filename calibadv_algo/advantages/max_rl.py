"""MaxRL: rewards relative to their mean, so that rare successes weigh more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts, spread
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.types import Group, group_rewards


def mean_normalized(rewards: Float[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
    """Compares each reward with the group's mean, in units of that mean.

    ``(reward - mean) / mean``. For rewards of 0 and 1 and a chance of success ``p`` the expected
    gradient over groups of ``n`` is ``grad p * sum((1 - p)^(k - 1) for k = 1 .. n - 1)``: the first
    ``n - 1`` terms of the gradient of ``log p``.

    **Source:** MaxRL (arXiv 2602.02710). The number of terms was found by enumeration, see
    ``tests/algo/test_methods_2026.py``.

    **Differs:** rewards need not be 0 or 1; rounding counts as 0.

    Args:
        rewards: Returns of the trajectories of one group, not negative.

    Returns:
        One advantage a trajectory; zeros if all rewards are equal, a group of one included.

    Raises:
        ValueError: if a reward is negative.
    """
    if (rewards < 0).any():
        raise ValueError(f"MaxRL needs rewards that are not negative, got {rewards.min()}")
    deviations = group_normalized(rewards, normalization="none", singleton="zero")
    return deviations / rewards.mean() if deviations.any() else deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRl(AdvantageEstimator):
    """MaxRL's advantage: reward minus the group's mean, divided by the mean."""

    name: ClassVar[str] = "max-rl"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """One number a trajectory; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        return spread(mean_normalized(group_rewards(group)), counts)
