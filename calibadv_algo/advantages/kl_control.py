"""The weight of the KL divergence: fixed, or steered towards a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked

_MAX_ERROR = 0.2


def adapted_coef(coef: float, kl: float, target: float, num_episodes: int, horizon: int) -> float:
    """Moves the weight of the divergence so that the divergence nears its target.

    ``coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_episodes / horizon)``.

    **Source:** fine-tuning from human preferences (arXiv 1909.08593, section 2.2); verl's
    ``AdaptiveKLController``.

    **Differs:** nothing.

    Args:
        coef: Weight so far, not negative.
        kl: Mean divergence of the last update.
        target: The divergence that is wanted, positive.
        num_episodes: Episodes of the update.
        horizon: Episodes over which the weight may change by a fifth, positive.

    Returns:
        The new weight.
    """
    error = min(max(kl / target - 1.0, -_MAX_ERROR), _MAX_ERROR)
    return coef * (1.0 + error * num_episodes / horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedKl(Checked):
    """A weight that stays as it is.

    Attributes:
        coef: The weight.
    """

    coef: Annotated[float, NOT_NEGATIVE] = 0.001

    def updated(self, kl: float, num_episodes: int) -> FixedKl:
        """The controller of the next update: this one."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveKl(Checked):
    """A weight that follows the divergence.

    Attributes:
        coef: The weight now.
        target: The divergence that is wanted.
        horizon: Episodes over which the weight may change by a fifth.
    """

    coef: Annotated[float, NOT_NEGATIVE] = 0.001
    target: Annotated[float, POSITIVE] = 0.1
    horizon: Annotated[int, POSITIVE] = 10_000

    def updated(self, kl: float, num_episodes: int) -> AdaptiveKl:
        """The controller of the next update, after ``num_episodes`` with this mean divergence."""
        return replace(
            self, coef=adapted_coef(self.coef, kl, self.target, num_episodes, self.horizon)
        )
