"""Policy objectives as settings: which surrogate turns advantages into a loss.

The formulas are in ``losses.py``; what is here says which of them a run uses and with which
numbers. Nothing is computed, and torch is not imported, before an objective is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from torch import Tensor

    from calibadv_algo.batching import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossTokens:
    """What is known of the action tokens of a micro-batch; whole sequences are together.

    Attributes:
        logprobs: Under the policy that is trained, with gradient.
        old_logprobs: Under the policy before the first step of the update.
        sampling_logprobs: As the engine reported them.
        advantages: One a token.
        sequence: Trajectory of each token, from 0 within the micro-batch.
        turn: Turn of each token within its trajectory.
        is_last_turn: Whether that turn is its trajectory's last.
        sequence_reward: Return of the token's trajectory, as shaped.
    """

    logprobs: Float[Tensor, " token"]
    old_logprobs: Float[Tensor, " token"]
    sampling_logprobs: Float[Tensor, " token"]
    advantages: Float[Tensor, " token"]
    sequence: Int[Tensor, " token"]
    turn: Int[Tensor, " token"]
    is_last_turn: Bool[Tensor, " token"]
    sequence_reward: Float[Tensor, " token"]


class PolicyObjective(Protocol):
    """The loss of every token of a micro-batch."""

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token, to be aggregated and minimised."""
        ...

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens whose gradient the clip removes or bounds; for the metrics."""
        ...


@runtime_checkable
class PenalisedObjective(Protocol):
    """An objective with a second term that has a normaliser of its own.

    The term of a minibatch is ``sum(penalty) / penalty_denominator``. Its micro-batches
    compute parts of the sum; the denominator is that of the whole minibatch. Whatever belongs
    to one sequence, such as a division by its tokens, has to be in ``penalty``; what counts
    over the minibatch has to be in the denominator.
    """

    def penalty(self, tokens: LossTokens, minibatch: TokenBatch) -> Float[Tensor, " token"]:
        """Returns the penalty of each token.

        Args:
            tokens: Those of a micro-batch.
            minibatch: The whole it is a part of, for means that must not depend on the cut.
        """
        ...

    def penalty_denominator(self, batch: TokenBatch) -> float:
        """Returns what the minibatch's sum is divided by, positive."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSurrogate:
    """PPO's clipped surrogate, the loss of GRPO and its kin.

    Attributes:
        clip_low: How far below 1 the probability ratio may go.
        clip_high: How far above 1 it may go (clip-higher: more than ``clip_low``).
        dual_clip: Bound of the ratio where the advantage is negative, above 1; None for none.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_clip(self.clip_low, self.clip_high)
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be above 1, got {self.dual_clip}")

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.formulas import policy_loss

        return policy_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens on the far side of the clip."""
        log_ratio = tokens.logprobs.detach() - tokens.old_logprobs
        return _is_beyond(log_ratio, tokens.advantages, self.clip_low, self.clip_high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gspo:
    """GSPO: the clipped surrogate with one ratio for a trajectory.

    To be used with the aggregation ``seq-mean-token-mean``.

    Attributes:
        clip_low: How far below 1 the trajectory's ratio may go.
        clip_high: How far above 1 it may go.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_clip(self.clip_low, self.clip_high)

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.formulas import gspo_loss

        return gspo_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.sequence,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens of trajectories on the far side of the clip."""
        log_ratio = _sequence_mean(tokens.logprobs.detach() - tokens.old_logprobs, tokens.sequence)
        return _is_beyond(log_ratio, tokens.advantages, self.clip_low, self.clip_high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cispo:
    """CISPO: REINFORCE with a clipped, constant importance weight.

    Attributes:
        clip_low: How far below 1 the weight may fall; 1 bounds it from above alone.
        clip_high: How far above 1 it may rise.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_clip(self.clip_low, self.clip_high)

    def __call__(self, tokens: LossTokens) -> Float[Tensor, " token"]:
        """Returns the loss of each token."""
        from calibadv_algo.losses.formulas import cispo_loss

        return cispo_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )

    def is_clipped(self, tokens: LossTokens) -> Bool[Tensor, " token"]:
        """Returns the tokens whose weight is bounded; none of them loses its gradient."""
        ratio = (tokens.logprobs.detach() - tokens.old_logprobs).exp()
        return (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)


def _is_beyond(
    log_ratio: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    clip_low: float,
    clip_high: float,
) -> Bool[Tensor, " token"]:
    """Where the surrogate is flat: the ratio has gone far enough the way it is pushed."""
    ratio = log_ratio.exp()
    return ((advantages > 0) & (ratio > 1 + clip_high)) | (
        (advantages < 0) & (ratio < 1 - clip_low)
    )


def _sequence_mean(
    values: Float[Tensor, " token"], sequence: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """The mean over its trajectory, for every token."""
    counts = sequence.bincount()
    sums = values.new_zeros(len(counts)).index_add(0, sequence, values)
    return (sums / counts.clamp(min=1))[sequence]


def _check_clip(clip_low: float, clip_high: float) -> None:
    """Raises ValueError for bounds that no ratio can have."""
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low must be in [0, 1], got {clip_low}")
    if clip_high < 0:
        raise ValueError(f"clip_high must not be negative, got {clip_high}")
