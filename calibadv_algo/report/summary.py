"""The numbers of a comparison with their intervals, and ``summary.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.experiments.statistics import (
    Interval,
    draw_resamples,
    interquartile_mean,
    is_stable,
    percentile_interval,
    resampled_interquartile_means,
    resampled_means,
    seeds_needed,
    share_interval,
    win_shares,
)
from calibadv_algo.report.reading import (
    SCORE_NAMES,
    Comparison,
    ReportError,
    Run,
    Scores,
    final_scores,
    read_comparison,
    warm_start_scores,
)
from calibadv_env.common.files import write_text

SUMMARY_FILE: Final[str] = "summary.json"
CONFIDENCE: Final[float] = 0.95
NUM_RESAMPLES: Final[int] = 4000
BOOTSTRAP_SEED: Final[int] = 0
WARM_START: Final[str] = "warm start"

RowKind = Literal["warm_start", "arm", "gain", "difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        name: What the line is about.
        kind: ``gain`` is an arm minus the warm start, ``difference`` an arm minus the baseline.
        scores: Interval by name of the score (see ``reading.SCORE_NAMES``).
        f1_interquartile_mean: Of all seeds and questions; only for levels, not differences.
        stability: Share of the runs that were stable; only for arms.
        probability_of_improvement: That the arm's F1 on a question is above the baseline's;
            only for differences.
        seeds_needed: Rough number of seeds to show this difference of F1; only for
            differences, None when it cannot be said.
    """

    name: str
    kind: RowKind
    scores: Mapping[str, Interval]
    f1_interquartile_mean: Interval | None = None
    stability: Interval | None = None
    probability_of_improvement: Interval | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """The tables of one split.

    Attributes:
        split: Name of the split.
        num_questions: Number of its questions.
        rows: Warm start, arms, gains, differences, in this order.
        by_hops: The same rows for the questions of each number of hops.
        num_questions_by_hops: How many questions these are.
    """

    split: str
    num_questions: int
    rows: tuple[Row, ...]
    by_hops: Mapping[int, tuple[Row, ...]]
    num_questions_by_hops: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Course of one run.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run.
        split: Split that the F1 is of.
        final_update: Update of the last evaluation.
        first_f1: Mean F1 of the first evaluation.
        best_f1: Highest mean F1 of any evaluation.
        final_f1: Mean F1 of the last evaluation.
        has_alarm: True if the collapse alarm was raised.
        is_stable: See ``statistics.is_stable``.
    """

    arm: str
    seed: int
    split: str
    final_update: int
    first_f1: float
    best_f1: float
    final_f1: float
    has_alarm: bool
    is_stable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything that the tables say.

    Attributes:
        arms: Names of the arms.
        seeds: Seeds of the runs.
        baseline: The arm that the differences refer to.
        splits: One an evaluated split, ``dev`` first.
        runs: One a run.
        confidence: Coverage of the intervals.
        num_resamples: Resamples of the bootstrap.
        bootstrap_seed: Seed of its generator.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    splits: tuple[SplitSummary, ...]
    runs: tuple[RunSummary, ...]
    confidence: float
    num_resamples: int
    bootstrap_seed: int


def f1_curve(run: Run, split: str) -> list[float]:
    """Mean F1 of a split at every evaluation of a run, in order of updates."""
    return [
        float(np.mean([row.f1 for rows in run.rows(split, update).values() for row in rows]))
        for update in run.eval_updates(split)
    ]


def has_alarm(run: Run) -> bool:
    """True if the collapse alarm was raised at any update of a run."""
    return any(bool(line.get("collapse_alarm")) for line in run.metrics)


def _summarise_run(run: Run, split: str) -> RunSummary:
    curve = f1_curve(run, split)
    return RunSummary(
        arm=run.arm,
        seed=run.seed,
        split=split,
        final_update=run.eval_updates(split)[-1],
        first_f1=curve[0],
        best_f1=max(curve),
        final_f1=curve[-1],
        has_alarm=has_alarm(run),
        is_stable=is_stable(curve, has_alarm=has_alarm(run)),
    )


def _level_rows(
    names: Sequence[str],
    values: Mapping[str, Float[np.ndarray, "row seed question"]],
    rng: np.random.Generator,
    num_resamples: int,
) -> tuple[list[Row], dict[str, Float[np.ndarray, "resample row"]]]:
    """Rows of the warm start and the arms, and the resampled means that they come from."""
    _, num_seeds, num_questions = values["f1"].shape
    resamples = draw_resamples(
        num_seeds=num_seeds, num_questions=num_questions, num_resamples=num_resamples, rng=rng
    )
    samples = {name: resampled_means(values[name], resamples) for name in values}
    levels = [name for name in values if not name.startswith("wins:")]
    rows = []
    for i, row_name in enumerate(names):
        middle = interquartile_mean(values["f1"][i])
        middles = resampled_interquartile_means(values["f1"][i], resamples)
        rows.append(
            Row(
                name=row_name,
                kind="warm_start" if row_name == WARM_START else "arm",
                scores={
                    name: percentile_interval(
                        float(values[name][i].mean()), samples[name][:, i], confidence=CONFIDENCE
                    )
                    for name in levels
                },
                f1_interquartile_mean=percentile_interval(middle, middles, confidence=CONFIDENCE),
            )
        )
    return rows, samples


def _difference_row(
    name: str,
    kind: RowKind,
    pair: tuple[int, int],
    values: Mapping[str, Float[np.ndarray, "row seed question"]],
    samples: Mapping[str, Float[np.ndarray, "resample row"]],
) -> Row:
    """Row ``pair[0]`` minus row ``pair[1]``, on the same seeds and questions."""
    ahead, behind = pair
    scores = {
        score: percentile_interval(
            float((values[score][ahead] - values[score][behind]).mean()),
            samples[score][:, ahead] - samples[score][:, behind],
            confidence=CONFIDENCE,
        )
        for score in SCORE_NAMES
    }
    if kind != "difference":
        return Row(name=name, kind=kind, scores=scores)
    wins = f"wins:{behind}"
    by_seed = (values["f1"][ahead] - values["f1"][behind]).mean(axis=1)
    return Row(
        name=name,
        kind=kind,
        scores=scores,
        probability_of_improvement=percentile_interval(
            float(values[wins][ahead].mean()), samples[wins][:, ahead], confidence=CONFIDENCE
        ),
        seeds_needed=seeds_needed(by_seed),
    )


def _rows(
    comparison: Comparison,
    names: Sequence[str],
    values: Mapping[str, Float[np.ndarray, "row seed question"]],
    rng: np.random.Generator,
    num_resamples: int,
) -> tuple[Row, ...]:
    base = names.index(comparison.baseline)
    wins = np.stack([win_shares(values["f1"][base], scores) for scores in values["f1"]])
    values = {**values, f"wins:{base}": wins}
    rows, samples = _level_rows(names, values, rng, num_resamples)
    arms = range(len(names) - len(comparison.arms), len(names))
    if names[0] == WARM_START:
        rows += [
            _difference_row(f"{names[i]} − {WARM_START}", "gain", (i, 0), values, samples)
            for i in arms
        ]
    rows += [
        _difference_row(f"{names[i]} − {names[base]}", "difference", (i, base), values, samples)
        for i in arms
        if i != base
    ]
    return tuple(rows)


def _with_stability(row: Row, runs: Sequence[RunSummary]) -> Row:
    """A row with the share of its runs that were stable, if it is an arm's."""
    if row.kind != "arm":
        return row
    flags = [run.is_stable for run in runs if run.arm == row.name]
    return replace(row, stability=share_interval(sum(flags), len(flags), confidence=CONFIDENCE))


