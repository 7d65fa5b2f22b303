"""The numbers of a study: verdicts, scores, label quality, courses; as plain JSON values.

What is measured is kept apart from how it is shown: a page can be made again from the file
``results.json`` without the runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.falsify.agreement import LABEL_ARMS, LABELS, Agreement, count_run
from benchmarks.falsify.study import Study, StudyPart
from calibadv_algo.experiments.compare import plan_jobs
from calibadv_algo.experiments.statistics import is_stable, share_interval
from calibadv_algo.report.judging import verdict_interval
from calibadv_algo.report.reading import (
    Comparison,
    Run,
    finished_seeds,
    read_comparison,
)
from calibadv_algo.report.result import result_sentences
from calibadv_algo.report.summary import Summary, f1_curve, has_alarm, summarise, without_nan
from calibadv_algo.report.tables import main_table
from calibadv_algo.report.verdict_tables import (
    controls_table,
    runs_table,
    statements,
    verdict_table,
)
from calibadv_algo.training.config import config_hash

RESULTS_FILE: Final = "results.json"

CURVES: Final = (
    *("entropy", "mean_perplexity", "repeated_token_share", "positive_mass", "negative_mass"),
    *("reward_mean", "searches_mean", "format_valid_share", "groups_with_signal_share"),
)
"""Training metrics whose course is kept."""


def measure_study(study: Study, study_dir: Path) -> dict[str, Any]:
    """Measures everything that a study's page shows.

    Parts that have not begun are left out; of others, the seeds that every arm has finished
    count.

    Args:
        study: What was planned.
        study_dir: Where its parts' folders are.

    Returns:
        Strict JSON values.

    Raises:
        ReportError: if a file cannot be read.
    """
    found = {part.name: _read_part(study_dir / part.name) for part in study.parts}
    results: dict[str, Any] = {
        "study": study.name,
        "parts": [_part_facts(part, found[part.name]) for part in study.parts],
        "num_runs": len(
            {
                (job.name, config_hash(job.config))
                for part in study.parts
                for job in plan_jobs(part.config)
                if job.seed in getattr(found[part.name], "seeds", ())
            }
        ),
        "label_quality": label_quality(
            [found[part.name] for kind in ("main", "labels") for part in study.of_kind(kind)]
        ),
    }
    cleaned: dict[str, Any] = without_nan(results)
    return cleaned


def write_numbers(results: Mapping[str, Any], directory: Path) -> Path:
    """Writes ``results.json``."""
    path = directory / RESULTS_FILE
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def label_quality(comparisons: Iterable[Comparison | None]) -> dict[str, Any]:
    """Agreement of labels with gold ones on the searches that GRPO and CalibAdv recorded.

    Runs that two comparisons share count once.
    """
    counted: dict[str, dict[str, Agreement]] = {}
    known: set[tuple[str, int]] = set()
    for comparison in comparisons:
        for run in () if comparison is None else comparison.runs:
            if run.arm not in LABEL_ARMS or (run.arm, run.seed) in known:
                continue
            for label, entries in count_run(run.directory).items():
                known.add((run.arm, run.seed))
                by_label = counted.setdefault(run.arm, {name: Agreement() for name in LABELS})
                by_label[label].join(entries)
    return {
        arm: {name: _quality_tables(each) for name, each in by_label.items()}
        for arm, by_label in counted.items()
    }


def course_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Course of every arm's runs."""
    split = comparison.curve_split
    rows = []
    for arm in comparison.arms:
        runs = [comparison.run(arm, seed) for seed in comparison.seeds]
        curves = [f1_curve(run, split) for run in runs]
        rows.append(
            {
                "arm": arm,
                "survived": _survived(runs, split),
                "first_f1": float(np.mean([curve[0] for curve in curves])),
                "best_f1": float(np.mean([max(curve) for curve in curves])),
                "final_f1": float(np.mean([curve[-1] for curve in curves])),
                "curves": {name: _course(runs, name) for name in CURVES},
                "f1_curve": {"updates": runs[0].eval_updates(split), "by_seed": _short(curves)},
            }
        )
    return rows


def _read_part(directory: Path) -> Comparison | None:
    """A part as far as it went, None if it has no finished seed."""
    if not (directory / "comparison.json").is_file():
        return None
    seeds = finished_seeds(directory)
    return read_comparison(directory, only_seeds=seeds) if seeds else None


