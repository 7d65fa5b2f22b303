"""VESPO: a smooth weight of whole trajectories in the place of the clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from jaxtyping import Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import MAX_LOG_RATIO, sequence_sum
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from torch import Tensor

_MIN_LOG_WEIGHT: Final = math.log(1e-8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vespo(PolicyObjective):
    """VESPO: REINFORCE, weighted by a smooth function of the trajectory's importance weight.

    ``-stop_gradient(phi(w)) * A * logprob`` with ``w`` the product of a trajectory's token ratios
    and ``phi(w) = w^k exp(lambda (1 - w))``, which is 1 at ``w = 1`` and falls to 0 on both sides
    for trajectories that the policy has left.

    **Source:** VESPO (arXiv 2602.10693); TRL's ``vespo``.

    **Differs:** the ratio of trainer to engine is not part of ``w``; the settings'
    ``optim.mismatch`` corrects for it token by token. TRL multiplies it in.

    Attributes:
        k_positive: Exponent where the advantage is not negative.
        lambda_positive: Decay there.
        k_negative: Exponent where it is negative.
        lambda_negative: Decay there.
    """

    k_positive: Annotated[float, NOT_NEGATIVE] = 2.0
    lambda_positive: Annotated[float, POSITIVE] = 3.0
    k_negative: Annotated[float, NOT_NEGATIVE] = 3.0
    lambda_negative: Annotated[float, POSITIVE] = 2.0

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        log_ratio = (tokens.logprobs - tokens.old_logprobs).detach()
        clamped = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        log_weight = sequence_sum(clamped, tokens.sequence).clamp(_MIN_LOG_WEIGHT, MAX_LOG_RATIO)
        log_weight = log_weight[tokens.sequence]
        is_good = tokens.advantages >= 0
        weight = log_weight.exp()
        good = self.lambda_positive * (1 - weight) + self.k_positive * log_weight
        poor = self.lambda_negative * (1 - weight) + self.k_negative * log_weight
        return -good.where(is_good, poor).exp() * tokens.advantages * tokens.logprobs
