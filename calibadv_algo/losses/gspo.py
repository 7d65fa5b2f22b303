"""GSPO: the clipped surrogate with one probability ratio for a whole trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import clipped_surrogate, is_beyond_clip, sequence_mean
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LOG_RATIO: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gspo(PolicyObjective):
    """GSPO: the clipped surrogate with one ratio for a trajectory.

    The log-ratio is the mean of ``logprob - old_logprob`` over the trajectory's tokens. Its
    gradient reaches each token through that token's own log-prob.

    **Source:** GSPO (arXiv 2507.18071, eq. 5 and the token-level form, eq. 13).

    **Differs:** the log-ratio is at most 10, as in verl. To be used with
    ``seq-mean-token-mean``.

    Attributes:
        clip_low: How far below 1 the trajectory's ratio may go.
        clip_high: How far above 1 it may go.
    """

    clip_low: Annotated[float, FRACTION] = 3e-4
    clip_high: Annotated[float, NOT_NEGATIVE] = 4e-4

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        logprobs = tokens.logprobs
        mean = sequence_mean((logprobs - tokens.old_logprobs).detach(), tokens.sequence)
        # The value is the mean's, the gradient that of the token's own log-prob.
        exponent = (logprobs - logprobs.detach() + mean).clamp(max=_MAX_LOG_RATIO)
        return clipped_surrogate(exponent.exp(), tokens.advantages, self.clip_low, self.clip_high)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens of trajectories on the far side of the clip."""
        log_ratio = sequence_mean(tokens.logprobs.detach() - tokens.old_logprobs, tokens.sequence)
        return is_beyond_clip(log_ratio, tokens.advantages, self.clip_low, self.clip_high)
