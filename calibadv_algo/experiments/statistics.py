"""Uncertainty of the numbers of a comparison: intervals, differences, stability.

Scores come as ``[arm, seed, question]``: every seed of every arm answered the same questions.
Seeds and clusters of questions are therefore crossed, and one resample draws both: the same
questions for all arms, which pairs them, and seeds of each arm for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.experiments.variance import Components, t_quantile
from calibadv_env.common.checks import require_fraction, require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the interval round it.

    Attributes:
        estimate: The number itself.
        low: Lower end.
        high: Upper end.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """Number of times that each seed and each question was drawn in every resample.

    Attributes:
        seeds: Counts of seeds, of each arm where they are drawn apart.
        questions: Counts of questions.
    """

    seeds: Float[np.ndarray, "resample *arm seed"]
    questions: Float[np.ndarray, "resample question"]


def _draw_counts(
    num_units: int, num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample unit"]:
    if num_units == 1:
        return np.ones((num_resamples, 1))
    shares = np.full(num_units, 1.0 / num_units)
    return rng.multinomial(num_units - 1, shares, size=num_resamples).astype(np.float64)


def draw_resamples(
    *,
    num_seeds: int,
    num_questions: int,
    num_resamples: int,
    rng: np.random.Generator,
    clusters: Int[np.ndarray, " question"] | None = None,
    num_arms: int | None = None,
) -> Resamples:
    """Draws seeds and clusters of questions with replacement, each for itself.

    Of n seeds (and of n clusters) n - 1 are drawn: the variance of the resampled means is then
    the unbiased ``s² / n``. Drawing n would understate it by ``(n - 1) / n``, which for two
    seeds is one half. A cluster that is drawn brings all its questions.

    **Source:** Owen 2007, The pigeonhole bootstrap (crossed resampling); Rao and Wu 1988,
    Resampling inference with complex survey data (n - 1 draws).

    **Differs:** Owen draws n of n. Where seeds and questions interact, the variance of crossed
    resampling is too large by up to a factor of 3 in the interaction's share;
    :func:`corrected_interval` takes that out again.

    Args:
        num_seeds: Number of seeds, at least 1.
        num_questions: Number of questions, at least 1.
        num_resamples: Number of resamples, at least 1.
        rng: Source of randomness.
        clusters: Number of each question's cluster, from 0; None means that every question is
            one of its own.
        num_arms: Arms whose seeds are drawn apart, since runs of two arms are independent; None
            draws the same seeds for all.

    Returns:
        The counts. One seed alone is always drawn: the intervals then speak of the questions
        only, not of what another seed would have given. The same holds for one cluster.

    Raises:
        ValueError: if a number is not positive.
    """
    require_positive(num_seeds=num_seeds, num_questions=num_questions, num_resamples=num_resamples)
    if num_arms is None:
        seeds = _draw_counts(num_seeds, num_resamples, rng)
    else:
        drawn = [_draw_counts(num_seeds, num_resamples, rng) for _ in range(num_arms)]
        seeds = np.stack(drawn, axis=1)
    if clusters is None:
        return Resamples(seeds=seeds, questions=_draw_counts(num_questions, num_resamples, rng))
    counts = _draw_counts(int(clusters.max()) + 1, num_resamples, rng)
    return Resamples(seeds=seeds, questions=counts[:, clusters])


def _check_scores(scores: np.ndarray, dims: int, resamples: Resamples) -> None:
    if scores.ndim != dims or scores.size == 0:
        raise ValueError(f"scores must have {dims} axes, none empty, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite, got NaN or infinity")
    expected = (resamples.seeds.shape[-1], resamples.questions.shape[1])
    if scores.shape[-2:] != expected:
        raise ValueError(
            f"scores must have {expected[0]} seeds and {expected[1]} questions as the resamples "
            f"have, got shape {scores.shape}"
        )


def resampled_means(
    scores: Float[np.ndarray, "arm seed question"], resamples: Resamples
) -> Float[np.ndarray, "resample arm"]:
    """Mean score of every arm in every resample.

    Raises:
        ValueError: if shapes do not fit or a score is not finite.
    """
    _check_scores(scores, 3, resamples)
    by_seed = np.einsum("rq,asq->ras", resamples.questions, scores, optimize=True)
    seeds = resamples.seeds if resamples.seeds.ndim == 3 else resamples.seeds[:, None]
    totals = (seeds * by_seed).sum(axis=2)
    weight = seeds.sum(axis=2) * resamples.questions.sum(axis=1)[:, None]
    return np.asarray(totals / weight)


def resampled_run_means(
    scores: Float[np.ndarray, "seed question"],
    questions: Float[np.ndarray, "resample question"],
) -> Float[np.ndarray, "resample seed"]:
    """Mean score of every run of one arm on the questions of every resample."""
    return np.asarray(questions @ scores.T / questions.sum(axis=1, keepdims=True))


def _middle_half_mean(
    ascending: Float[np.ndarray, "#resample cell"], weights: Float[np.ndarray, "resample cell"]
) -> Float[np.ndarray, " resample"]:
    upper = np.cumsum(weights, axis=1)
    total = upper[:, -1:]
    kept = np.minimum(upper, 0.75 * total) - np.maximum(upper - weights, 0.25 * total)
    kept = np.maximum(kept, 0.0)
    return np.asarray((kept * ascending).sum(axis=1) / kept.sum(axis=1))


def interquartile_mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean of the middle half of all values.

    The lowest and the highest quarter of the mass are left out; a value on the border counts
    with the part of it that lies inside.

    **Source:** Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical
    precipice, section 4.3.

    **Differs:** theirs drops whole values; the parts make it defined for any number of values.

    Args:
        values: Any shape, not empty.

    Returns:
        The mean; of one value the value itself.

    Raises:
        ValueError: if there is no value or one is not finite.
    """
    flat = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    if flat.size == 0 or not np.isfinite(flat).all():
        raise ValueError(f"values must be finite and not empty, got {flat.size} values")
    return float(_middle_half_mean(flat[None], np.ones((1, flat.size)))[0])


