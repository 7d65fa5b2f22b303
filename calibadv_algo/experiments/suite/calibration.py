"""Expected calibration error: how far confidence and correctness are apart, bin by bin."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

NUM_BINS: Final = 10
"""Bins of equal width between 0 and 1."""


def calibration_gaps(
    confidences: Float[np.ndarray, "question sample"],
    correct: Float[np.ndarray, "question sample"],
    num_bins: int = NUM_BINS,
) -> Float[np.ndarray, "question gap"]:
    """Sums over the samples of each question that :func:`calibration_error` is made of.

    Args:
        confidences: Between 0 and 1; NaN where there is none, which counts nowhere.
        correct: 1 or 0.
        num_bins: Bins of equal width; 1 belongs to the last.

    Returns:
        For each bin the sum of correctness minus confidence, and last the number of confidences.
    """
    is_known = ~np.isnan(confidences)
    places = np.minimum((np.nan_to_num(confidences) * num_bins).astype(np.int64), num_bins - 1)
    differences = np.where(is_known, correct - np.nan_to_num(confidences), 0.0)
    columns = [(differences * (places == place)).sum(axis=1) for place in range(num_bins)]
    return np.stack([*columns, is_known.sum(axis=1).astype(np.float64)], axis=1)


def calibration_error(sums: Float[np.ndarray, "*set gap"]) -> Float[np.ndarray, "*set"]:
    """Expected calibration error of sets of answers.

    ``sum_b n_b / n |accuracy_b - confidence_b|``, which is the sum over bins of
    ``|sum of (correct - confidence)|`` divided by ``n``.

    **Source:** Guo et al. 2017 (arXiv 1706.04599), eq. 3.

    **Differs:** nothing; ten bins instead of fifteen.

    Args:
        sums: :func:`calibration_gaps`, summed over the questions of each set.

    Returns:
        Between 0 and 1; NaN for a set without a confidence.
    """
    counts = sums[..., -1]
    total = np.abs(sums[..., :-1]).sum(axis=-1)
    return np.where(counts > 0, total / np.maximum(counts, 1.0), np.nan)
