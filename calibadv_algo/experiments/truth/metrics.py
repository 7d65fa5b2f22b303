"""How well advantages agree with the truth: every metric as a function of sums over turns.

A metric has two parts. Its *terms* are a few numbers a turn; its *combination* makes the metric of
their sums. So a resample of clusters costs a weighted sum, and all estimators see the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.experiments.truth.turns import Column, Turns

Terms = Float[np.ndarray, "turn term"]
Sums = Float[np.ndarray, "*resamples term"]
Values = Float[np.ndarray, "*resamples"]
Mask = Bool[np.ndarray, " turn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the noise leaves of the truth about each turn, under a normal prior.

    Attributes:
        chance_good: Chance that the true advantage is above 0.
        good: Expected size of its positive part.
        bad: Expected size of its negative part.
    """

    chance_good: Column
    good: Column
    bad: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that says how good advantages are.

    Attributes:
        name: Key in files.
        title: Heading of its column.
        meaning: One line.
        terms: Terms of all turns, given them, what is known of them, and the advantages.
        combine: The metric of sums of terms.
        best: ``high`` or ``low``: which end is good.
    """

    name: str
    title: str
    meaning: str
    terms: Callable[[Turns, Judged, Column], Terms]
    combine: Callable[[Sums], Values]
    best: str = "high"


def judge(turns: Turns) -> Judged:
    """Posterior of the true advantages: measured ones drawn towards 0 by their noise.

    The prior is normal with mean 0 and the variance that the halves have in common.
    """
    prior = max(1e-12, float(np.mean(turns.halves[0] * turns.halves[1])))
    noise = np.maximum(turns.error**2, 1e-12)
    shrink = prior / (prior + noise)
    mean, deviation = shrink * turns.truth, np.sqrt(shrink * noise)
    z = mean / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    chance = np.array([0.5 + 0.5 * math.erf(each / math.sqrt(2)) for each in z])
    good = mean * chance + deviation * density
    return Judged(chance_good=chance, good=good, bad=good - mean)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> Values:
    """The quotient, NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(bottom) > 1e-12, top / np.where(bottom == 0, 1, bottom), np.nan)


def correlation_terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
    """Sums that both correlations need: moments of the estimate, the truth and its halves."""
    first, second = turns.halves
    ones = np.ones_like(estimate)
    parts = (ones, estimate, turns.truth, estimate**2, turns.truth**2, estimate * turns.truth)
    return np.stack((*parts, first, second, first * second), axis=1)


def _moments(sums: Sums) -> tuple[Values, Values, Values, Values]:
    """Covariance with the truth; variances of estimate and measured truth; that without noise."""
    n, a, t, aa, tt, at, f, s, fs = np.moveaxis(sums, -1, 0)
    n = np.where(n > 0, n, np.nan)
    return (
        at / n - a * t / n**2,
        aa / n - (a / n) ** 2,
        tt / n - (t / n) ** 2,
        fs / n - f * s / n**2,
    )


def correlation(sums: Sums) -> Values:
    """Pearson's correlation with the measured truth; noise in the truth draws it towards 0."""
    shared, estimate, truth, _ = _moments(sums)
    return _ratio(shared, np.sqrt(np.maximum(estimate * truth, 0.0)))


def corrected_correlation(sums: Sums) -> Values:
    """The correlation with the truth itself: its variance is what two halves have in common."""
    shared, estimate, _, common = _moments(sums)
    return _ratio(shared, np.sqrt(np.maximum(estimate * common, 0.0)))


def reliability(sums: Sums) -> Values:
    """Share of the measured truth's variance that is no noise."""
    _, _, truth, common = _moments(sums)
    return _ratio(common, truth)


def explained_terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
    """Moments of the truth's halves, and the square error of the estimate without their noise."""
    first, second = turns.halves
    error = (estimate - first) * (estimate - second)
    return np.stack((np.ones_like(estimate), first, second, first * second, error), axis=1)


def explained_share(sums: Sums) -> Values:
    """``1 - E[(estimate - truth)^2] / Var(truth)``: 1 for the truth, 0 for its mean."""
    n, f, s, fs, error = np.moveaxis(sums, -1, 0)
    n = np.where(n > 0, n, np.nan)
    return np.asarray(1.0 - _ratio(error / n, fs / n - f * s / n**2))