def resampled_interquartile_means(
    scores: Float[np.ndarray, "seed question"], resamples: Resamples, arm: int = 0
) -> Float[np.ndarray, " resample"]:
    """Interquartile mean of the runs of one arm in every resample.

    A run counts with its mean over the questions that were drawn: the middle half is that of the
    runs, not of single answers, most of which are 0 or 1.

    Args:
        scores: Scores of the arm.
        resamples: Draws of seeds and questions.
        arm: Which arm's seeds, where they were drawn apart.

    Raises:
        ValueError: if shapes do not fit or a score is not finite.
    """
    _check_scores(scores, 2, resamples)
    means = resampled_run_means(scores, resamples.questions)
    seeds = resamples.seeds[:, arm] if resamples.seeds.ndim == 3 else resamples.seeds
    order = np.argsort(means, axis=1, kind="stable")
    return _middle_half_mean(
        np.take_along_axis(means, order, axis=1), np.take_along_axis(seeds, order, axis=1)
    )


def win_shares(
    baseline: Float[np.ndarray, "seed question"], candidate: Float[np.ndarray, "seed question"]
) -> Float[np.ndarray, "seed question"]:
    """Where the candidate beats the baseline: 1 if it does, 0.5 for a tie, 0 if it is beaten.

    The mean is the probability of improvement: how likely the candidate scores higher than the
    baseline on a question, with the same seed. Its interval comes from
    :func:`resampled_means` like that of any other score.

    **Source:** Agarwal et al. 2021, section 4.3.

    **Differs:** theirs compares every pair of runs. Runs of one seed share the order of
    questions here, so seeds are compared with themselves.

    Args:
        baseline: Scores of the baseline.
        candidate: Scores of the candidate for the same seeds and questions.

    Returns:
        One number a seed and question; 0.5 everywhere when all scores are equal.

    Raises:
        ValueError: if the shapes differ or are empty.
    """
    if baseline.shape != candidate.shape or baseline.ndim != 2 or baseline.size == 0:
        raise ValueError(
            "baseline and candidate must have the same seeds and questions, got shapes "
            f"{baseline.shape} and {candidate.shape}"
        )
    return np.asarray((np.sign(candidate - baseline) + 1.0) / 2.0)


