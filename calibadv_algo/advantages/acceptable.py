"""GRPO that does not punish answers which are good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import Matrix, fitting_counts, spread
from calibadv_algo.advantages.grpo import GroupRelative, group_normalized
from calibadv_algo.types import Group, group_rewards

Treatment = Literal["excuse", "zero-reward"]
"""Treatment of an acceptable answer below the mean: no penalty, or a reward of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptableGrpo(GroupRelative):
    """GRPO in which acceptable answers below their group's mean are treated apart.

    **Source:** CalibAdv's code, ``acceptable_mask`` (``excuse``: the reward becomes the mean, so
    that the advantage is 0) and ``neutral`` (``zero-reward``).

    **Differs:** nothing. ``zero-reward`` punishes acceptable answers as if they were wrong,
    which is most likely not what was meant; with a threshold of 0.6 it is what the code does.

    Attributes:
        threshold: Reward from which an answer is acceptable.
        treatment: Treatment of acceptable answers below the mean.
    """

    threshold: float = 0.7
    treatment: Treatment = "excuse"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages but for acceptable answers; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        rewards = group_rewards(group)
        advantages = group_normalized(
            rewards,
            epsilon=self.epsilon,
            normalization=self.normalization,
            singleton=self.singleton,
        )
        is_treated = (rewards >= self.threshold) & (advantages < 0)
        if self.treatment == "excuse":
            changed = np.zeros_like(rewards)
        else:
            changed = advantages - rewards / self._scale(rewards)
        return spread(np.where(is_treated, changed, advantages), counts)

    def _scale(self, rewards: Float[np.ndarray, " group"]) -> float:
        """Divisor of GRPO."""
        if self.normalization == "none":
            return 1.0
        std = float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 1.0
        return std + self.epsilon