def _known_warm_start(comparison: Comparison) -> list[Row]:
    """The warm start's own measurements, for runs that were not evaluated at update 0."""
    known = {
        name: Interval(estimate=float(value), low=math.nan, high=math.nan)
        for name, value in comparison.warm_start.items()
        if name in SCORE_NAMES and isinstance(value, int | float)
    }
    return [Row(name=WARM_START, kind="warm_start", scores=known)] if known else []


def _joined(
    scores: Scores, warm: Scores | None, split: str
) -> Mapping[str, Float[np.ndarray, "row seed question"]]:
    if warm is None:
        return scores.values
    if warm.task_ids != scores.task_ids:
        raise ReportError(
            f"split {split!r}: the evaluations at update 0 and at the end must be of the same "
            f"questions, got {len(warm.task_ids)} and {len(scores.task_ids)}"
        )
    return {name: np.concatenate([warm.values[name], scores.values[name]]) for name in SCORE_NAMES}


def summarise_split(
    comparison: Comparison, split: str, *, rng: np.random.Generator, num_resamples: int
) -> SplitSummary:
    """Tables of one split, also by hops.

    Raises:
        ReportError: if a run lacks the split or was evaluated on other questions.
    """
    scores, warm = final_scores(comparison, split), warm_start_scores(comparison, split)
    values = _joined(scores, warm, split)
    names = ([] if warm is None else [WARM_START]) + list(comparison.arms)
    rows = _rows(comparison, names, values, rng, num_resamples)
    runs = [_summarise_run(run, split) for run in comparison.runs]
    hops = np.array(scores.hops)
    by_hops = {}
    for hop in sorted(set(scores.hops)):
        chosen = {name: array[:, :, hops == hop] for name, array in values.items()}
        by_hops[hop] = _rows(comparison, names, chosen, rng, num_resamples)
    known = _known_warm_start(comparison) if warm is None else []
    return SplitSummary(
        split=split,
        num_questions=len(scores.task_ids),
        rows=(*known, *(_with_stability(row, runs) for row in rows)),
        by_hops=by_hops,
        num_questions_by_hops={hop: int((hops == hop).sum()) for hop in by_hops},
    )


