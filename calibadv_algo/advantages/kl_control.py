"""The weight of the KL divergence: fixed, or steered towards a target."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
class FixedKl:
    """A weight that stays as it is.

    Attributes:
        coef: The weight.
    """

    coef: float = 0.001

    def __post_init__(self) -> None:
        """Checks the range."""
        _check_coef(self.coef)

    def updated(self, kl: float, num_episodes: int) -> FixedKl:
        """Returns the controller of the next update: this one."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveKl:
    """A weight that follows the divergence.

    Attributes:
        coef: The weight now.
        target: The divergence that is wanted.
        horizon: Episodes over which the weight may change by a fifth.
    """

    coef: float = 0.001
    target: float = 0.1
    horizon: int = 10_000

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_coef(self.coef)
        if not self.target > 0:
            raise ValueError(f"target must be positive, got {self.target}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be positive, got {self.horizon}")

    def updated(self, kl: float, num_episodes: int) -> AdaptiveKl:
        """Returns the controller of the next update.

        Args:
            kl: Mean divergence of this update.
            num_episodes: Its episodes.
        """
        return replace(
            self, coef=adapted_coef(self.coef, kl, self.target, num_episodes, self.horizon)
        )


def _check_coef(coef: float) -> None:
    """Raises ValueError unless a weight is not negative."""
    if coef < 0:
        raise ValueError(f"coef must not be negative, got {coef}")
