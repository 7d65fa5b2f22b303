"""Probability ratios of policies, their means over trajectories, and the clip on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from torch import Tensor

Bound: TypeAlias = "float | Float[Tensor, ' token']"
"""Width of the clip on one side: the same for all tokens, or one a token."""

MAX_LOG_RATIO: Final = 20.0
"""Bound of log-ratios before they are exponentiated, as in verl."""


def probability_ratio(
    logprobs: Float[Tensor, " token"], old_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """``exp(clamp(logprob - old_logprob, -20, 20))``."""
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def sequence_sum(
    values: Float[Tensor, " token"], sequence: Int[Tensor, " token"]
) -> Float[Tensor, " sequence"]:
    """Sum over each trajectory; 0 for numbers that no token has."""
    return values.new_zeros(len(sequence.bincount())).index_add(0, sequence, values)


def sequence_mean(
    values: Float[Tensor, " token"], sequence: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Mean over its trajectory, for every token."""
    return (sequence_sum(values, sequence) / sequence.bincount().clamp(min=1))[sequence]


def clipped_surrogate(
    ratio: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    clip_low: Bound,
    clip_high: Bound,
) -> Float[Tensor, " token"]:
    """``max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))``."""
    clipped = ratio.clamp(min=1 - clip_low).clamp(max=1 + clip_high)
    return (-advantages * ratio).maximum(-advantages * clipped)


def is_beyond_clip(
    log_ratio: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    clip_low: Bound,
    clip_high: Bound,
) -> Bool[Tensor, " token"]:
    """Tokens where the surrogate is flat: the ratio has gone far enough the way it is pushed."""
    ratio = log_ratio.exp()
    return ((advantages > 0) & (ratio > 1 + clip_high)) | (
        (advantages < 0) & (ratio < 1 - clip_low)
    )