def rank_terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
    """Differences of the truth between turns of an episode, with the estimate's order and alone."""
    agree, total = np.zeros_like(estimate), np.zeros_like(estimate)
    starts = np.flatnonzero(np.append(True, turns.episode[1:] != turns.episode[:-1]))
    ends = np.append(starts[1:], len(estimate))
    for start, end in zip(starts, ends, strict=True):
        if end - start < 2:
            continue
        truth, own = turns.truth[start:end], estimate[start:end]
        differences = truth[:, None] - truth[None, :]
        signs = np.sign(np.round(own[:, None] - own[None, :], 12))
        agree[start] = float((signs * differences).sum())
        total[start] = float(np.abs(differences).sum())
    return np.stack((agree, total), axis=1)


def _first_over_second(sums: Sums) -> Values:
    return _ratio(sums[..., 0], sums[..., 1])


def _share(
    wrong: Callable[[Judged, Column], Column], all_: Callable[[Judged], Column]
) -> Callable[[Turns, Judged, Column], Terms]:
    """Terms of the share of something that falls to turns with the wrong sign."""

    def terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
        return np.stack((wrong(judged, estimate), all_(judged)), axis=1)

    return terms


def mass_terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
    """Advantage mass by tokens, and the part of it that expects the wrong sign."""
    mass = np.abs(estimate) * turns.tokens
    wrong = np.where(estimate > 0, 1.0 - judged.chance_good, judged.chance_good)
    return np.stack((mass * wrong, mass), axis=1)


def bias_terms(turns: Turns, judged: Judged, estimate: Column) -> Terms:
    """Sums of estimate and truth over searches, and their squares over all turns."""
    is_search = turns.is_search.astype(np.float64)
    common = turns.halves[0] * turns.halves[1]
    columns = (is_search, is_search * estimate, is_search * turns.truth)
    return np.stack((*columns, np.ones_like(estimate), estimate**2, common), axis=1)


def search_bias(sums: Sums) -> Values:
    """Mean advantage of a search, less the true one, each in units of its root mean square."""
    n, a, t, every, aa, tt = np.moveaxis(sums, -1, 0)
    own = _ratio(a, n) / np.sqrt(np.maximum(_ratio(aa, every), 1e-24))
    true = _ratio(t, n) / np.sqrt(np.maximum(_ratio(tt, every), 1e-24))
    return np.asarray(own - true)


CORRELATION: Final = Metric(
    name="correlation",
    title="Correlation",
    meaning="with the measured truth; noise in the truth draws it towards 0",
    terms=correlation_terms,
    combine=correlation,
)

CORRECTED: Final = Metric(
    name="corrected",
    title="… corrected",
    meaning="with the truth itself, by split halves of the continuations",
    terms=correlation_terms,
    combine=corrected_correlation,
)

EXPLAINED: Final = Metric(
    name="explained",
    title="Explained",
    meaning="share of the truth's variance that estimates on its own scale account for",
    terms=explained_terms,
    combine=explained_share,
)
"""For values of states, which have the scale of the truth; advantages have any."""

METRICS: Final = (
    CORRELATION,
    CORRECTED,
    Metric(
        name="rank",
        title="Rank in episode",
        meaning="agreement about which turn of an episode was better, weighted by the "
        "difference: 1 all, 0 none or no opinion, −1 the opposite",
        terms=rank_terms,
        combine=_first_over_second,
    ),
    Metric(
        name="good_punished",
        title="Good punished",
        meaning="share of what was truly gained in turns with a negative advantage",
        terms=_share(lambda judged, a: judged.good * (a < 0), lambda judged: judged.good),
        combine=_first_over_second,
        best="low",
    ),
    Metric(
        name="bad_rewarded",
        title="Bad rewarded",
        meaning="share of what was truly lost in turns with a positive advantage",
        terms=_share(lambda judged, a: judged.bad * (a > 0), lambda judged: judged.bad),
        combine=_first_over_second,
        best="low",
    ),
    Metric(
        name="wrong_mass",
        title="Wrong mass",
        meaning="expected share of the advantage mass, by tokens, that has the wrong sign",
        terms=mass_terms,
        combine=_first_over_second,
        best="low",
    ),
    Metric(
        name="search_bias",
        title="Search bias",
        meaning="mean advantage of a search less the true one, in root mean squares: above 0, "
        "searching as such is rewarded",
        terms=bias_terms,
        combine=search_bias,
        best="low",
    ),
)
"""Metrics in the order of the table."""
