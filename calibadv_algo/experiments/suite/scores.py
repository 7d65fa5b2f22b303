"""Scores of a suite's records, with intervals by bootstrap over questions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.experiments.statistics import (
    Interval,
    Resamples,
    draw_resamples,
    percentile_interval,
    resampled_means,
)
from calibadv_algo.experiments.suite.calibration import calibration_error, calibration_gaps
from calibadv_algo.training.evaluation import EvalRecord

NUM_RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
SCORES: Final = ("em", "f1", "cover_em")
"""The scores of an answer."""

_SEED: Final = 20_260_418
_CELLS_AT_ONCE: Final = 4_000_000

MEASURES: Final[Mapping[str, Callable[[EvalRecord], float | None]]] = {
    "em": lambda record: record.em,
    "f1": lambda record: record.f1,
    "cover_em": lambda record: record.cover_em,
    "f1_official": lambda record: record.f1_official,
    "f1_characters": lambda record: record.f1_characters,
    "f1_cmrc": lambda record: record.f1_cmrc,
    "searches": lambda record: float(record.num_searches),
    "tokens": lambda record: record.num_action_tokens,
    "turns": lambda record: float(record.num_turns),
    "answered": lambda record: float(record.answer is not None),
    "format_valid": lambda record: record.is_format_valid,
    "cut_turns": lambda record: float(record.num_cut_turns),
}
"""Name -> what is averaged; a mean is unknown if an episode has no such number."""

KNOWN_MEASURES: Final[Mapping[str, Callable[[EvalRecord], float | None]]] = {
    "gold_recall": lambda record: record.gold_recall,
    "answer_probability": lambda record: record.answer_probability,
    "stated_confidence": lambda record: record.stated_confidence,
}
"""Name -> what is averaged over the episodes that have such a number."""

CALIBRATION: Final[Mapping[str, str]] = {
    "calibration_error": "answer_probability",
    "stated_calibration_error": "stated_confidence",
}
"""Expected calibration error -> the confidence whose it is, against the exact match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScores:
    """Scores of one dataset.

    Attributes:
        num_questions: Questions that were asked.
        num_samples: Episodes of each.
        means: Measure -> mean over questions of the mean over samples; None where an episode has
            no such number, for those of `KNOWN_MEASURES` and `CALIBRATION` where none has.
        num_known: Measure of `KNOWN_MEASURES` -> episodes that have such a number.
        best: Score -> mean over questions of the best sample: for the exact match this is
            pass@n. Empty with one sample.
        by_hops: Number of hops -> questions and mean scores, where hops are known.
        num_unasked: Episodes whose question did not fit into the context.
        resampled: Score -> its mean in every resample.
    """

    num_questions: int
    num_samples: int
    means: Mapping[str, Interval | None]
    num_known: Mapping[str, int]
    best: Mapping[str, Interval | None]
    by_hops: Mapping[int, Mapping[str, float]]
    num_unasked: int
    resampled: Mapping[str, Float[np.ndarray, " resample"]] = field(repr=False)


def score_part(name: str, records: Sequence[EvalRecord], num_samples: int) -> PartScores:
    """Averages the records of one dataset.

    Every measure is first averaged over the samples of a question, then over questions; a
    resample draws questions, with all their samples. The intervals therefore say how much the
    choice of questions matters, not what another seed of the sampling would have given.

    Args:
        name: Of the dataset; settles the random draws, so that they repeat.
        records: The samples of the first question, those of the second, and so on.
        num_samples: Episodes of each question.

    Means of `KNOWN_MEASURES` are over the questions that have such a number, and the errors of
    `CALIBRATION` over the episodes that have a confidence. An error of a sample is larger than
    that of all questions, since chance parts confidence and correctness in every bin: their
    intervals are those of the basic bootstrap, ``2 error - quantile``, which takes the same excess
    off again.

    Returns:
        Means and 95 % percentile intervals; of a single question intervals of no width.

    Raises:
        ValueError: if there is no record, or a question lacks a sample.
    """
    if not records or len(records) % num_samples:
        raise ValueError(
            f"records must be {num_samples} a question and not empty, got {len(records)}"
        )
    columns = _full_columns(records, num_samples)
    rows = {measure: matrix.mean(axis=1) for measure, matrix in columns.items()}
    known = [score for score in SCORES if score in columns]
    best = {f"best_{s}": columns[s].max(axis=1) for s in known if num_samples > 1}
    samples = _resample(name, np.stack(list((rows | best).values())))
    drawn = dict(zip(rows | best, samples, strict=True))

    def interval(measure: str) -> Interval | None:
        values = (rows | best).get(measure)
        if values is None:
            return None
        return percentile_interval(float(values.mean()), drawn[measure], confidence=CONFIDENCE)

    parts = {key: _column(of, records, num_samples) for key, of in KNOWN_MEASURES.items()}
    return PartScores(
        num_questions=len(records) // num_samples,
        num_samples=num_samples,
        means={measure: interval(measure) for measure in MEASURES}
        | {measure: _known_mean(name, column) for measure, column in parts.items()}
        | {
            error: _calibration(name, parts[confidence], columns.get("em"))
            for error, confidence in CALIBRATION.items()
        },
        num_known={measure: int((~np.isnan(column)).sum()) for measure, column in parts.items()},
        best={score: interval(f"best_{score}") for score in SCORES} if num_samples > 1 else {},
        by_hops=_by_hops(records),
        num_unasked=sum(record.num_turns == 0 for record in records),
        resampled={score: drawn[score] for score in known},
    )