def summarise(
    comparison: Comparison,
    *,
    num_resamples: int = NUM_RESAMPLES,
    bootstrap_seed: int = BOOTSTRAP_SEED,
) -> Summary:
    """Everything that the tables say; the same bootstrap seed gives the same summary.

    Raises:
        ReportError: if a run lacks a split or was evaluated on other questions.
    """
    rng = np.random.default_rng(bootstrap_seed)
    splits = tuple(
        summarise_split(comparison, split, rng=rng, num_resamples=num_resamples)
        for split in comparison.splits
    )
    return Summary(
        arms=comparison.arms,
        seeds=comparison.seeds,
        baseline=comparison.baseline,
        splits=splits,
        runs=tuple(_summarise_run(run, comparison.splits[0]) for run in comparison.runs),
        confidence=CONFIDENCE,
        num_resamples=num_resamples,
        bootstrap_seed=bootstrap_seed,
    )


def without_nan(value: Any) -> Any:
    """A copy with None for NaN and infinities, at any depth: strict JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def summary_as_json(summary: Summary, comparison: Comparison) -> dict[str, Any]:
    """Content of ``summary.json``: a strict JSON object; what is unknown is None."""
    content = {
        **asdict(summary),
        "splits": {split.split: asdict(split) for split in summary.splits},
        "git_commit": comparison.git_commit,
        "data_sha256": comparison.data_sha256,
        "wall_time_s": comparison.wall_time_s,
        "warm_start": comparison.warm_start,
        "config": comparison.config,
    }
    result: dict[str, Any] = without_nan(content)
    return result


def write_summary(comparison_dir: Path | str) -> Path:
    """Writes ``summary.json`` into a comparison directory; returns its path.

    Raises:
        ReportError: if the directory is incomplete or a file cannot be read.
    """
    comparison = read_comparison(comparison_dir)
    content = summary_as_json(summarise(comparison), comparison)
    path = comparison.directory / SUMMARY_FILE
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path
