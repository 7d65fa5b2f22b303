"""The numbers of a comparison with their intervals, and ``summary.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.experiments.profiles import area_under_curve
from calibadv_algo.experiments.statistics import Interval, is_stable, share_interval
from calibadv_algo.experiments.variance import effective_clusters
from calibadv_algo.report.asked import Asked, what_was_asked
from calibadv_algo.report.judging import Judgement, judge_comparison
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
from calibadv_algo.report.rows import CONFIDENCE, WARM_START, Row, table_rows
from calibadv_env.common.files import write_text

SUMMARY_FILE: Final[str] = "summary.json"
NUM_RESAMPLES: Final[int] = 4000
BOOTSTRAP_SEED: Final[int] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """The tables of one split.

    Attributes:
        split: Name of the split.
        num_questions: Number of its questions.
        rows: Warm start, arms, gains, differences, in this order.
        by_hops: The same rows for the questions of each number of hops.
        num_questions_by_hops: How many questions these are.
        num_clusters: Clusters of the questions; as many as questions where none is named.
        effective_clusters: How many clusters of equal size would weigh the same.
        has_clusters: True if the questions name their clusters.
    """

    split: str
    num_questions: int
    rows: tuple[Row, ...]
    by_hops: Mapping[int, tuple[Row, ...]]
    num_questions_by_hops: Mapping[int, int]
    num_clusters: int
    effective_clusters: float
    has_clusters: bool


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
        splits: One an evaluated split, that of the verdicts first.
        runs: One a run.
        confidence: Coverage of the intervals.
        num_resamples: Resamples of the bootstrap.
        bootstrap_seed: Seed of its generator.
        metric: Score that the verdicts are about.
        margin: Difference that does not matter.
        alpha: Chance of any false verdict.
        power: Of the detectable differences.
        judgement: Verdicts on the differences of the plan, and its controls.
        hypotheses: Those of the plan.
        plan_sha256: Its hash, "" without a plan.
        departures: What is not as it was planned.
        asked: What the runs of each arm asked, and which groups had a signal.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    splits: tuple[SplitSummary, ...]
    runs: tuple[RunSummary, ...]
    confidence: float
    num_resamples: int
    bootstrap_seed: int
    metric: str
    margin: float
    alpha: float
    power: float
    judgement: Judgement
    hypotheses: tuple[str, ...]
    plan_sha256: str
    departures: tuple[str, ...]
    asked: tuple[Asked, ...] = ()


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


def _over_training(runs: Sequence[Run], split: str) -> float:
    """Mean area under the learning curves of some runs."""
    return float(
        np.mean([area_under_curve(run.eval_updates(split), f1_curve(run, split)) for run in runs])
    )


def _with_course(row: Row, comparison: Comparison, runs: Sequence[RunSummary]) -> Row:
    """A row with how its runs went: stable or not, and the area under their curves."""
    if row.kind != "arm":
        return row
    flags = [run.is_stable for run in runs if run.arm == row.name]
    curves = [run for run in comparison.runs if run.arm == row.name]
    return replace(
        row,
        stability=share_interval(sum(flags), len(flags), confidence=CONFIDENCE),
        f1_over_training=_over_training(curves, comparison.curve_split),
    )


def _as_judged(row: Row, metric: str, judgement: Judgement) -> Row:
    """A row of the judged split: a judged difference has the interval of its verdict."""
    found = judgement.interval_of(row.name) if row.kind == "difference" else None
    return row if found is None else replace(row, scores={**row.scores, metric: found})


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
    rows = table_rows(comparison, names, values, scores.clusters, rng, num_resamples)
    runs = [_summarise_run(run, comparison.curve_split) for run in comparison.runs]
    hops = np.array(scores.hops)
    by_hops = {}
    for hop in sorted(set(scores.hops)):
        chosen = {name: array[:, :, hops == hop] for name, array in values.items()}
        by_hops[hop] = table_rows(
            comparison, names, chosen, scores.clusters[hops == hop], rng, num_resamples
        )
    known = _known_warm_start(comparison) if warm is None else []
    return SplitSummary(
        split=split,
        num_questions=len(scores.task_ids),
        rows=(*known, *(_with_course(row, comparison, runs) for row in rows)),
        by_hops=by_hops,
        num_questions_by_hops={hop: int((hops == hop).sum()) for hop in by_hops},
        num_clusters=int(scores.clusters.max()) + 1,
        effective_clusters=effective_clusters(scores.clusters),
        has_clusters=scores.has_clusters,
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
    design, judgement = comparison.design, judge_comparison(comparison)
    first, *others = (
        summarise_split(comparison, split, rng=rng, num_resamples=num_resamples)
        for split in comparison.splits
    )
    judged = tuple(_as_judged(row, design.metric, judgement) for row in first.rows)
    splits = (replace(first, rows=judged), *others)
    return Summary(
        arms=comparison.arms,
        seeds=comparison.seeds,
        baseline=comparison.baseline,
        splits=splits,
        runs=tuple(_summarise_run(run, comparison.curve_split) for run in comparison.runs),
        confidence=CONFIDENCE,
        num_resamples=num_resamples,
        bootstrap_seed=bootstrap_seed,
        metric=design.metric,
        margin=design.margin,
        alpha=design.alpha,
        power=design.power,
        judgement=judgement,
        hypotheses=design.hypotheses,
        plan_sha256=str(comparison.plan.get("sha256", "")),
        departures=comparison.departures,
        asked=what_was_asked(comparison),
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
