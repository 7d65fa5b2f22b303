"""Tables of what a comparison decided: detectable difference, verdicts, controls, runs."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from calibadv_algo.experiments.design import CONTROLS
from calibadv_algo.experiments.profiles import performance_profile
from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.variance import detectable_difference, t_quantile
from calibadv_algo.experiments.verdicts import WORDS, Verdict
from calibadv_algo.report.shares import NOTHING
from calibadv_algo.report.summary import Summary
from calibadv_algo.report.tables import Table, format_interval, split_tables

THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Scores that the performance profile asks for."""

METRIC_NAMES: Final = {"f1": "F1", "em": "EM", "cover_em": "cover EM"}


def opening_sentences(summary: Summary) -> list[str]:
    """What the design could show, before anything that it did show."""
    metric, split = METRIC_NAMES.get(summary.metric, summary.metric), summary.splits[0]
    seeds = f"{len(summary.seeds)} seed{'s' if len(summary.seeds) > 1 else ''}"
    shown = [each.detectable for each in summary.judgement.verdicts.values()]
    clusters = (
        f"{split.num_questions} questions in {split.num_clusters} clusters that weigh as much as "
        f"{split.effective_clusters:.0f} equal ones"
        if split.has_clusters
        else f"{split.num_questions} questions, taken as independent since they name no clusters"
    )
    if not shown:
        return [f"Nothing is compared: {seeds}, {clusters}."]
    known = [value for value in shown if not math.isnan(value)]
    first = (
        f"The smallest difference in {metric} that this design shows in "
        f"{summary.power:.0%} of cases is {max(known):.3f} ({seeds}, {split.split}: {clusters})."
        if known
        else f"This design cannot show any difference between methods ({seeds}): "
        f"{next(iter(summary.judgement.verdicts.values())).reason}."
    )
    sentences = [first, *_with_more_seeds(summary)]
    if summary.judgement.num_looks > 1:
        sentences.append(
            f"Look {summary.judgement.look} of at most {summary.judgement.num_looks}: p-values "
            f"are held against {next(iter(summary.judgement.verdicts.values())).level:.4f}, so "
            f"that all looks together err in {summary.alpha:.0%} of cases."
        )
    return sentences


def statements(summary: Summary) -> list[str]:
    """What stands before the tables: reach of the design, plan, departures, controls."""
    plan = summary.plan_sha256
    return [
        *opening_sentences(summary),
        *(f"Expected before the runs: {text}" for text in summary.hypotheses),
        *([f"Planned before the first run (plan {plan[:12]})."] if plan else []),
        *(f"Not as planned: {text}" for text in summary.departures),
        *controls_sentences(summary),
    ]


def _with_more_seeds(summary: Summary) -> list[str]:
    """What other numbers of seeds would show, by the components that were measured."""
    verdicts = list(summary.judgement.verdicts.values())
    widest = max(
        verdicts, key=lambda each: -1.0 if math.isnan(each.detectable) else each.detectable
    )
    if math.isnan(widest.detectable):
        return []
    parts = []
    for num_seeds in (5, 10, 30):
        if num_seeds > len(summary.seeds):
            other = detectable_difference(
                widest.found.with_seeds(num_seeds),
                alpha=summary.alpha / len(verdicts),
                power=summary.power,
            )
            parts.append(f"{num_seeds} seeds {other:.3f}")
    return [f"By the same components of variance: {', '.join(parts)}."] if parts else []


def verdict_table(summary: Summary) -> Table:
    """What was asked, what was seen, and the verdict."""
    rows = [_verdict_row(summary, each) for each in summary.judgement.verdicts.values()]
    metric = METRIC_NAMES.get(summary.metric, summary.metric)
    used = dict.fromkeys(each.word for each in summary.judgement.verdicts.values())
    notes = [f"{each.name}: {each.reason}." for each in summary.judgement.verdicts.values()]
    family = "" if len(rows) < 2 else f", adjusted for {len(rows)} differences (Holm)"
    return Table(
        title=(
            f"{summary.splits[0].split}: verdicts on {metric}, ±{summary.margin:g} counts as equal"
        ),
        header=("Difference", metric, "Can show", "p (0)", "p (margin)", "Verdict"),
        rows=tuple(rows),
        emphasised=frozenset(range(len(rows))),
        note=" ".join(
            [
                "Can show: smallest true difference that is found in "
                f"{summary.power:.0%} of cases. p (0): against no difference; p (margin): against "
                f"one of at least the margin{family}.",
                *(f"{word.capitalize()}: {WORDS[word]}." for word in used),
                *notes,
            ]
        ),
    )


