"""Rows of the tables of a comparison: levels, gains and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.experiments.profiles import optimality_gap
from calibadv_algo.experiments.statistics import (
    Interval,
    Resamples,
    corrected_interval,
    draw_resamples,
    interquartile_mean,
    resampled_interquartile_means,
    resampled_means,
    win_shares,
)
from calibadv_algo.experiments.variance import Components, components
from calibadv_algo.report.reading import SCORE_NAMES, Comparison

CONFIDENCE: Final[float] = 0.95
WARM_START: Final[str] = "warm start"

RowKind = Literal["warm_start", "arm", "gain", "difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        name: What the line is about.
        kind: ``gain`` is an arm minus the warm start, ``difference`` an arm minus the baseline.
        scores: Interval by name of the score (see ``reading.SCORE_NAMES``).
        f1_interquartile_mean: Mean of the middle half of the runs; only for levels.
        f1_over_training: Area under the learning curve over its length, on the split of the
            curves, mean over runs; only for arms.
        optimality_gap: Mean distance of the runs' F1 below 1; only for arms.
        stability: Share of the runs that were stable; only for arms.
        probability_of_improvement: That the arm's F1 on a question is above the baseline's;
            only for differences.
    """

    name: str
    kind: RowKind
    scores: Mapping[str, Interval]
    f1_interquartile_mean: Interval | None = None
    f1_over_training: float | None = None
    optimality_gap: float | None = None
    stability: Interval | None = None
    probability_of_improvement: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Scores of all rows with their resamples.

    Attributes:
        values: Scores by name.
        clusters: Number of each question's cluster.
        resamples: Draws of clusters, and of each row's seeds.
        means: Resampled means by name.
    """

    values: Mapping[str, Float[np.ndarray, "row seed question"]]
    clusters: Int[np.ndarray, " question"]
    resamples: Resamples
    means: Mapping[str, Float[np.ndarray, "resample row"]]

    def found(self, score: str, *sides: tuple[int, int]) -> Components:
        """Components of the variance of a signed sum of rows, each (sign, place)."""
        return components([(sign, self.values[score][i]) for sign, i in sides], self.clusters)

    def level(self, score: str, row: int) -> Interval:
        """A row's mean with its interval, within what the score can be."""
        interval = corrected_interval(
            float(self.values[score][row].mean()),
            self.means[score][:, row],
            self.found(score, (1, row)),
            confidence=CONFIDENCE,
        )
        return _within(interval, 0.0, math.inf if score == "num_searches" else 1.0)

    def difference(self, score: str, ahead: int, behind: int) -> Interval:
        """One row minus another with its interval, within what the score can be."""
        interval = corrected_interval(
            float((self.values[score][ahead] - self.values[score][behind]).mean()),
            self.means[score][:, ahead] - self.means[score][:, behind],
            self.found(score, (1, ahead), (-1, behind)),
            confidence=CONFIDENCE,
        )
        reach = math.inf if score == "num_searches" else 1.0
        return _within(interval, -reach, reach)


def _within(interval: Interval, low: float, high: float) -> Interval:
    """An interval without the values that cannot be."""
    return Interval(
        estimate=interval.estimate, low=max(interval.low, low), high=min(interval.high, high)
    )


def draw_sample(
    values: Mapping[str, Float[np.ndarray, "row seed question"]],
    clusters: Int[np.ndarray, " question"],
    rng: np.random.Generator,
    num_resamples: int,
) -> Sample:
    """Draws resamples for all rows: the same clusters, seeds of each row for itself."""
    num_rows, num_seeds, num_questions = values["f1"].shape
    codes = np.unique(clusters, return_inverse=True)[1]
    resamples = draw_resamples(
        num_seeds=num_seeds,
        num_questions=num_questions,
        num_resamples=num_resamples,
        rng=rng,
        clusters=codes,
        num_arms=num_rows,
    )
    means = {name: resampled_means(values[name], resamples) for name in values}
    return Sample(values=values, clusters=codes, resamples=resamples, means=means)


def _level_row(name: str, place: int, sample: Sample) -> Row:
    """The row of the warm start or of an arm."""
    f1 = sample.values["f1"][place]
    middle = interquartile_mean(f1.mean(axis=1))
    middles = resampled_interquartile_means(f1, sample.resamples, place)
    return Row(
        name=name,
        kind="warm_start" if name == WARM_START else "arm",
        scores={score: sample.level(score, place) for score in SCORE_NAMES},
        f1_interquartile_mean=_within(
            corrected_interval(
                middle, middles, sample.found("f1", (1, place)), confidence=CONFIDENCE
            ),
            0.0,
            1.0,
        ),
        optimality_gap=None if name == WARM_START else optimality_gap(f1.mean(axis=1)),
    )


def _difference_row(name: str, kind: RowKind, pair: tuple[int, int], sample: Sample) -> Row:
    """Row ``pair[0]`` minus row ``pair[1]``, on the same questions."""
    ahead, behind = pair
    scores = {score: sample.difference(score, ahead, behind) for score in SCORE_NAMES}
    if kind != "difference":
        return Row(name=name, kind=kind, scores=scores)
    wins = win_shares(sample.values["f1"][behind], sample.values["f1"][ahead])
    means = resampled_means(
        wins[None],
        Resamples(seeds=sample.resamples.seeds[:, ahead], questions=sample.resamples.questions),
    )[:, 0]
    return Row(
        name=name,
        kind=kind,
        scores=scores,
        probability_of_improvement=_within(
            corrected_interval(
                float(wins.mean()),
                means,
                components([(1, wins)], sample.clusters),
                confidence=CONFIDENCE,
            ),
            0.0,
            1.0,
        ),
    )


def table_rows(
    comparison: Comparison,
    names: Sequence[str],
    values: Mapping[str, Float[np.ndarray, "row seed question"]],
    clusters: Int[np.ndarray, " question"],
    rng: np.random.Generator,
    num_resamples: int,
) -> tuple[Row, ...]:
    """Rows of a table: warm start, arms, gains, differences from the baseline, in this order.

    Args:
        comparison: The comparison.
        names: Names of the rows that have scores: the warm start, if it has any, and the arms.
        values: Their scores, by name of the score.
        clusters: Number of each question's cluster.
        rng: Source of randomness.
        num_resamples: Resamples of the bootstrap.
    """
    base = names.index(comparison.baseline)
    sample = draw_sample(values, clusters, rng, num_resamples)
    rows = [_level_row(name, place, sample) for place, name in enumerate(names)]
    arms = range(len(names) - len(comparison.arms), len(names))
    if names[0] == WARM_START:
        rows += [
            _difference_row(f"{names[i]} − {WARM_START}", "gain", (i, 0), sample) for i in arms
        ]
    rows += [
        _difference_row(f"{names[i]} − {names[base]}", "difference", (i, base), sample)
        for i in arms
        if i != base
    ]
    return tuple(rows)
