"""Base classes of policy objectives and mismatch corrections, and the reduction of their losses.

There is no padding and no mask: a vector holds sampled tokens alone, and ``sequence`` says
which trajectory each belongs to. Losses come out per token and are reduced by
:func:`aggregate`, so that a minibatch may be cut into micro-batches in any way. Empty vectors
give 0, never NaN. Formulas use methods of tensors, so that settings load without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from jaxtyping import Bool, Float, Int

from calibadv_env.common.checks import Checked

if TYPE_CHECKING:
    from torch import Tensor

    from calibadv_algo.batching import TokenBatch

Aggregation = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
"""Reduction of per-token losses to a number; see :func:`aggregate`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossTokens:
    """Per-token inputs of a policy loss: the action tokens of whole sequences.

    Attributes:
        logprobs: Under the policy that is trained, with gradient.
        old_logprobs: Under the policy before the first step of the update.
        sampling_logprobs: As the engine reported them.
        advantages: One a token.
        sequence: Trajectory of each token, not negative.
        turn: Turn of each token within its trajectory.
        is_last_turn: True at tokens of their trajectory's last turn.
        sequence_reward: Return of the token's trajectory, as shaped.
        clip_scale: Factor of the clip range at each token; None for 1 everywhere.
    """

    logprobs: Float[Tensor, " token"]
    old_logprobs: Float[Tensor, " token"]
    sampling_logprobs: Float[Tensor, " token"]
    advantages: Float[Tensor, " token"]
    sequence: Int[Tensor, " token"]
    turn: Int[Tensor, " token"]
    is_last_turn: Bool[Tensor, " token"]
    sequence_reward: Float[Tensor, " token"]
    clip_scale: Float[Tensor, " token"] | None = None

    def scaled(self, clip: float) -> float | Float[Tensor, " token"]:
        """Width of a side of the clip at each token."""
        return clip if self.clip_scale is None else clip * self.clip_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObjective(Checked, ABC):
    """Base of policy losses: a subclass turns advantages into a loss of every token."""

    scales_clip: ClassVar[bool] = False
    """If true, the objective's clip follows the tokens' ``clip_scale``."""

    depends_on_micro_batches: ClassVar[bool] = False
    """If true, the loss of a token depends on the others of its micro-batch."""

    @abstractmethod
    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Loss of each token of a micro-batch, to be aggregated and minimised."""

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Tokens whose gradient the clip removes or bounds, for the metrics; none by default."""
        return tokens.is_last_turn.new_zeros(tokens.is_last_turn.shape)

    def penalty(self, tokens: LossTokens, minibatch: TokenBatch) -> Float[Tensor, " token"]:
        """Second term with a normaliser of its own, as parts of a sum; 0 by default.

        The term of a minibatch is ``sum(penalty) / penalty_denominator``, whatever its
        micro-batches. What belongs to one sequence, such as a division by its tokens, has to be
        in ``penalty``; what counts over the minibatch has to be in the denominator.

        Args:
            tokens: Those of a micro-batch.
            minibatch: The whole it is a part of, for means that must not depend on the cut.

        Returns:
            Penalty of each token. Only called where there is a denominator.
        """
        return tokens.logprobs.new_zeros(tokens.logprobs.shape)

    def penalty_denominator(self, minibatch: TokenBatch) -> float | None:
        """Divisor of a minibatch's penalties, positive; None, the default, for no second term."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchCorrection(Checked, ABC):
    """Base of importance weights for the mismatch between the sampling engine and the trainer."""

    needs_recomputed: ClassVar[bool] = True
    """If true, the trainer has to compute log-probabilities of its own before the update."""

    @abstractmethod
    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"] | None:
        """Factor of each token's loss, without gradient.

        Args:
            old_logprobs: Under the trainer's policy before the first update.
            sampling_logprobs: As the engine reported them.
            sequence: Trajectory of each token, not negative.

        Returns:
            Weight of each token; None if every token counts once.
        """

    def is_truncated(self, weights: Float[Tensor, " token"]) -> Bool[Tensor, " token"]:
        """Tokens whose weight was bounded, for the metrics; none by default."""
        return weights != weights


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCorrection(MismatchCorrection):
    """Every token counts once."""

    name: ClassVar[str] = "none"
    needs_recomputed: ClassVar[bool] = False

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> None:
        """None: there is nothing to multiply with."""


def aggregate(
    loss: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    mode: Aggregation = "token-mean",
    *,
    denominator: float | None = None,
) -> Float[Tensor, ""]:
    """Reduces per-token losses to a number.

    - ``token-mean``: sum over tokens / number of tokens (DAPO, CalibAdv);
    - ``seq-mean-token-sum``: sum over tokens / number of sequences;
    - ``seq-mean-token-mean``: mean over each sequence, then over sequences (GRPO, GSPO);
    - ``seq-mean-token-sum-norm``: sum over tokens / a constant (Dr. GRPO).

    **Source:** verl's ``agg_loss``; Dr. GRPO (arXiv 2503.20783).

    **Differs:** the denominator is explicit. Given that of the whole minibatch, the results of
    its micro-batches add up to the minibatch's loss, however it is cut between sequences; the
    authors of CalibAdv average over micro-batches instead, which depends on the cut.

    Args:
        loss: Loss of each token.
        sequence: Trajectory of each token, not negative; the numbers may have gaps.
        mode: How to reduce.
        denominator: Number of tokens (first mode), of sequences with a token (second and
            third), or the constant (last) to divide by, positive. None counts the given
            tokens or sequences.

    Returns:
        The loss; 0 without tokens.

    Raises:
        ValueError: if the mode is unknown, the denominator is not positive, or it is missing
            for ``seq-mean-token-sum-norm``.
    """
    if denominator is not None and not denominator > 0:
        raise ValueError(f"denominator must be positive, got {denominator}")
    if mode == "token-mean":
        return loss.sum() / (denominator or max(loss.numel(), 1))
    if mode == "seq-mean-token-sum-norm":
        if denominator is None:
            raise ValueError("denominator must be given for seq-mean-token-sum-norm, got None")
        return loss.sum() / denominator
    if mode not in ("seq-mean-token-sum", "seq-mean-token-mean"):
        raise ValueError(f"mode must be one of {get_args(Aggregation)}, got {mode!r}")
    counts = sequence.bincount()
    divisor = denominator or (counts > 0).sum().clamp(min=1)
    if mode == "seq-mean-token-mean":
        loss = loss / counts[sequence]
    return loss.sum() / divisor
