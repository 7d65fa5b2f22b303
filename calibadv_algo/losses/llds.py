"""LLDS: a surrogate and a penalty on tokens of good trajectories that become less likely."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from jaxtyping import Bool, Float

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.ratios import sequence_sum
from calibadv_env.common.checks import NOT_NEGATIVE

if TYPE_CHECKING:
    from torch import Tensor

    from calibadv_algo.batching import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Llds(PolicyObjective):
    """A surrogate plus LLDS: protected tokens are penalised for becoming less likely.

    ``coef * gate * max(0, old_logprob - logprob)`` on protected tokens, 0 on others. The gate is
    1 if the sum of ``old_logprob - logprob`` over the protected tokens of the trajectory
    (``response``) or of the turn (``action``) is above 0, and has no gradient. Needs more than
    one optimiser step for each batch of episodes, because the penalty is 0 while the policy is
    the one that sampled.

    **Source:** LLDS (arXiv 2512.04220); its code's ``update_policy`` for ``action`` (best) and
    ``code``; the code's ``mask_adaptive`` for LLDS-MA, the answer-masked form.

    **Differs:** turns are known, where the original takes runs of protected model tokens for
    them: two turns with nothing in between count as two. With ``norm="paper"`` the tokens of
    a trajectory that are not protected do not count in its mean; with one advantage a
    trajectory that is the paper's mean over its tokens. A minibatch without protected tokens has
    no penalty.

    Attributes:
        base: The surrogate.
        coef: Weight of the penalty; 0.2 in the paper, 0.3 for Qwen2.5-7B-Instruct.
        gate: Over what a drop must be a net one to count: nothing (``token``), the trajectory
            (``response``), the turn (``action``).
        preserve: Advantages of protected tokens: ``not-negative`` as in LLDS, trajectories of
            undecided groups included; or ``positive``. The latter with ``gate="token"``,
            ``norm="preserved"`` and weight 0.1 is CalibAdv's version, whose gate never closes.
        norm: ``code`` averages over all action tokens, as the authors' code does; ``paper`` over
            the protected tokens of each trajectory and then over the trajectories that have some;
            ``preserved`` over all protected tokens.
        answer: Weight of the tokens of last turns (LLDS-MA); see :meth:`answer_coef`.
        answer_lambda: Weight of these tokens for ``fixed``, factor for ``code``.
    """

    base: PolicyObjective = field(default_factory=ClippedSurrogate)
    coef: Annotated[float, NOT_NEGATIVE] = 0.2
    gate: Literal["token", "response", "action"] = "action"
    preserve: Literal["not-negative", "positive"] = "not-negative"
    norm: Literal["code", "paper", "preserved"] = "code"
    answer: Literal["full", "fixed", "paper", "code"] = "full"
    answer_lambda: Annotated[float, NOT_NEGATIVE] = 0.0

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """The surrogate's loss of each token."""
        return self.base(tokens)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens that the surrogate clips."""
        return self.base.is_clipped(tokens)

    def penalty(self, tokens: LossTokens, minibatch: TokenBatch) -> Float[Tensor, " token"]:
        """Penalty of each token, not negative; all 0 where the policies are the same."""
        protected = self._is_protected(tokens.advantages)
        drop = tokens.old_logprobs.detach() - tokens.logprobs
        gate = self._gate(drop.detach() * protected, tokens)
        penalty = drop.clamp(min=0) * protected * gate
        if self.answer == "full":
            penalty = penalty * self.coef
        else:
            weight = penalty.new_full(penalty.shape, self.coef)
            answer_coef = self.answer_coef(_mean_searches(minibatch))
            penalty = penalty * weight.masked_fill(tokens.is_last_turn, answer_coef)
        if self.norm == "paper":
            counts = sequence_sum(protected.to(drop.dtype), tokens.sequence)
            penalty = penalty / counts.clamp(min=1)[tokens.sequence]
        return penalty

    def penalty_denominator(self, minibatch: TokenBatch) -> float:
        """Number of tokens or trajectories that ``norm`` averages over, at least 1."""
        if self.norm == "code":
            return float(max(minibatch.advantages.numel(), 1))
        protected = self._is_protected(minibatch.advantages)
        if self.norm == "preserved":
            return float(max(int(protected.sum()), 1))
        return float(max(int((minibatch.sequence[protected].bincount() > 0).sum()), 1))

    def answer_coef(self, mean_searches: float) -> float:
        """Weight of the tokens of last turns (LLDS-MA).

        - ``full``: ``coef``, as for all others;
        - ``fixed``: ``answer_lambda``;
        - ``paper``: ``coef * min(V / 2, 1)``;
        - ``code``: ``min(answer_lambda * max(V - 1, 0), coef)``.

        The last two disagree in the original as well.

        Args:
            mean_searches: ``V``, the mean number of valid searches of the minibatch's
                trajectories, not negative.

        Returns:
            The weight, not negative.
        """
        match self.answer:
            case "full":
                return self.coef
            case "fixed":
                return self.answer_lambda
            case "paper":
                return self.coef * min(mean_searches / 2, 1.0)
            case "code":
                return min(self.answer_lambda * max(mean_searches - 1, 0.0), self.coef)

    def _is_protected(self, advantages: Float[Tensor, " token"]) -> Bool[Tensor, " token"]:
        return advantages > 0 if self.preserve == "positive" else advantages >= 0

    def _gate(self, drop: Float[Tensor, " token"], tokens: LossTokens) -> Float[Tensor, " token"]:
        """1 at tokens whose trajectory or turn has a net drop, else 0."""
        if self.gate == "token" or not drop.numel():
            return drop.new_ones(drop.shape)
        part = tokens.sequence
        if self.gate == "action":
            part = part * (int(tokens.turn.max()) + 1) + tokens.turn
        return (sequence_sum(drop, part)[part] > 0).to(drop.dtype)


def _mean_searches(minibatch: TokenBatch) -> float:
    """Mean number of turns before the last, over the minibatch's sequences."""
    is_end = minibatch.is_last_turn
    last = dict(
        zip(minibatch.sequence[is_end].tolist(), minibatch.turn[is_end].tolist(), strict=True)
    )
    return sum(last.values()) / max(len(last), 1)
