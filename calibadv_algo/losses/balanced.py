"""A surrogate whose positive and negative parts are brought into balance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_env.common.checks import POSITIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedSurrogate(PolicyObjective):
    """A surrogate with its positive part brought to a multiple of its negative one.

    Positive losses times ``ratio * sum of |negative ones| / sum of positive ones``; without a
    positive loss the negative ones become 0.

    **Source:** CalibAdv's code, ``compute_policy_loss_balance``; by the signs of the loss, not
    of the advantage.

    **Differs:** the factor has no gradient; in the original it has one. The sums are those of
    the tokens that go through the model together, so micro-batches matter, as they do there.

    Attributes:
        base: The surrogate.
        ratio: Positive over negative sum of the loss to reach.
    """

    depends_on_micro_batches: ClassVar[bool] = True

    base: PolicyObjective = field(default_factory=ClippedSurrogate)
    ratio: Annotated[float, POSITIVE] = 1.75

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token."""
        loss = self.base(tokens)
        positive = float(loss.detach().clamp(min=0).sum())
        negative = -float(loss.detach().clamp(max=0).sum())
        if positive == 0:
            return loss * (loss > 0)
        return (loss * (self.ratio * negative / positive)).where(loss > 0, loss)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens that the surrogate clips."""
        return self.base.is_clipped(tokens)
