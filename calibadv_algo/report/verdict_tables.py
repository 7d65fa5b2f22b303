"""Tables of what a comparison decided: detectable difference, verdicts, controls, runs."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from calibadv_algo.experiments.design import CONTROLS
from calibadv_algo.experiments.profiles import performance_profile
from calibadv_algo.experiments.variance import detectable_difference
from calibadv_algo.experiments.verdicts import WORDS, Verdict
from calibadv_algo.report.asked import Course
from calibadv_algo.report.judging import ControlResult, verdict_interval
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
        format_interval(verdict_interval(verdict), signed=True),
        NOTHING if math.isnan(verdict.detectable) else f"{verdict.detectable:.3f}",
        f"{verdict.p_different:.3f}",
        f"{verdict.p_equivalent:.3f}",
        verdict.word,
    )


def controls_sentences(summary: Summary) -> list[str]:
    """One sentence: did the instrument pass, or which controls it lacks."""
    found = summary.judgement.controls
    if not found:
        named = ", ".join(f"{name} ({expected})" for name, expected in CONTROLS.items())
        return [f"No controls took part; --controls adds {named}."]
    shown = "; ".join(_control_words(name, each) for name, each in found.items())
    failed = [name for name, each in found.items() if not each.passed]
    if not failed:
        return [f"The instrument passed, {len(found)} of {len(found)} controls: {shown}."]
    return [
        f"The instrument did not pass, {len(found) - len(failed)} of {len(found)} controls: "
        f"{shown}. While {' and '.join(failed)} fail{'s' if len(failed) == 1 else ''}, a verdict "
        "of no difference may mean that this comparison sees none."
    ]


def _control_words(name: str, control: ControlResult) -> str:
    """What a control had to show and what it showed, with its interval."""
    must = {"higher": "must win", "lower": "must lose", "same": "must not differ"}
    seen = format_interval(verdict_interval(control.verdict), signed=True)
    outcome = "passed" if control.passed else "failed"
    return f"{name} {must[control.expected]}: {seen}, {control.verdict.word}, {outcome}"


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
                format_interval(verdict_interval(each.verdict), signed=True),
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


def asked_table(summary: Summary) -> Table | None:
    """Groups with a signal, and how the mix of questions went; None where no run recorded it."""
    if all(each.signal is None for each in summary.asked):
        return None
    kinds = list(dict.fromkeys(kind for each in summary.asked for kind in each.mix))
    rows = []
    for each in summary.asked:
        shares = [each.signal, *(each.mix.get(kind) for kind in kinds)]
        mean = NOTHING if each.signal is None else f"{each.signal.mean:.2f}"
        rows.append((each.arm, mean, *map(_course, shares)))
    mix = (
        " Questions: share of each kind among those that were asked."
        if kinds
        else " All questions were drawn alike."
    )
    return Table(
        title="Training: groups with a signal, and the questions that were asked",
        header=(
            "Method",
            "Groups with a signal",
            "at first → at last",
            *(f"{kind}: at first → at last" for kind in kinds),
        ),
        rows=tuple(rows),
        note=(
            "A group has a signal if one of its turns has an advantage other than 0. At first, at "
            f"last: the first and the last quarter of the updates, means over seeds.{mix}"
        ),
    )


def _course(course: Course | None) -> str:
    return NOTHING if course is None else f"{course.first:.2f} → {course.last:.2f}"


def all_tables(summary: Summary) -> tuple[Table, ...]:
    """Verdicts first, then scores of each split, controls, runs, and what was asked."""
    controls, asked = controls_table(summary), asked_table(summary)
    return (
        verdict_table(summary),
        *split_tables(summary),
        *(() if controls is None else (controls,)),
        runs_table(summary),
        *(() if asked is None else (asked,)),
    )
