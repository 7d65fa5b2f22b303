"""The clipped surrogate with one probability ratio for a whole turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt
from jaxtyping import Bool, Float, Int

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.ratios import (
    MAX_LOG_RATIO,
    clipped_surrogate,
    is_beyond_clip,
    sequence_mean,
)
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnClipped(PolicyObjective):
    """The clipped surrogate with one ratio for a turn: between PPO's tokens and GSPO's trajectory.

    The log-ratio is the mean of ``logprob - old_logprob``, each within +-20, over the tokens of a
    turn. Its gradient reaches each token through that token's own log-prob. With a dual clip ``c``,
    where ``A < 0``, the loss is no more than ``-A c``.

    **Source:** turn-level importance sampling (Turn-PPO and SORL, arXiv 2511.20718);
    ``compute_policy_loss_turn`` of Tree-GRPO's code.

    **Differs:** nothing from the code while the tokens of a turn share their advantage. The
    clipping-triggered normalisation of the paper is not implemented: its formula was not to be had.

    Attributes:
        clip_low: How far below 1 the turn's ratio may go.
        clip_high: How far above 1 it may go.
        dual_clip: Bound of the ratio where the advantage is negative, above 1; None for none.
    """

    scales_clip: ClassVar[bool] = True

    clip_low: Annotated[float, FRACTION] = 0.2
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.2
    dual_clip: Annotated[float | None, Gt(1)] = None

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        logprobs, advantages = tokens.logprobs, tokens.advantages
        # The value is the mean's, the gradient that of the token's own log-prob.
        ratio = (logprobs - logprobs.detach() + _turn_log_ratio(tokens)).exp()
        low, high = tokens.scaled(self.clip_low), tokens.scaled(self.clip_high)
        loss = clipped_surrogate(ratio, advantages, low, high)
        if self.dual_clip is None:
            return loss
        return loss.minimum(-advantages * self.dual_clip).where(advantages < 0, loss)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens of turns on the far side of the clip."""
        low, high = tokens.scaled(self.clip_low), tokens.scaled(self.clip_high)
        return is_beyond_clip(_turn_log_ratio(tokens), tokens.advantages, low, high)


def _turn_log_ratio(tokens: LossTokens) -> Float[Tensor, " token"]:
    """Mean log-ratio of each token's turn, without gradient."""
    log_ratio = (tokens.logprobs - tokens.old_logprobs).detach()
    if not log_ratio.numel():
        return log_ratio
    number: Int[Tensor, " token"] = tokens.sequence * (tokens.turn.max() + 1) + tokens.turn
    return sequence_mean(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO), number)
