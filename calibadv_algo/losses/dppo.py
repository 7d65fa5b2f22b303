"""DPPO: a trust region in probabilities, not in ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge
from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import probability_ratio
from calibadv_env.common.checks import NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dppo(PolicyObjective):
    """DPPO: REINFORCE on the tokens whose probability has not moved too far the way it is pushed.

    ``-A * stop_gradient(min(r, cap)) * logprob`` where the divergence of the token's own
    probability, new ``p`` against old ``q``, is within the bound or the push is back towards ``q``;
    0 elsewhere. The divergence is that of the two-way split "this token or another":

    - ``tv``: ``|p - q|``;
    - ``kl``: ``q log(q / p) + (1 - q) log((1 - q) / (1 - p))``.

    A rare token may so grow many times, where a ratio's clip stops it at once, and a common one may
    not lose a fifth.

    **Source:** DPPO (arXiv 2602.04879); verl's ``compute_policy_loss_dppo_tv`` and ``_kl``.

    **Differs:** nothing.

    Attributes:
        divergence: How far is measured.
        bound_low: Largest divergence where the advantage is not positive.
        bound_high: Largest divergence where it is.
        cap: Largest importance weight, at least 1.
    """

    divergence: Literal["tv", "kl"] = "tv"
    bound_low: Annotated[float, NOT_NEGATIVE] = 0.2
    bound_high: Annotated[float, NOT_NEGATIVE] = 0.2
    cap: Annotated[float, Ge(1)] = 20.0

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        ratio = probability_ratio(tokens.logprobs, tokens.old_logprobs)
        weight = ratio.clamp(max=self.cap).detach()
        return -tokens.advantages * weight * tokens.logprobs * ~self.is_clipped(tokens)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens outside the trust region, which have no gradient."""
        new, old = tokens.logprobs.detach().exp(), tokens.old_logprobs.exp()
        is_pushed_up = tokens.advantages > 0
        if self.divergence == "tv":
            rise = new - old
            return (rise > self.bound_high).where(is_pushed_up, rise < -self.bound_low)
        log_ratio = tokens.old_logprobs - tokens.logprobs.detach()
        others = ((1 - old + _TINY) / (1 - new + _TINY)).log()
        distance = old * log_ratio + (1 - old) * others
        too_high = (distance > self.bound_high) & (new > old)
        too_low = (distance > self.bound_low) & (new < old)
        return too_high.where(is_pushed_up, too_low)
