"""Intervals by cluster, with the same resamples for everything that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.experiments.statistics import Interval, draw_resamples, percentile_interval
from calibadv_algo.experiments.truth.metrics import Judged, Mask, Metric
from calibadv_algo.experiments.truth.turns import Column, Turns

Weights = Float[np.ndarray, "resample cluster"]
Samples = Float[np.ndarray, " resample"]

NUM_RESAMPLES: Final = 2000
POWER_Z: Final = 0.8416
"""Normal quantile of a power of 80 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric of a candidate.

    Attributes:
        interval: Estimate and 95 % interval.
        samples: The metric in every resample.
    """

    interval: Interval
    samples: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A candidate less the reference.

    Attributes:
        interval: Estimate and 95 % interval, of this comparison alone.
        joint: The interval that holds for all comparisons at once.
        showable: Smallest true difference that such a measurement shows in four of five cases,
            all comparisons considered.
        verdict: ``better``, ``worse`` or ``undecided``, by the joint interval.
    """

    interval: Interval
    joint: Interval
    showable: float
    verdict: str


def draw_clusters(num_clusters: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Weights:
    """Number of times that each cluster is drawn in every resample; one cluster is always drawn."""
    resamples = draw_resamples(
        num_seeds=1,
        num_questions=num_clusters,
        num_resamples=num_resamples,
        rng=np.random.default_rng([seed, 13]),
    )
    return resamples.questions


def cluster_sums(
    terms: Float[np.ndarray, "turn term"], cluster: Int[np.ndarray, " turn"], num_clusters: int
) -> Float[np.ndarray, "cluster term"]:
    """Sums of terms over the turns of every cluster."""
    sums = np.zeros((num_clusters, terms.shape[1]))
    np.add.at(sums, cluster, terms)
    return sums


def score(
    metric: Metric, turns: Turns, judged: Judged, estimate: Column, mask: Mask, weights: Weights
) -> Score:
    """A metric over some of the turns, with its interval.

    Turns outside of the mask count for nothing.
    """
    terms = metric.terms(turns, judged, estimate) * mask[:, None]
    sums = cluster_sums(terms, turns.cluster, len(turns.clusters))
    samples = np.asarray(metric.combine(weights @ sums))
    return Score(
        interval=interval_of(float(metric.combine(sums.sum(axis=0))), samples), samples=samples
    )


def interval_of(estimate: float, samples: Samples) -> Interval:
    """The percentile interval over the resamples in which there is a number."""
    known = samples[np.isfinite(samples)]
    if not np.isfinite(estimate) or not known.size:
        return Interval(estimate=estimate, low=float("nan"), high=float("nan"))
    return percentile_interval(estimate, known)


def mean_score(values: Column, turns: Turns, mask: Mask, weights: Weights) -> Score:
    """Mean of some numbers over some turns, with its interval."""
    terms = np.stack((values, np.ones_like(values)), axis=1) * mask[:, None]
    sums = cluster_sums(terms, turns.cluster, len(turns.clusters))
    total = sums.sum(axis=0)
    estimate = float(total[0] / total[1]) if total[1] else float("nan")
    drawn = weights @ sums
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = drawn[:, 0] / drawn[:, 1]
    return Score(interval=interval_of(estimate, samples), samples=samples)


def compare(
    scores: Mapping[str, Score], reference: str, best: str = "high"
) -> dict[str, Difference]:
    """Differences from the reference, with intervals that hold for all of them at once.

    The joint interval of each is ``d ± c se``, ``c`` the 95 % quantile over the resamples of the
    largest ``|d_b - d| / se`` of all comparisons.

    **Source:** Romano and Wolf 2005, Stepwise multiple testing as formalized data snooping (its
    single step).

    Args:
        scores: By candidate; their resamples are the same.
        reference: With which the others are compared.
        best: Which end of the metric is good.

    Returns:
        By candidate; a difference without any variance is 0 and undecided.
    """
    base = scores[reference]
    names = [
        name
        for name, each in scores.items()
        if name != reference and np.isfinite(each.interval.estimate)
    ]
    if not names or not np.isfinite(base.interval.estimate):
        return {}
    points = np.array([scores[name].interval.estimate - base.interval.estimate for name in names])
    samples = np.stack([scores[name].samples - base.samples for name in names], axis=1)
    samples = np.where(np.isfinite(samples), samples, points)
    errors = samples.std(axis=0, ddof=1)
    has_error = errors > 1e-12
    quantile = 1.96
    if has_error.any():
        ratios = np.abs(samples - points)[:, has_error] / errors[has_error]
        quantile = max(quantile, float(np.quantile(ratios.max(axis=1), 0.95)))
    differences = {}
    for place, name in enumerate(names):
        point, error = float(points[place]), float(errors[place])
        joint = Interval(
            estimate=point, low=point - quantile * error, high=point + quantile * error
        )
        differences[name] = Difference(
            interval=interval_of(point, samples[:, place]),
            joint=joint,
            showable=(quantile + POWER_Z) * error,
            verdict=_verdict(joint, best) if has_error[place] else "undecided",
        )
    return differences


def _verdict(joint: Interval, best: str) -> str:
    if joint.low > 0:
        return "better" if best == "high" else "worse"
    if joint.high < 0:
        return "worse" if best == "high" else "better"
    return "undecided"
