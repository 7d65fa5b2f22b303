"""KL-Cov and Clip-Cov: restraint on the tokens that cost the most entropy."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Interval
from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import clipped_surrogate, is_beyond_clip, probability_ratio
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class KlCov(PolicyObjective):
    """KL-Cov: the tokens that cost the most entropy are held near the old policy.

    ``-A r``, plus ``coef * |logprob - old_logprob|`` for the ``percent`` of tokens with the
    largest ``(A - mean A)(logprob - mean logprob)``, at least one of them.

    **Source:** KL-Cov (arXiv 2505.22617); CalibAdv's code, ``compute_policy_loss_kl_cov``.

    **Differs:** the log-ratio is clamped to +-20. The share is taken of the tokens that go
    through the model together, so micro-batches matter, as they do there.

    Attributes:
        percent: Share of the tokens in percent; 0 means none.
        coef: Weight of their distance.
    """

    depends_on_micro_batches: ClassVar[bool] = True

    percent: Annotated[float, Interval(ge=0, le=100)] = 0.2
    coef: Annotated[float, NOT_NEGATIVE] = 1.0

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        loss = -tokens.advantages * probability_ratio(tokens.logprobs, tokens.old_logprobs)
        if self.percent == 0 or not loss.numel():
            return loss
        covariance = _covariance(tokens.advantages, tokens.logprobs)
        # Bounded by the number of tokens in percent, as in the original.
        number = max(1, int(loss.numel() * min(self.percent, float(loss.numel())) / 100))
        held = tokens.is_last_turn.new_zeros(loss.shape)
        held[covariance.topk(number).indices] = True
        distance = (tokens.logprobs - tokens.old_logprobs).abs()
        return (loss + self.coef * distance).where(held, loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCov(PolicyObjective):
    """Clip-Cov: the clipped surrogate without a few random tokens that cost much entropy.

    Drawn at random is ``share`` of all tokens, at least one, among those that the clip leaves alone
    and whose ``(A - mean A)(logprob - mean logprob)`` lies strictly between ``low`` and ``high``.
    Their loss is 0.

    **Source:** Clip-Cov (arXiv 2505.22617); CalibAdv's code, ``compute_policy_loss_clip_cov``.

    **Differs:** the draw is seeded by ``seed`` and the tokens' old log-probs, so that a run that is
    resumed draws the same. The share is taken of the tokens that go through the model together, so
    micro-batches matter, as they do there.

    Attributes:
        share: Share of the tokens that are drawn.
        low: Covariance above which a token can be drawn.
        high: Covariance below which it can.
        clip_low: How far below 1 the probability ratio may go.
        clip_high: How far above 1 it may go.
        seed: Seed of the draw.
    """

    depends_on_micro_batches: ClassVar[bool] = True

    share: Annotated[float, FRACTION] = 2e-4
    low: float = 1.0
    high: float = 5.0
    clip_low: Annotated[float, FRACTION] = 0.2
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.2
    seed: int = 0

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        ratio = probability_ratio(tokens.logprobs, tokens.old_logprobs)
        loss = clipped_surrogate(ratio, tokens.advantages, self.clip_low, self.clip_high)
        return loss.masked_fill(self._is_drawn(tokens), 0.0)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens on the far side of the clip, and those that are drawn."""
        return self._is_beyond(tokens) | self._is_drawn(tokens)

    def _is_beyond(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        log_ratio = tokens.logprobs.detach() - tokens.old_logprobs
        return is_beyond_clip(log_ratio, tokens.advantages, self.clip_low, self.clip_high)

    def _is_drawn(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        drawn = tokens.is_last_turn.new_zeros(tokens.logprobs.shape)
        if not drawn.numel():
            return drawn
        covariance = _covariance(tokens.advantages, tokens.logprobs)
        is_open = (covariance > self.low) & (covariance < self.high) & ~self._is_beyond(tokens)
        candidates = is_open.nonzero()[:, 0].cpu().numpy()
        number = min(max(int(self.share * drawn.numel()), 1), len(candidates))
        bits = tokens.old_logprobs.detach().float().cpu().numpy().tobytes()
        rng = np.random.default_rng([self.seed, zlib.crc32(bits)])
        for position in rng.choice(candidates, number, replace=False).tolist():
            drawn[position] = True
        return drawn


def _covariance(
    advantages: Float[Tensor, " token"], logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Each token's share in the covariance of advantage and log-prob."""
    likely = logprobs.detach()
    return (advantages - advantages.mean()) * (likely - likely.mean())
