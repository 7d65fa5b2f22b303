"""SAPO: a smooth gate in the place of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import probability_ratio
from calibadv_env.common.checks import POSITIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sapo(PolicyObjective):
    """SAPO: a smooth gate in the place of the clip.

    ``-A * sigmoid(tau (r - 1)) * 4 / tau`` with ``tau_positive`` where ``A > 0``. At a ratio of
    1 its gradient is that of the plain surrogate.

    **Source:** SAPO (arXiv 2511.20347); verl's ``compute_policy_loss_sapo``.

    **Differs:** nothing. To be used with ``seq-mean-token-mean``.

    Attributes:
        tau_positive: Steepness of the gate for positive advantages.
        tau_negative: Steepness for all others.
    """

    tau_positive: Annotated[float, POSITIVE] = 1.0
    tau_negative: Annotated[float, POSITIVE] = 1.05

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        advantages = tokens.advantages
        tau = advantages.new_full(advantages.shape, self.tau_negative)
        tau = tau.masked_fill(advantages > 0, self.tau_positive)
        ratio = probability_ratio(tokens.logprobs, tokens.old_logprobs)
        gate = (tau * (ratio - 1)).sigmoid() * (4 / tau)
        return -gate * advantages
