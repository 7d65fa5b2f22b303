"""The numbers of a study: paired contrasts, label quality, survival; as plain JSON values.

What is measured is kept apart from how it is shown: a page can be made again from the file
``results.json`` without the runs, whose trajectories take gigabytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from benchmarks.falsify.agreement import LABELS, Agreement, Quality
from benchmarks.falsify.study import LAMBDAS, Study, StudyPart
from calibadv_algo.experiments.statistics import (
    Resamples,
    draw_resamples,
    is_stable,
    percentile_interval,
    resampled_means,
    share_interval,
    win_shares,
)
from calibadv_algo.experiments.variance import Components, components
from calibadv_algo.experiments.verdicts import judge
from calibadv_algo.report.groups import iterate_groups
from calibadv_algo.report.reading import (
    Comparison,
    ReportError,
    Run,
    Scores,
    final_scores,
    finished_seeds,
    read_comparison,
    warm_start_scores,
)
from calibadv_algo.report.summary import f1_curve, has_alarm, without_nan

RESULTS_FILE: Final = "results.json"
NUM_RESAMPLES: Final = 4000
BOOTSTRAP_SEED: Final = 0
MARGIN: Final = 0.02
"""Difference of F1 that does not matter."""

CONTRASTS: Final[tuple[tuple[str, str], ...]] = (
    ("calibadv", "grpo"),
    ("soft-penalty", "grpo"),
    ("soft-penalty-rebalance", "soft-penalty"),
    ("calibadv", "soft-penalty-rebalance"),
    ("rebalance", "grpo"),
    ("think-tag", "grpo"),
    ("calibadv", "grpo-equal-mass"),
    ("grpo-equal-mass", "think-tag"),
    ("calibadv-gold", "calibadv"),
    ("calibadv-answer-match", "calibadv"),
    ("calibadv-random", "calibadv"),
    ("calibadv-inverted", "calibadv"),
    ("calibadv-random", "grpo"),
    ("calibadv-inverted", "grpo"),
)
"""Pairs of arms, first minus second: parts added one by one, alone, and labels replaced."""

CURVES: Final = ("entropy", "mean_perplexity", "reward_mean", "searches_mean", "format_valid_share")
"""Training metrics whose course is kept."""

LABEL_ARMS: Final = ("grpo", "calibadv")
"""Arms whose recorded searches the labels are checked on."""

_UPDATES_A_PERIOD: Final = 5


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
        ReportError: if no part has a finished seed, or a file cannot be read.
    """
    found = {part.name: _read_part(study_dir / part.name) for part in study.parts}
    if not any(found.values()):
        raise ReportError(f"{study_dir}: no part of the study has a seed that every arm finished")
    results: dict[str, Any] = {
        "study": study.name,
        "num_resamples": NUM_RESAMPLES,
        "bootstrap_seed": BOOTSTRAP_SEED,
        "parts": [_part_facts(part, found[part.name]) for part in study.parts],
    }
    for part in study.of_kind("labels"):
        comparison = found[part.name]
        if comparison is not None:
            results["arms"] = arm_rows(comparison)
            results["contrasts"] = contrast_rows(comparison, CONTRASTS)
            results["label_quality"] = label_quality(comparison)
    results["coefficient"] = coefficient_rows(
        [found[p.name] for kind in ("labels", "coefficient") for p in study.of_kind(kind)]
    )
    results["survival"] = [
        row
        for part in study.parts
        if part.kind in ("labels", "collapse")
        for row in survival_rows(part, found[part.name])
    ]
    cleaned: dict[str, Any] = without_nan(results)
    return cleaned


