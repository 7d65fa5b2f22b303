"""LLDS as a setting: a surrogate and the penalty on displaced likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float

from calibadv_algo.losses.objectives import ClippedSurrogate, Gspo, LossTokens

if TYPE_CHECKING:
    from torch import Tensor

    from calibadv_algo.batching import TokenBatch

AnswerWeight = Literal["full", "fixed", "paper", "code"]
"""How much of the penalty answer tokens bear.

``full``: like all others. ``fixed``: ``answer_lambda``. ``paper``: ``coef * min(V / 2, 1)``.
``code``: ``min(answer_lambda * max(V - 1, 0), coef)``. ``V`` is the mean number of turns before
the last, over the sequences of the minibatch.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Llds:
    """A surrogate plus LLDS: protected tokens are penalised for becoming less likely.

    It needs more than one optimiser step for each batch of episodes, because the penalty is 0
    while the policy is the one that sampled.

    Attributes:
        base: The surrogate.
        coef: Weight of the penalty; 0.2 in the paper, 0.3 for Qwen2.5-7B-Instruct.
        gate: Over what a drop must be a net one to count: nothing (``token``), the trajectory
            (``response``), the turn (``action``).
        preserve: Advantages of protected tokens: ``not-negative``, or ``positive``.
        norm: ``code`` averages over all action tokens, ``paper`` over each trajectory and then
            over those with protected tokens, ``preserved`` over protected tokens.
        answer: How much of the penalty the tokens of last turns bear (LLDS-MA).
        answer_lambda: Weight of these tokens for ``fixed``, factor for ``code``.
    """

    base: ClippedSurrogate | Gspo = field(default_factory=ClippedSurrogate)
    coef: float = 0.2
    gate: Literal["token", "response", "action"] = "action"
    preserve: Literal["not-negative", "positive"] = "not-negative"
    norm: Literal["code", "paper", "preserved"] = "code"
    answer: AnswerWeight = "full"
    answer_lambda: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        for name in ("coef", "answer_lambda"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        choices = {
            "gate": ("token", "response", "action"),
            "preserve": ("not-negative", "positive"),
            "norm": ("code", "paper", "preserved"),
            "answer": ("full", "fixed", "paper", "code"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the surrogate's loss of each token."""
        return self.base(tokens)

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens that the surrogate clips."""
        return self.base.is_clipped(tokens)

    def penalty(self, tokens: LossTokens, minibatch: TokenBatch) -> Float[Tensor, " token"]:
        """Returns the penalty of each token."""
        from calibadv_algo.losses.llds_formulas import llds_penalty

        return llds_penalty(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.sequence,
            tokens.turn,
            coef=self.coef,
            gate=self.gate,
            preserve=self.preserve,
            norm=self.norm,
            is_answer=tokens.is_last_turn,
            answer_coef=self._answer_coef(minibatch),
        )

    def penalty_denominator(self, batch: TokenBatch) -> float:
        """Returns what the minibatch's penalties are divided by."""
        from calibadv_algo.losses.llds_formulas import llds_denominator

        return llds_denominator(
            batch.advantages, batch.sequence, preserve=self.preserve, norm=self.norm
        )

    def _answer_coef(self, minibatch: TokenBatch) -> float | None:
        """Weight of the tokens of last turns, None for that of all others."""
        from calibadv_algo.losses.llds_formulas import answer_coef

        if self.answer == "full":
            return None
        if self.answer == "fixed":
            return self.answer_lambda
        is_end = minibatch.is_last_turn
        last = dict(
            zip(minibatch.sequence[is_end].tolist(), minibatch.turn[is_end].tolist(), strict=True)
        )
        mean_searches = sum(last.values()) / max(len(last), 1)
        return answer_coef(
            mean_searches, self.coef, form=self.answer, answer_lambda=self.answer_lambda
        )
