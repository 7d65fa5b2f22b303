"""Corrections for the difference between the engine that sampled and the trainer.

The engine's log-probabilities and those that the trainer computes for the same weights differ by
rounding, by kernels, by the weights' type. With ``old_logprobs="recomputed"`` both are known, and
the loss of a token can be weighed by how much more likely the trainer finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCorrection:
    """Every token counts once."""

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"] | None:
        """Returns None: there is nothing to multiply with."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTis:
    """Truncated importance sampling, token by token.

    Attributes:
        cap: Largest weight.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        """Checks the range."""
        _check_cap(self.cap)

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Returns the weight of each token."""
        from calibadv_algo.losses.formulas import token_importance_weights

        return token_importance_weights(old_logprobs, sampling_logprobs, cap=self.cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTis:
    """Truncated importance sampling with one weight for a whole trajectory.

    Attributes:
        cap: Largest weight.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        """Checks the range."""
        _check_cap(self.cap)

    def weights(
        self,
        old_logprobs: Float[Tensor, " token"],
        sampling_logprobs: Float[Tensor, " token"],
        sequence: Int[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Returns the weight of each token, the same for all tokens of a trajectory."""
        from calibadv_algo.losses.formulas import sequence_importance_weights

        return sequence_importance_weights(old_logprobs, sampling_logprobs, sequence, cap=self.cap)


Mismatch = NoCorrection | TokenTis | SequenceTis
"""Corrections that a run can be configured with."""


_MAX_LOG_RATIO = 20.0


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
    clamped = difference.clip(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    sums = np.bincount(sequence, weights=difference)[np.unique(sequence)]
    whole = np.exp(sums.clip(-_MAX_LOG_RATIO, _MAX_LOG_RATIO))
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


def _check_cap(cap: float) -> None:
    """Raises ValueError unless a cap is positive."""
    if not cap > 0:
        raise ValueError(f"cap must be positive, got {cap}")