def percentile_interval(
    estimate: float, samples: Float[np.ndarray, " resample"], *, confidence: float = 0.95
) -> Interval:
    """Percentile interval of resampled estimates.

    Args:
        estimate: The estimate on the data itself.
        samples: The estimate on every resample.
        confidence: Wanted coverage, between 0 and 1.

    Returns:
        The interval; of width 0 when all samples are equal.

    Raises:
        ValueError: if the confidence is out of range or there is no sample.
    """
    _require_between_0_and_1(confidence=confidence)
    if samples.size == 0:
        raise ValueError("samples must not be empty")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return Interval(estimate=float(estimate), low=float(low), high=float(high))


def corrected_interval(
    estimate: float,
    samples: Float[np.ndarray, " resample"],
    found: Components,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of resampled estimates that keeps its coverage with few seeds.

    The ends of the percentile interval move away from the estimate by ``t / z · se / sd``: sd the
    spread of the resampled estimates, se the standard error by components of variance, which
    counts what a seed does with a cluster alone once, t and z the quantiles of Student's t with
    the components' degrees of freedom and of the normal.

    **Source:** Efron 1979 (percentiles); Hesterberg 2015, What teachers should know about the
    bootstrap, section 5 (percentiles widened by t / z for small samples).

    Args:
        estimate: The estimate on the data itself.
        samples: The estimate on every resample, of crossed clusters and seeds.
        found: Components of the estimate's variance on the data.
        confidence: Wanted coverage, between 0 and 1.

    Returns:
        The interval; of width 0 when nothing varies.

    Raises:
        ValueError: if the confidence is out of range or there is no sample.
    """
    plain = percentile_interval(estimate, samples, confidence=confidence)
    spread = float(samples.std())
    if spread <= 1e-15:
        return plain
    tail = (1.0 + confidence) / 2.0
    ratio = found.standard_error / spread * t_quantile(tail, found.df) / NormalDist().inv_cdf(tail)
    return Interval(
        estimate=plain.estimate,
        low=plain.estimate + ratio * (plain.low - plain.estimate),
        high=plain.estimate + ratio * (plain.high - plain.estimate),
    )


def is_stable(
    f1_by_update: Sequence[float], *, has_alarm: bool, min_final_share: float = 0.8
) -> bool:
    """Stability of a run: it ended near its best without a collapse alarm.

    Stable means that no alarm was raised and that the last evaluation has at least
    ``min_final_share`` of the F1 of the best one.

    Args:
        f1_by_update: Mean F1 of every evaluation in order, at least one.
        has_alarm: True if the collapse alarm was raised at any update.
        min_final_share: Share of the best that the last must keep, 0 to 1.

    Returns:
        False also when the last F1 is NaN. True for a run that never scored: it learnt
        nothing, but it did not collapse.

    Raises:
        ValueError: if there is no evaluation or the share is out of range.
    """
    if not f1_by_update:
        raise ValueError("f1_by_update must hold at least one evaluation")
    require_fraction(min_final_share=min_final_share)
    final = f1_by_update[-1]
    if has_alarm or math.isnan(final):
        return False
    best = max(value for value in f1_by_update if not math.isnan(value))
    return final >= min_final_share * best


def share_interval(num_successes: int, num_trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson interval of a share, for the few runs of a comparison.

    Unlike a bootstrap it does not shrink to a point when all runs agree.

    **Source:** Wilson 1927, Probable inference, the law of succession, and statistical
    inference.

    Args:
        num_successes: How many succeeded.
        num_trials: Out of how many, at least 1.
        confidence: Wanted coverage, between 0 and 1.

    Returns:
        The share and its interval, within 0 and 1.

    Raises:
        ValueError: if the counts are not possible or the confidence is out of range.
    """
    if num_trials < 1 or not 0 <= num_successes <= num_trials:
        raise ValueError(
            f"num_successes must be between 0 and num_trials >= 1, got {num_successes} of "
            f"{num_trials}"
        )
    _require_between_0_and_1(confidence=confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = num_successes / num_trials
    shrink = 1.0 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / shrink
    half = (
        z
        / shrink
        * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials * num_trials))
    )
    return Interval(estimate=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def _require_between_0_and_1(**values: float) -> None:
    """Raises ValueError for a value outside (0, 1)."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
