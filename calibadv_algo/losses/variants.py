"""Further surrogates as settings; the formulas are in ``losses_variants.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float

from calibadv_algo.losses.objectives import ClippedSurrogate, LossTokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSidedSurrogate:
    """The clipped surrogate whose unclipped ratio is bounded too (TRL's ``delta``).

    Attributes:
        clip_low: How far below 1 the probability ratio may go.
        clip_high: How far above 1 it may go.
        delta: Bound of the ratio where the advantage is negative, above ``1 + clip_high``.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    delta: float = 4.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        ClippedSurrogate(clip_low=self.clip_low, clip_high=self.clip_high)
        if not self.delta > 1 + self.clip_high:
            raise ValueError(f"delta must be above 1 + clip_high, got {self.delta}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.variant_formulas import two_sided_loss

        return two_sided_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            delta=self.delta,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens on the far side of the clip or above the bound."""
        ratio = (tokens.logprobs.detach() - tokens.old_logprobs).exp()
        base = ClippedSurrogate(clip_low=self.clip_low, clip_high=self.clip_high)
        return base.is_clipped(tokens) | ((tokens.advantages < 0) & (ratio > self.delta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sapo:
    """SAPO: a smooth gate in the place of the clip.

    To be used with the aggregation ``seq-mean-token-mean``.

    Attributes:
        tau_positive: Steepness of the gate for positive advantages.
        tau_negative: Steepness for all others.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("tau_positive", "tau_negative"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.variant_formulas import sapo_loss

        return sapo_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tau_positive=self.tau_positive,
            tau_negative=self.tau_negative,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns no token: nothing is clipped."""
        return tokens.is_last_turn & ~tokens.is_last_turn


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMean:
    """GMPO: one ratio a trajectory, the geometric mean of clipped token ratios.

    To be used with the aggregation ``seq-mean-token-mean``.

    Attributes:
        clip_low: How far below 0 a token's log-ratio may go.
        clip_high: How far above 0 it may go.
    """

    clip_low: float = 0.4
    clip_high: float = 0.4

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("clip_low", "clip_high"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.variant_formulas import geometric_mean_loss

        return geometric_mean_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.sequence,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens whose log-ratio has gone far enough the way it is pushed."""
        log_ratio = tokens.logprobs.detach() - tokens.old_logprobs
        return ((tokens.advantages > 0) & (log_ratio > self.clip_high)) | (
            (tokens.advantages < 0) & (log_ratio < -self.clip_low)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KlCov:
    """KL-Cov: the tokens that cost the most entropy are held near the old policy.

    The share is taken of the tokens that go through the model together.

    Attributes:
        percent: Share of the tokens in percent.
        coef: Weight of their distance.
    """

    percent: float = 0.2
    coef: float = 1.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent must be in [0, 100], got {self.percent}")
        if self.coef < 0:
            raise ValueError(f"coef must not be negative, got {self.coef}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.variant_formulas import kl_cov_loss

        return kl_cov_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            percent=self.percent,
            coef=self.coef,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns no token: nothing is clipped."""
        return tokens.is_last_turn & ~tokens.is_last_turn


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedSurrogate:
    """The clipped surrogate with its positive part brought to a multiple of its negative one.

    The sums are those of the tokens that go through the model together.

    Attributes:
        base: The surrogate.
        ratio: Positive over negative sum of the loss to reach.
    """

    base: ClippedSurrogate = field(default_factory=ClippedSurrogate)
    ratio: float = 1.75

    def __post_init__(self) -> None:
        """Checks the range."""
        if not self.ratio > 0:
            raise ValueError(f"ratio must be positive, got {self.ratio}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.variant_formulas import balanced_loss

        return balanced_loss(self.base(tokens), ratio=self.ratio)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens that the surrogate clips."""
        return self.base.is_clipped(tokens)