def _verdict_row(summary: Summary, verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.name,
        format_interval(verdict_interval(summary, verdict), signed=True),
        NOTHING if math.isnan(verdict.detectable) else f"{verdict.detectable:.3f}",
        f"{verdict.p_different:.3f}",
        f"{verdict.p_equivalent:.3f}",
        verdict.word,
    )


def verdict_interval(summary: Summary, verdict: Verdict) -> Interval:
    """The interval that goes with a verdict: at the level of its look, for itself alone."""
    found = verdict.found
    if not found.says_something:
        return Interval(estimate=verdict.estimate, low=math.nan, high=math.nan)
    half = t_quantile(1.0 - verdict.level / 2.0, found.df) * found.standard_error
    return Interval(
        estimate=verdict.estimate, low=verdict.estimate - half, high=verdict.estimate + half
    )


def controls_sentences(summary: Summary) -> list[str]:
    """One sentence: did the instrument pass, or which controls it lacks."""
    found = summary.judgement.controls
    if not found:
        named = ", ".join(f"{name} ({expected})" for name, expected in CONTROLS.items())
        return [f"No controls took part; --controls adds {named}."]
    failed = [name for name, each in found.items() if not each.passed]
    if not failed:
        return [f"The instrument passed: all {len(found)} controls came out as they must."]
    return [
        f"The instrument did not pass: {', '.join(failed)} did not come out as expected, so a "
        "verdict of no difference may mean that this comparison sees none."
    ]


def controls_table(summary: Summary) -> Table | None:
    """The differences whose outcome is known; None without controls."""
    found = summary.judgement.controls
    if not found:
        return None
    return Table(
        title=f"{summary.splits[0].split}: controls",
        header=(
            "Control",
            "Must be",
            METRIC_NAMES.get(summary.metric, summary.metric),
            "Can show",
            "Verdict",
            "Passed",
        ),
        rows=tuple(
            (
                name,
                "neither higher nor lower" if each.expected == "same" else each.expected,
                format_interval(verdict_interval(summary, each.verdict), signed=True),
                _verdict_row(summary, each.verdict)[2],
                each.verdict.word,
                "yes" if each.passed else "no",
            )
            for name, each in found.items()
        ),
        note=" ".join(controls_sentences(summary)),
    )


def runs_table(summary: Summary) -> Table:
    """How the runs of each method ended as a whole."""
    thresholds = np.array(THRESHOLDS)
    rows = []
    for row in summary.splits[0].rows:
        if row.kind != "arm":
            continue
        scores = np.array(summary.judgement.run_scores[row.name])
        gap = NOTHING if row.optimality_gap is None else f"{row.optimality_gap:.3f}"
        area = NOTHING if row.f1_over_training is None else f"{row.f1_over_training:.3f}"
        shares = performance_profile(scores, thresholds)
        rows.append(
            (
                row.name,
                format_interval(row.f1_interquartile_mean),
                area,
                gap,
                *(f"{round(share * len(scores))} of {len(scores)}" for share in shares),
            )
        )
    metric = METRIC_NAMES.get(summary.metric, summary.metric)
    return Table(
        title=f"{summary.splits[0].split}: runs as a whole",
        header=(
            "Method",
            "Interquartile mean of F1",
            "F1 over training",
            "Optimality gap",
            *(f"> {value:g}" for value in THRESHOLDS),
        ),
        rows=tuple(rows),
        note=(
            "Interquartile mean: of the middle half of the runs. F1 over training: area under the "
            "learning curve over its length. Optimality gap: mean distance below 1. The last "
            f"columns are the performance profile: runs that end above that {metric}."
        ),
    )


def all_tables(summary: Summary) -> tuple[Table, ...]:
    """Verdicts first, then scores of each split, controls and runs."""
    controls = controls_table(summary)
    return (
        verdict_table(summary),
        *split_tables(summary),
        *(() if controls is None else (controls,)),
        runs_table(summary),
    )