def write_numbers(results: Mapping[str, Any], directory: Path) -> Path:
    """Writes ``results.json``."""
    path = directory / RESULTS_FILE
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def stratified_resamples(
    strata: Sequence[int], *, num_seeds: int, num_resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draws seeds, and questions within each stratum.

    As :func:`~calibadv_algo.experiments.statistics.draw_resamples`, but every resample has each
    stratum in its true share; of ``n`` questions ``n - 1`` are drawn and weigh ``n / (n - 1)``.

    **Source:** Agarwal et al. 2021, section 4.1 (stratified bootstrap; their strata are tasks).

    **Differs:** strata are the questions' numbers of hops, and seeds are resampled for all
    questions together, since a run answers every question.

    Args:
        strata: Stratum of each question.
        num_seeds: Number of seeds.
        num_resamples: Number of resamples.
        rng: Source of randomness.

    Returns:
        The weights.
    """
    labels = np.asarray(strata)
    questions = np.zeros((num_resamples, len(labels)))
    seeds = np.ones((num_resamples, num_seeds))
    for stratum in np.unique(labels):
        places = np.flatnonzero(labels == stratum)
        drawn = draw_resamples(
            num_seeds=num_seeds, num_questions=len(places), num_resamples=num_resamples, rng=rng
        )
        questions[:, places] = drawn.questions * len(places) / max(1, len(places) - 1)
        seeds = drawn.seeds
    return Resamples(seeds=seeds, questions=questions)


def arm_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Final scores of the warm start and of every arm, with intervals."""
    split = comparison.splits[0]
    scores = final_scores(comparison, split)
    resamples = _resamples(scores, len(comparison.seeds))
    warm = warm_start_scores(comparison, split)
    rows = []
    if warm is not None:
        rows.append(_level_row("warm start", warm, 0, resamples))
    for index, arm in enumerate(comparison.arms):
        row = _level_row(arm, scores, index, resamples)
        runs = [comparison.run(arm, seed) for seed in comparison.seeds]
        row["survived"] = _survived(runs, split)
        row["f1_by_seed"] = scores.values["f1"][index].mean(axis=1).tolist()
        rows.append(row)
    return rows


def contrast_rows(comparison: Comparison, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences of final F1, first arm minus second, for pairs of which both ran."""
    split = comparison.splits[0]
    scores = final_scores(comparison, split)
    resamples = _resamples(scores, len(comparison.seeds))
    f1 = scores.values["f1"]
    means = resampled_means(f1, resamples)
    rows: list[dict[str, Any]] = []
    measured: dict[str, tuple[float, Components]] = {}
    for ahead, behind in pairs:
        if ahead not in comparison.arms or behind not in comparison.arms:
            continue
        i, j = comparison.arms.index(ahead), comparison.arms.index(behind)
        wins = win_shares(f1[j], f1[i])
        win_means = resampled_means(wins[None], resamples)[:, 0]
        by_seed = (f1[i] - f1[j]).mean(axis=1)
        rows.append(
            {
                "ahead": ahead,
                "behind": behind,
                "f1": asdict(percentile_interval(by_seed.mean(), means[:, i] - means[:, j])),
                "probability_of_improvement": asdict(
                    percentile_interval(float(wins.mean()), win_means)
                ),
                "by_seed": by_seed.tolist(),
            }
        )
        measured[f"{ahead} − {behind}"] = (
            float(by_seed.mean()),
            components([(1, f1[i]), (-1, f1[j])], scores.clusters),
        )
    for row, found in zip(rows, judge(measured, margin=MARGIN).values(), strict=True):
        row |= {
            "word": found.word,
            "reason": found.reason,
            "detectable": found.detectable,
            "p_different": found.p_different,
            "p_equivalent": found.p_equivalent,
        }
    return rows


def label_quality(comparison: Comparison) -> dict[str, Any]:
    """Agreement of labels with gold ones on the searches that the arms recorded."""
    result: dict[str, Any] = {}
    for arm in LABEL_ARMS:
        if arm in comparison.arms:
            counted = {name: Agreement() for name in LABELS}
            for seed in comparison.seeds:
                for path in sorted(
                    (comparison.run(arm, seed).directory / "trajectories").glob("*")
                ):
                    for group in iterate_groups(path):
                        for name, credit in LABELS.items():
                            counted[name].add(group, credit)
            result[arm] = {name: _quality_tables(each) for name, each in counted.items()}
    return result


def coefficient_rows(comparisons: Iterable[Comparison | None]) -> list[dict[str, Any]]:
    """Final F1 by rebalancing coefficient, on the seeds that all of them finished."""
    known = [each for each in comparisons if each is not None]
    of_arm = {arm: each for each in known for arm in each.arms}
    arms = {value: arm for value, arm in LAMBDAS.items() if arm in of_arm}
    if len(arms) < 2:
        return []
    seeds = sorted(set.intersection(*(set(of_arm[arm].seeds) for arm in arms.values())))
    if not seeds:
        return []
    rows = []
    base = _f1_of(of_arm[LAMBDAS[1.0]], LAMBDAS[1.0], seeds)
    for value, arm in arms.items():
        f1, hops = _f1_of(of_arm[arm], arm, seeds)
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        resamples = stratified_resamples(
            hops, num_seeds=len(seeds), num_resamples=NUM_RESAMPLES, rng=rng
        )
        means = resampled_means(np.stack([f1, base[0]]), resamples)
        runs = [of_arm[arm].run(arm, seed) for seed in seeds]
        rows.append(
            {
                "lambda": value,
                "f1": asdict(percentile_interval(float(f1.mean()), means[:, 0])),
                "difference": asdict(
                    percentile_interval(
                        float((f1 - base[0]).mean()), np.asarray(means[:, 0] - means[:, 1])
                    )
                ),
                "survived": _survived(runs, of_arm[arm].splits[0]),
                "seeds": seeds,
            }
        )
    return rows


def survival_rows(part: StudyPart, comparison: Comparison | None) -> list[dict[str, Any]]:
    """Course of GRPO's and CalibAdv's runs under the part's conditions."""
    if comparison is None:
        return []
    split = comparison.splits[0]
    rows = []
    for arm in LABEL_ARMS:
        runs = [comparison.run(arm, seed) for seed in comparison.seeds]
        curves = [f1_curve(run, split) for run in runs]
        rows.append(
            {
                "part": part.name,
                "label": part.label,
                "arm": arm,
                "survived": _survived(runs, split),
                "first_f1": curves[0][0],
                "best_f1": float(np.mean([max(curve) for curve in curves])),
                "final_f1": float(np.mean([curve[-1] for curve in curves])),
                "curves": {name: _course(runs, name) for name in CURVES},
                "f1_curve": {
                    "updates": runs[0].eval_updates(split),
                    "by_seed": curves,
                },
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
        "arms": list(part.config.arms),
        "planned_seeds": list(part.config.seeds),
        "seeds": [],
    }
    if comparison is None:
        return facts
    split = comparison.splits[0]
    return facts | {
        "seeds": list(comparison.seeds),
        "git_commit": comparison.git_commit,
        "later_commits": list(comparison.later_commits),
        "data_sha256": comparison.data_sha256,
        "wall_time_s": comparison.wall_time_s,
        "split": split,
        "num_questions": len(final_scores(comparison, split).task_ids),
        "optim": comparison.config.get("optim", {}),
        "rollout": comparison.config.get("rollout", {}),
        "model": comparison.config.get("model", ""),
        "run_s": _run_seconds(comparison.runs),
    }


def _run_seconds(runs: Iterable[Run]) -> float:
    """Mean duration of a run, by the times that its metrics hold."""
    totals = [
        sum(float(row.get(key) or 0.0) for row in run.metrics for key in _TIMES) for run in runs
    ]
    return float(np.mean(totals))


_TIMES: Final = ("time_rollout_s", "time_update_s", "time_eval_s")


def _resamples(scores: Scores, num_seeds: int) -> Resamples:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return stratified_resamples(
        scores.hops, num_seeds=num_seeds, num_resamples=NUM_RESAMPLES, rng=rng
    )


def _level_row(name: str, scores: Scores, index: int, resamples: Resamples) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    for score in ("em", "f1", "num_searches", "is_format_valid"):
        values = scores.values[score][index][None]
        means = resampled_means(values, resamples)[:, 0]
        row[score] = asdict(percentile_interval(float(values.mean()), means))
    return row


def _survived(runs: Sequence[Run], split: str) -> dict[str, float]:
    flags = [is_stable(f1_curve(run, split), has_alarm=has_alarm(run)) for run in runs]
    return {"num": sum(flags), "of": len(flags), **asdict(share_interval(sum(flags), len(flags)))}


def _quality_tables(agreement: Agreement) -> dict[str, Any]:
    def rows(key: str, values: Iterable[int]) -> list[dict[str, Any]]:
        return [
            {key: value, **agreement.total(lambda c, v=value: getattr(c, key) == v).as_dict()}  # type: ignore[misc]
            for value in values
        ]

    cells = list(agreement.counts)
    periods = sorted({cell.update // _UPDATES_A_PERIOD for cell in cells})
    punished: Quality = agreement.total(lambda cell: cell.is_punished)
    return {
        "all": agreement.total().as_dict(),
        "punished": punished.as_dict(),
        "by_hops": rows("hops", sorted({cell.hops for cell in cells})),
        "by_place": rows("place", sorted({cell.place for cell in cells})),
        "by_update": [
            {
                "update": period * _UPDATES_A_PERIOD,
                **agreement.total(lambda c, p=period: c.update // _UPDATES_A_PERIOD == p).as_dict(),  # type: ignore[misc]
            }
            for period in periods
        ],
    }


def _f1_of(
    comparison: Comparison, arm: str, seeds: Sequence[int]
) -> tuple[Float[np.ndarray, "seed question"], tuple[int, ...]]:
    scores = final_scores(comparison, comparison.splits[0])
    rows = [comparison.seeds.index(seed) for seed in seeds]
    return scores.values["f1"][comparison.arms.index(arm)][rows], scores.hops


def _course(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """A training metric of every run, by update."""
    updates = sorted({int(row["update"]) for run in runs for row in run.metrics if name in row})
    values = []
    for run in runs:
        line = {int(row["update"]): row.get(name) for row in run.metrics}
        known = [line.get(update) for update in updates]
        values.append([math.nan if value is None else float(value) for value in known])
    return {"updates": updates, "by_seed": values}
