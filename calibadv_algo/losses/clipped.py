"""PPO's clipped surrogate, the loss of GRPO and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt
from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import clipped_surrogate, is_beyond_clip, probability_ratio
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSurrogate(PolicyObjective):
    """PPO's clipped surrogate, the loss of GRPO and its kin.

    ``max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))`` with
    ``r = exp(clamp(logprob - old_logprob, -20, 20))``; with a dual clip ``c``, where ``A < 0``,
    no more than ``-A c``.

    **Source:** PPO (arXiv 1707.06347, eq. 7); clip-higher: DAPO (arXiv 2503.14476, eq. 8);
    dual clip: arXiv 1912.09729, eq. 5, which is also the two-sided clip of INTELLECT-2
    (arXiv 2505.07291), TRL's ``delta``.

    **Differs:** the log-ratio is clamped, as in verl.

    Attributes:
        clip_low: How far below 1 the probability ratio may go.
        clip_high: How far above 1 it may go; 0.28 in DAPO.
        dual_clip: Bound of the ratio where the advantage is negative, above 1 (3 in verl); None
            for none, as in CalibAdv.
    """

    scales_clip: ClassVar[bool] = True

    clip_low: Annotated[float, FRACTION] = 0.2
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.2
    dual_clip: Annotated[float | None, Gt(1)] = None

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        ratio = probability_ratio(tokens.logprobs, tokens.old_logprobs)
        low, high = tokens.scaled(self.clip_low), tokens.scaled(self.clip_high)
        loss = clipped_surrogate(ratio, tokens.advantages, low, high)
        if self.dual_clip is None:
            return loss
        bounded = loss.minimum(-tokens.advantages * self.dual_clip)
        return bounded.where(tokens.advantages < 0, loss)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens on the far side of the clip."""
        log_ratio = tokens.logprobs.detach() - tokens.old_logprobs
        low, high = tokens.scaled(self.clip_low), tokens.scaled(self.clip_high)
        return is_beyond_clip(log_ratio, tokens.advantages, low, high)
