"""KL-Cov and Clip-Cov: restraint on the tokens that cost the most entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import probability_ratio
from calibadv_env.common.checks import NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Generator, Tensor


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


def clip_cov_mask(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    generator: Generator,
    *,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Bool[Tensor, " token"]:
    """Draws the tokens that Clip-Cov takes out of the clipped surrogate.

    At random ``share`` of all tokens, at least one, among those that the clip leaves alone and
    whose ``(A - mean A)(logprob - mean logprob)`` lies strictly between ``low`` and ``high``.

    **Source:** Clip-Cov (arXiv 2505.22617); CalibAdv's code, ``compute_policy_loss_clip_cov``.

    **Differs:** the draw comes from the generator that is given.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        generator: Source of the draw, on the device of the tokens.
        share: Share of the tokens, 0 to 1.
        low: Covariance above which a token can be drawn.
        high: Covariance below which it can.
        clip_low: How far the ratio may fall below 1 before the clip acts.
        clip_high: How far it may rise above 1.

    Returns:
        True at tokens whose loss is to be set to 0.
    """
    import torch

    ratio = probability_ratio(logprobs, old_logprobs).detach()
    is_clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high) > -advantages * ratio
    drawn = torch.zeros_like(is_clipped)
    if not drawn.numel():
        return drawn
    covariance = _covariance(advantages, logprobs)
    candidates = ((covariance > low) & (covariance < high) & ~is_clipped).nonzero()[:, 0]
    number = min(max(int(share * drawn.numel()), 1), len(candidates))
    order = torch.randperm(len(candidates), generator=generator, device=generator.device)
    drawn[candidates[order[:number].to(candidates.device)]] = True
    return drawn


def _covariance(
    advantages: Float[Tensor, " token"], logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Each token's share in the covariance of advantage and log-prob."""
    likely = logprobs.detach()
    return (advantages - advantages.mean()) * (likely - likely.mean())
