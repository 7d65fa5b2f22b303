"""GMPO: the geometric mean of a trajectory's token ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import sequence_mean
from calibadv_env.common.checks import NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMean(PolicyObjective):
    """GMPO: one ratio a trajectory, the geometric mean of clipped token ratios.

    With ``d`` the log-ratio and ``s`` the sign of ``A``: ``exp(mean of s * min(s d, s clip(d,
    -clip_low, clip_high)))`` over the trajectory, times minus the mean of ``A``, which is meant
    to be the same for all tokens of a trajectory.

    **Source:** GMPO (arXiv 2507.20673); verl's ``compute_policy_loss_geo_mean``.

    **Differs:** nothing. To be used with ``seq-mean-token-mean``, which gives the mean over
    trajectories back.

    Attributes:
        clip_low: How far below 0 a token's log-ratio may go.
        clip_high: How far above 0 it may go.
    """

    clip_low: Annotated[float, NOT_NEGATIVE] = 0.4
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.4

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token, the same for all tokens of a trajectory."""
        sign = tokens.advantages.sign()
        log_ratio = tokens.logprobs - tokens.old_logprobs
        bounded = log_ratio.clamp(-self.clip_low, self.clip_high)
        clipped = sign * (sign * log_ratio).minimum(sign * bounded)
        ratio = sequence_mean(clipped, tokens.sequence).exp()
        return -sequence_mean(tokens.advantages, tokens.sequence) * ratio

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens whose log-ratio has gone far enough the way it is pushed."""
        log_ratio = tokens.logprobs.detach() - tokens.old_logprobs
        return ((tokens.advantages > 0) & (log_ratio > self.clip_high)) | (
            (tokens.advantages < 0) & (log_ratio < -self.clip_low)
        )