def _part_facts(part: StudyPart, comparison: Comparison | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": part.name,
        "kind": part.kind,
        "label": part.label,
        "question": part.question,
        "arms": list(part.config.arms),
        "planned_seeds": list(part.config.seeds),
        "plan": {name: _plain(value) for name, value in asdict(part.config.design).items()},
        "model": part.config.train.model,
        "optim": {"num_updates": part.config.train.optim.num_updates},
        "rollout": {
            "num_questions": part.config.train.rollout.num_questions,
            "group_size": part.config.train.rollout.group_size,
        },
        "seeds": [],
    }
    if comparison is None:
        return facts
    summary = summarise(comparison)
    split = summary.splits[0]
    return facts | {
        "seeds": list(comparison.seeds),
        "git_commit": comparison.git_commit,
        "later_commits": list(comparison.later_commits),
        "data_sha256": comparison.data_sha256,
        "split": split.split,
        "num_questions": split.num_questions,
        "curve_split": comparison.curve_split,
        "run_s": _run_seconds(comparison.runs),
        "result": result_sentences(summary),
        "statements": statements(summary),
        "tables": [
            asdict(table) | {"emphasised": sorted(table.emphasised)} for table in _tables(summary)
        ],
        "levels": _levels(summary),
        "differences": _differences(summary),
        "courses": course_rows(comparison),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tables(summary: Summary) -> list[Any]:
    controls = controls_table(summary)
    return [
        verdict_table(summary),
        *([] if controls is None else [controls]),
        main_table(summary, summary.splits[0]),
        runs_table(summary),
    ]


def _levels(summary: Summary) -> list[dict[str, Any]]:
    """Final score of every arm with its interval and its runs, for the pictures."""
    return [
        {
            "name": row.name,
            "f1": asdict(row.scores["f1"]),
            "by_seed": _short(list(summary.judgement.run_scores.get(row.name, ()))),
        }
        for row in summary.splits[0].rows
        if row.kind in ("arm", "warm_start")
    ]


def _differences(summary: Summary) -> list[dict[str, Any]]:
    """Every judged difference with its interval and its word, controls last."""
    judged = [(each, None) for each in summary.judgement.verdicts.values()]
    known = [(each.verdict, each) for each in summary.judgement.controls.values()]
    return [
        {
            "name": verdict.name,
            "f1": asdict(verdict_interval(verdict)),
            "word": verdict.word,
            "detectable": verdict.detectable,
            "expected": None if control is None else control.expected,
            "passed": None if control is None else control.passed,
        }
        for verdict, control in [*judged, *known]
    ]


def _run_seconds(runs: Iterable[Run]) -> float:
    """Mean duration of a run, by the times that its metrics hold."""
    names = ("time_rollout_s", "time_update_s", "time_eval_s")
    totals = [
        sum(float(row.get(key) or 0.0) for row in run.metrics for key in names) for run in runs
    ]
    return float(np.mean(totals))


def _survived(runs: Sequence[Run], split: str) -> dict[str, float]:
    flags = [is_stable(f1_curve(run, split), has_alarm=has_alarm(run)) for run in runs]
    return {"num": sum(flags), "of": len(flags), **asdict(share_interval(sum(flags), len(flags)))}


def _quality_tables(agreement: Agreement) -> dict[str, Any]:
    def rows(key: str) -> list[dict[str, Any]]:
        values = sorted({getattr(cell, key) for cell in agreement.counts})
        return [
            {key: value, **agreement.total(lambda c, v=value: getattr(c, key) == v).as_dict()}  # type: ignore[misc]
            for value in values
        ]

    return {
        "all": agreement.total().as_dict(),
        "punished": agreement.total(lambda cell: cell.is_punished).as_dict(),
        "by_hops": rows("hops"),
        "by_place": rows("place"),
        "by_update": rows("update"),
    }


def _course(runs: Sequence[Run], name: str) -> dict[str, Any]:
    updates = [int(row["update"]) for row in runs[0].metrics]
    by_seed = [[_value(row.get(name)) for row in run.metrics] for run in runs]
    return {"updates": updates, "by_seed": by_seed}


def _value(value: Any) -> float | None:
    return float(f"{value:.4g}") if isinstance(value, int | float) else None


def _short(values: Any) -> Any:
    """Numbers with five digits, at any depth of lists."""
    if isinstance(values, list):
        return [_short(value) for value in values]
    return float(f"{values:.5g}")
