"""CISPO: REINFORCE with a clipped importance weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import probability_ratio
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Cispo(PolicyObjective):
    """CISPO: REINFORCE with a clipped, constant importance weight.

    ``-stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) * A * logprob``. No token loses its
    gradient.

    **Source:** CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

    **Differs:** the log-ratio is clamped to +-20, as in verl. TRL's ``epsilon_high`` is the
    bound itself, ours is how far it lies above 1.

    Attributes:
        clip_low: How far below 1 the weight may fall; 1 bounds it from above alone.
        clip_high: How far above 1 it may rise.
    """

    clip_low: Annotated[float, FRACTION] = 0.2
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.2

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        ratio = probability_ratio(tokens.logprobs, tokens.old_logprobs)
        weight = ratio.clamp(1 - self.clip_low, 1 + self.clip_high).detach()
        return -weight * tokens.advantages * tokens.logprobs

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens whose weight is bounded; none of them loses its gradient."""
        ratio = (tokens.logprobs.detach() - tokens.old_logprobs).exp()
        return (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