def _full_columns(
    records: Sequence[EvalRecord], num_samples: int
) -> dict[str, Float[np.ndarray, "question sample"]]:
    """Columns of `MEASURES`, without those that a record lacks."""
    columns = {}
    for measure, of in MEASURES.items():
        values = [of(record) for record in records]
        if None not in values:
            columns[measure] = np.array(values, dtype=np.float64).reshape(-1, num_samples)
    return columns


def macro_average(parts: Sequence[PartScores]) -> dict[str, Interval | None]:
    """Average and interval of every score over datasets, each with the same weight.

    ``mean_d mean_q score``, however many questions a dataset has. The questions of each dataset
    are resampled for themselves. None stands where a dataset does not know the score.

    Raises:
        ValueError: if there is no dataset.
    """
    if not parts:
        raise ValueError("parts must not be empty")
    averages: dict[str, Interval | None] = {}
    for score in SCORES:
        means = [part.means[score] for part in parts]
        if any(mean is None for mean in means):
            averages[score] = None
            continue
        estimate = float(np.mean([mean.estimate for mean in means if mean is not None]))
        samples = np.mean([part.resampled[score] for part in parts], axis=0)
        averages[score] = percentile_interval(estimate, samples, confidence=CONFIDENCE)
    return averages


def _resample(
    name: str, rows: Float[np.ndarray, "measure question"]
) -> Float[np.ndarray, "measure resample"]:
    """Resampled means of every row, a few resamples at a time to bound the memory."""
    drawn = _draw(name, rows.shape[1])
    return np.concatenate([resampled_means(rows[:, None, :], each).T for each in drawn], axis=1)


def _draw(name: str, num_questions: int) -> Iterator[Resamples]:
    """Resamples of the questions of a dataset, the same ones at every call."""
    rng = np.random.Generator(np.random.PCG64([_SEED, zlib.crc32(name.encode())]))
    at_once = max(1, _CELLS_AT_ONCE // num_questions)
    for begin in range(0, NUM_RESAMPLES, at_once):
        yield draw_resamples(
            num_seeds=1,
            num_questions=num_questions,
            num_resamples=min(at_once, NUM_RESAMPLES - begin),
            rng=rng,
        )


def _resampled_sums(
    name: str, sums: Float[np.ndarray, "question sum"]
) -> Float[np.ndarray, "resample sum"]:
    """Sums over the questions of every resample."""
    drawn = _draw(name, len(sums))
    return np.concatenate([each.questions @ sums for each in drawn])


def _column(
    of: Callable[[EvalRecord], float | None], records: Sequence[EvalRecord], num_samples: int
) -> Float[np.ndarray, "question sample"]:
    """A number of every record, NaN where there is none."""
    values = [of(record) for record in records]
    found = [np.nan if value is None else float(value) for value in values]
    return np.array(found, dtype=np.float64).reshape(-1, num_samples)


def _known_mean(name: str, column: Float[np.ndarray, "question sample"]) -> Interval | None:
    """Mean over the questions that have the number, of its mean over their samples."""
    counts = (~np.isnan(column)).sum(axis=1)
    is_known = counts > 0
    if not is_known.any():
        return None
    means = np.nansum(column, axis=1) / np.maximum(counts, 1)
    sums = _resampled_sums(name, np.stack([means, is_known.astype(np.float64)], axis=1))
    samples = sums[:, 0][sums[:, 1] > 0] / sums[:, 1][sums[:, 1] > 0]
    return percentile_interval(float(means[is_known].mean()), samples, confidence=CONFIDENCE)


def _calibration(
    name: str,
    confidences: Float[np.ndarray, "question sample"],
    correct: Float[np.ndarray, "question sample"] | None,
) -> Interval | None:
    """Expected calibration error with a basic bootstrap interval between 0 and 1."""
    if correct is None or np.isnan(confidences).all():
        return None
    gaps = calibration_gaps(confidences, correct)
    error = float(calibration_error(gaps.sum(axis=0)))
    samples = calibration_error(_resampled_sums(name, gaps))
    plain = percentile_interval(error, samples[~np.isnan(samples)], confidence=CONFIDENCE)
    low, high = 2 * error - plain.high, 2 * error - plain.low
    return Interval(estimate=error, low=min(max(low, 0.0), 1.0), high=min(max(high, 0.0), 1.0))


def _by_hops(records: Sequence[EvalRecord]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for hops in sorted({record.hops for record in records} - {0}):
        chosen = [record for record in records if record.hops == hops]
        facts = {"episodes": float(len(chosen))}
        for name in (*SCORES, "searches"):
            values: list[Any] = [MEASURES[name](record) for record in chosen]
            if None not in values:
                facts[name] = float(np.mean(values))
        found[hops] = facts
    return found
