"""How the runs of an arm ended as a whole: profile, area under the curve, optimality gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def performance_profile(
    runs: Float[np.ndarray, " run"], thresholds: Float[np.ndarray, " threshold"]
) -> Float[np.ndarray, " threshold"]:
    """Share of the runs that end above each threshold.

    **Source:** Agarwal et al. 2021, section 4.2.

    Args:
        runs: Score of each run, at least one.
        thresholds: Scores to ask for.

    Returns:
        A curve that falls from 1 to 0; higher is better everywhere.

    Raises:
        ValueError: if there is no run.
    """
    if runs.size == 0:
        raise ValueError("runs must not be empty")
    return np.asarray((runs[None, :] > thresholds[:, None]).mean(axis=1))


def optimality_gap(runs: Float[np.ndarray, " run"], target: float = 1.0) -> float:
    """Mean distance of the runs below a target; what a run has above it does not count.

    **Source:** Agarwal et al. 2021, section 4.3.

    Raises:
        ValueError: if there is no run.
    """
    if runs.size == 0:
        raise ValueError("runs must not be empty")
    return float(np.maximum(target - runs, 0.0).mean())


def area_under_curve(updates: Sequence[int], scores: Sequence[float]) -> float:
    """Mean score over training: area under the learning curve over its length (trapezoids).

    Args:
        updates: Where the run was evaluated, ascending.
        scores: Its scores there.

    Returns:
        The mean; of a single evaluation its score.

    Raises:
        ValueError: if there is no evaluation or the numbers of both differ.
    """
    if not updates or len(updates) != len(scores):
        raise ValueError(
            f"updates and scores must be as many, got {len(updates)} and {len(scores)}"
        )
    if len(updates) == 1:
        return float(scores[0])
    return float(np.trapezoid(scores, updates) / (updates[-1] - updates[0]))
