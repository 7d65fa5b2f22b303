"""Corrections for the difference between the engine that sampled and the trainer.

The engine's log-probabilities and those that the trainer computes for the same weights differ by
rounding, by kernels, by the weights' type. With ``old_logprobs="recomputed"`` both are known, and
the loss of a token can be weighed by how much more likely the trainer finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Gt
from jaxtyping import Bool, Float, Int

from calibadv_algo.losses.base import MismatchCorrection
from calibadv_algo.losses.ratios import (
    MAX_LOG_RATIO,
    probability_ratio,
    sequence_mean,
    sequence_sum,
)
from calibadv_env.common.checks import MAY_BE_INFINITE, NOT_NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _TruncatedWeights(MismatchCorrection):
    """Importance weights that are bounded from above, and from below where that is asked for.

    Attributes:
        cap: Largest weight; infinity for none.
        floor: Smallest weight, not above the cap.
    """

    cap: Annotated[float, POSITIVE, MAY_BE_INFINITE] = 2.0
    floor: Annotated[float, NOT_NEGATIVE] = 0.0

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: if one is out of its range, or the floor is above the cap.
        """
        MismatchCorrection.__post_init__(self)
        if self.floor > self.cap:
            raise ValueError(f"floor must not be above cap {self.cap}, got {self.floor}")

    def is_truncated(self, weights: Float[Tensor, " token"]) -> Bool[Tensor, " token"]:
        """Tokens whose weight is at a bound."""
        return (weights >= self.cap) | ((weights <= self.floor) & (self.floor > 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTis(_TruncatedWeights):
    """Truncated importance sampling, token by token.

    ``clip(exp(clamp(old_logprob - sampling_logprob, -20, 20)), floor, cap)``. Where
    ``old_logprobs`` are the sampling ones, all weights are 1.

    **Source:** truncated importance sampling, as in verl's rollout correction; TRL's
    ``token_truncate``.

    **Differs:** nothing.
    """

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Weight of each token, in [floor, cap]."""
        weights = _token_weights(old_logprobs, sampling_logprobs)
        return weights.clamp(self.floor, self.cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTis(_TruncatedWeights):
    """Truncated importance sampling with one weight for a whole trajectory.

    As :class:`TokenTis`, with the log-ratios summed over the trajectory before they are clamped.

    **Source:** truncated importance sampling, as in verl's rollout correction; TRL's
    ``sequence_truncate``.

    **Differs:** nothing.
    """

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Weight of each token, equal for all tokens of a trajectory."""
        weights = _sequence_weights(old_logprobs, sampling_logprobs, sequence)
        return weights.clamp(self.floor, self.cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedIs(MismatchCorrection):
    """Masked importance sampling: tokens whose weight is out of bounds are left out.

    The weights are those of :class:`TokenTis` or :class:`SequenceTis` without bounds. By token,
    with ``low=0.5`` and ``high=5``, it is IcePop.

    **Source:** masked importance sampling, as in verl's rollout correction; TRL's ``token_mask``
    and ``sequence_mask``; IcePop (arXiv 2510.18855).

    **Differs:** nothing.

    Attributes:
        level: Weights of tokens, or one for a whole trajectory.
        low: Least weight that is kept.
        high: Largest weight that is kept; 3 in TRL, infinity for none.
    """

    level: Literal["token", "sequence"] = "sequence"
    low: Annotated[float, NOT_NEGATIVE] = 0.0
    high: Annotated[float, POSITIVE, MAY_BE_INFINITE] = 3.0

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Weight of each token, 0 where it is out of bounds."""
        if self.level == "token":
            weights = _token_weights(old_logprobs, sampling_logprobs)
        else:
            weights = _sequence_weights(old_logprobs, sampling_logprobs, sequence)
        return weights.where((weights >= self.low) & (weights <= self.high), 0.0)

    def is_truncated(self, weights: Float[Tensor, " token"]) -> Bool[Tensor, " token"]:
        """Tokens that are left out."""
        return weights == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMask(MismatchCorrection):
    """Trajectories are left out where trainer and engine differ too much on average.

    Kept where ``low <= exp(mean(old_logprob - sampling_logprob)) <= high`` over the trajectory's
    tokens: unlike the product, the mean does not grow with length. What is kept weighs 1, or
    :class:`TokenTis` where there is a ``cap``.

    **Source:** geometric rejection sampling, as in verl's rollout correction (``seq_mean_k1``).

    **Differs:** the bounds are of the ratio trainer over engine. verl's are of its inverse, which
    is the same for ``low = 1 / high``.

    Attributes:
        low: Least geometric mean that is kept.
        high: Largest geometric mean that is kept.
        cap: Largest weight of a token; None for no weights.
    """

    low: Annotated[float, NOT_NEGATIVE] = 0.999
    high: Annotated[float, POSITIVE] = 1.001
    cap: Annotated[float | None, Gt(0)] = None

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Weight of each token, 0 in trajectories that are left out."""
        ratio = _token_weights(old_logprobs, sampling_logprobs)
        mean = sequence_mean(ratio.log(), sequence).exp()
        weights = ratio.new_ones(ratio.shape) if self.cap is None else ratio.clamp(max=self.cap)
        return weights.where((mean >= self.low) & (mean <= self.high), 0.0)

    def is_truncated(self, weights: Float[Tensor, " token"]) -> Bool[Tensor, " token"]:
        """Tokens that are left out."""
        return weights == 0


def _token_weights(
    old_logprobs: Float[Tensor, " token"], sampling_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """How much more likely the trainer finds each token than the engine did."""
    return probability_ratio(old_logprobs, sampling_logprobs).detach()


def _sequence_weights(
    old_logprobs: Float[Tensor, " token"],
    sampling_logprobs: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """How much more likely the trainer finds each token's whole trajectory."""
    sums = sequence_sum((old_logprobs - sampling_logprobs).detach(), sequence)
    return sums.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[sequence]


def mismatch_stats(
    old_logprobs: Float[np.ndarray, " token"],
    sampling_logprobs: Float[np.ndarray, " token"],
    sequence: Int[np.ndarray, " token"],
) -> dict[str, float]:
    """Measures how far the trainer's log-probabilities are from the engine's.

    With ``d = old_logprob - sampling_logprob``: mean and largest ``|d|``; k1, the mean of
    ``-d``, and k3, the mean of ``exp(d) - 1 - d``, which both estimate KL(engine || trainer); the
    1st and 99th percentile of the tokens' ratios ``exp(d)``; smallest, median and largest ratio
    of whole trajectories, ``exp`` of the sum of ``d``.

    **Source:** Schulman, "Approximating KL divergence" (2020); what the FP16 study
    (arXiv 2510.26788) logs.

    **Differs:** ``d`` and its sums are clamped to +-20 before ``exp``.

    Args:
        old_logprobs: As the trainer computes them for the weights that sampled.
        sampling_logprobs: As the engine reported them.
        sequence: Trajectory of each token.

    Returns:
        Numbers by name, each beginning with ``mismatch_``; {} without tokens.
    """
    if len(old_logprobs) == 0:
        return {}
    difference = old_logprobs.astype(np.float64) - sampling_logprobs
    clamped = difference.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    sums = np.bincount(sequence, weights=difference)[np.unique(sequence)]
    whole = np.exp(sums.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    low, high = np.quantile(np.exp(clamped), (0.01, 0.99))
    stats = {
        "mean_abs": np.abs(difference).mean(),
        "max_abs": np.abs(difference).max(),
        "k1": -difference.mean(),
        "k3": (np.expm1(clamped) - clamped).mean(),
        "ratio_p01": low,
        "ratio_p99": high,
        "sequence_ratio_min": whole.min(),
        "sequence_ratio_median": np.median(whole),
        "sequence_ratio_max": whole.max(),
    }
    return {f"mismatch_{name}": float(value) for name, value in stats.items()}
