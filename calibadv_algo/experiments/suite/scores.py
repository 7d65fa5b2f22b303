"""Means of a suite's records, with intervals by bootstrap over questions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.experiments.statistics import (
    Interval,
    draw_resamples,
    percentile_interval,
    resampled_means,
)
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
"""Name -> what is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScores:
    """Scores of one dataset.

    Attributes:
        num_questions: Questions that were asked.
        num_samples: Episodes of each.
        means: Measure -> mean over questions of the mean over samples; None where an episode has
            no such number.
        best: Score -> mean over questions of the best sample: for the exact match this is
            pass@n. Empty with one sample.
        by_hops: Number of hops -> questions and mean scores, where hops are known.
        num_unasked: Episodes whose question did not fit into the context.
        resampled: Score -> its mean in every resample.
    """

    num_questions: int
    num_samples: int
    means: Mapping[str, Interval | None]
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

    Returns:
        Means and 95 % percentile intervals; of a single question intervals of no width.

    Raises:
        ValueError: if there is no record, or a question lacks a sample.
    """
    if not records or len(records) % num_samples:
        raise ValueError(
            f"records must be {num_samples} a question and not empty, got {len(records)}"
        )
    shape = (-1, num_samples)
    columns: dict[str, Float[np.ndarray, "question sample"]] = {}
    for measure, of in MEASURES.items():
        values = [of(record) for record in records]
        if None not in values:
            columns[measure] = np.array(values, dtype=np.float64).reshape(shape)
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

    return PartScores(
        num_questions=len(records) // num_samples,
        num_samples=num_samples,
        means={measure: interval(measure) for measure in MEASURES},
        best={score: interval(f"best_{score}") for score in SCORES} if num_samples > 1 else {},
        by_hops=_by_hops(records),
        num_unasked=sum(record.num_turns == 0 for record in records),
        resampled={score: drawn[score] for score in known},
    )


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
    rng = np.random.Generator(np.random.PCG64([_SEED, zlib.crc32(name.encode())]))
    at_once = max(1, _CELLS_AT_ONCE // rows.shape[1])
    pieces = []
    for begin in range(0, NUM_RESAMPLES, at_once):
        resamples = draw_resamples(
            num_seeds=1,
            num_questions=rows.shape[1],
            num_resamples=min(at_once, NUM_RESAMPLES - begin),
            rng=rng,
        )
        pieces.append(resampled_means(rows[:, None, :], resamples).T)
    return np.concatenate(pieces, axis=1)


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
