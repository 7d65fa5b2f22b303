"""Search Agent Policy Optimization: good tokens that become unlikely are held back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.ratios import MAX_LOG_RATIO
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor

    from calibadv_algo.batching import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSapo(PolicyObjective):
    """A surrogate plus a divergence on good tokens whose probability has fallen too far.

    ``coef * mean(old_logprob - logprob)`` over the tokens with an advantage of at least 0, of which
    those whose ratio is above ``threshold`` count as 0. The penalty pulls such tokens back where
    the surrogate, with a ratio near 0, has hardly a gradient left.

    **Source:** Search Agent Policy Optimization (arXiv 2603.10069), the one line of code that its
    title speaks of, as a reader quotes it; not the Soft Adaptive Policy Optimization of the same
    letters, which is :class:`~calibadv_algo.losses.sapo.Sapo`.

    **Differs:** an advantage is looked at token by token, where the code takes that of a response's
    first token for all of them: the same with one advantage a trajectory. The log-ratio is clamped
    to +-20. Threshold and weight are not in what is public: both defaults are our choice.

    Attributes:
        base: The surrogate.
        threshold: Ratio above which a token is left alone.
        coef: Weight of the divergence.
    """

    name: ClassVar[str] = "search-sapo"

    base: PolicyObjective = field(default_factory=ClippedSurrogate)
    threshold: Annotated[float, FRACTION] = 0.8
    coef: Annotated[float, NOT_NEGATIVE] = 0.1

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """The surrogate's loss of each token."""
        return self.base(tokens)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens that the surrogate clips."""
        return self.base.is_clipped(tokens)

    def penalty(self, tokens: LossTokens, minibatch: TokenBatch) -> Float[Tensor, " token"]:
        """Weighted fall of each good token's log-probability, 0 where it has not fallen far."""
        fall = (tokens.old_logprobs - tokens.logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        has_fallen = (-fall.detach()).exp() <= self.threshold
        return self.coef * fall.where(has_fallen & (tokens.advantages >= 0), fall * 0.0)

    def penalty_denominator(self, minibatch: TokenBatch) -> float:
        """Number of tokens with an advantage of at least 0, at least 1."""
        return float(max(int((minibatch.advantages >= 0).sum()), 1))
