"""Verdicts on the differences that a comparison planned, and outcomes of its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.variance import Components, components, t_quantile
from calibadv_algo.experiments.verdicts import Verdict, judge, passed
from calibadv_algo.report.reading import Comparison, ReportError, final_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """Outcome of a control.

    Attributes:
        expected: What it must show.
        verdict: What it showed.
        passed: True if these agree.
    """

    expected: str
    verdict: Verdict
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a comparison decided.

    Attributes:
        look: Which look at the results this is, from 1.
        num_looks: Looks that the plan allows.
        verdicts: On the differences of the plan, by name.
        controls: Differences whose outcome is known, by name.
        run_scores: Score of every run on the split of the verdicts, by arm.
    """

    look: int
    num_looks: int
    verdicts: Mapping[str, Verdict]
    controls: Mapping[str, ControlResult]
    run_scores: Mapping[str, tuple[float, ...]]

    @property
    def is_decided(self) -> bool:
        """True if no difference of the plan is left open."""
        return all(verdict.is_decided for verdict in self.verdicts.values())

    def interval_of(self, name: str) -> Interval | None:
        """The interval of a judged difference, control or not; None for one that is not judged."""
        control = self.controls.get(name)
        verdict = control.verdict if control else self.verdicts.get(name)
        return None if verdict is None else verdict_interval(verdict)


def verdict_interval(verdict: Verdict) -> Interval:
    """The interval that goes with a verdict: at the level of its look, for itself alone."""
    found = verdict.found
    if not found.says_something:
        return Interval(estimate=verdict.estimate, low=math.nan, high=math.nan)
    half = t_quantile(1.0 - verdict.level / 2.0, found.df) * found.standard_error
    return Interval(
        estimate=verdict.estimate, low=verdict.estimate - half, high=verdict.estimate + half
    )


def judge_comparison(comparison: Comparison) -> Judgement:
    """Judges the differences and controls of a comparison's plan on its final scores.

    Raises:
        ReportError: if the plan's metric is none of the scores, or runs answered other questions.
    """
    design = comparison.design
    scores = final_scores(comparison, comparison.final_split)
    if design.metric not in scores.values:
        raise ReportError(
            f"the plan's metric must be among {', '.join(scores.values)}, got {design.metric!r}"
        )
    values = scores.values[design.metric]
    look = design.look_of(len(comparison.seeds))

    def measured(ahead: str, behind: str) -> tuple[float, Components]:
        first, second = (values[comparison.arms.index(arm)] for arm in (ahead, behind))
        found = components([(1, first), (-1, second)], scores.clusters)
        return float(first.mean() - second.mean()), found

    def judged(pairs: Sequence[tuple[str, str]], alpha: float) -> dict[str, Verdict]:
        return judge(
            {f"{ahead} − {behind}": measured(ahead, behind) for ahead, behind in pairs},
            margin=design.margin,
            alpha=alpha,
            power=design.power,
            look=look,
            num_looks=design.num_looks,
        )

    controls = {}
    for control in design.known(comparison.arms, comparison.baseline):
        for name, verdict in judged([(control.ahead, control.behind)], design.alpha).items():
            controls[name] = ControlResult(
                expected=control.expected,
                verdict=verdict,
                passed=passed(control.expected, verdict),
            )
    return Judgement(
        look=look,
        num_looks=design.num_looks,
        verdicts=judged(design.pairs(comparison.arms, comparison.baseline), design.alpha),
        controls=controls,
        run_scores={
            arm: tuple(values[i].mean(axis=1).tolist()) for i, arm in enumerate(comparison.arms)
        },
    )
