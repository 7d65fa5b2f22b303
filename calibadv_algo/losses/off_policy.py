"""Off-policy mask: poor trajectories that have become unlikely are not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.ratios import sequence_mean
from calibadv_env.common.checks import NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicyMasked(PolicyObjective):
    """A surrogate without the tokens of poor trajectories that have become unlikely.

    Kept where ``A >= 0`` or the trajectory's mean of ``sampling_logprob - logprob`` is at most
    ``delta``; the loss of all other tokens is 0.

    **Source:** DeepSeek-V3.2; TRL's off-policy sequence mask.

    **Differs:** the default of ``delta`` is our choice.

    Attributes:
        base: The surrogate.
        delta: Largest mean loss of likelihood of a poor trajectory.
    """

    base: PolicyObjective = field(default_factory=ClippedSurrogate)
    delta: Annotated[float, NOT_NEGATIVE] = 0.5

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        return self.base(tokens) * self._is_kept(tokens)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens that the surrogate clips or the mask leaves out."""
        return self.base.is_clipped(tokens) | ~self._is_kept(tokens)

    def _is_kept(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        gap = (tokens.sampling_logprobs - tokens.logprobs).detach()
        return (tokens.advantages >= 0) | (sequence_mean(gap, tokens.sequence) <= self.delta)
