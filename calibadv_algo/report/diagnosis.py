"""Counts of the correct searches that a run's GRPO punished, over recorded groups, and a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import markupsafe
import numpy as np

from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.credit.labels import AnswerMatchCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.report.assessment import Assessment, Tally, assess, share, summary_sentences
from calibadv_algo.report.curves import ARM_COLOURS, ArmCurve, Panel
from calibadv_algo.report.groups import BestGroups, spread_out
from calibadv_algo.report.tables import Table, html_table
from calibadv_algo.report.template import render_template
from calibadv_algo.report.understood import Understood, sum_up
from calibadv_algo.types import Group
from calibadv_env.common.checks import require_positive

MAX_GROUPS: Final = 40


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counts over groups of at least two trajectories.

    Attributes:
        tally: Correct searches, punished ones, and what CalibAdv does about them.
        num_scored_groups: Groups whose best trajectory could say which passages were useful.
        num_answer_searches: Searches that brought an accepted answer to light.
        num_answer_punished: Those of them that GRPO punishes.
        num_negative: Searches that GRPO punishes, correct or not.
        num_invalid: Trajectories of invalid format.
        reward_sum: Sum of the rewards.
    """

    tally: Tally = field(default_factory=Tally)
    num_scored_groups: int = 0
    num_answer_searches: int = 0
    num_answer_punished: int = 0
    num_negative: int = 0
    num_invalid: int = 0
    reward_sum: float = 0.0

    def add(self, assessed: Assessment) -> None:
        """Counts a group."""
        self.tally.add(assessed)
        is_punished = assessed.reference < 0
        holds_answer = _answer_searches(assessed.group) & assessed.is_search
        self.num_scored_groups += not bool(np.isnan(assessed.silver).all())
        self.num_answer_searches += int(holds_answer.sum())
        self.num_answer_punished += int((holds_answer & is_punished).sum())
        self.num_negative += int((assessed.is_search & is_punished).sum())
        members = assessed.group.trajectories
        self.num_invalid += sum(
            not each.final_info.get("is_format_valid", True) for each in members
        )
        self.reward_sum += sum(each.reward for each in members)

    def to_dict(self) -> dict[str, Any]:
        """The counts and the shares that follow from them, as plain values."""
        values = asdict(self)
        tally = values.pop("tally")
        tally["grpo_penalty"] = tally.pop("penalty")
        tally["calibadv_penalty"] = tally.pop("kept_penalty")
        return {
            **tally,
            **values,
            "punished_share": share(self.tally.num_punished, self.tally.num_correct),
            "mispenalized_share": share(self.tally.num_punished, self.num_negative),
            "reward_mean": share(self.reward_sum, self.tally.num_trajectories),
        }


@dataclass(slots=True, kw_only=True)
class Source:
    """The groups of one run.

    Attributes:
        label: What to call it.
        steps: Counts by step.
        num_single: Groups of one, which have nothing to be compared with.
        low: Smallest reward.
        high: Largest reward.
        best: Groups for the page.
        understood: What was understood of logs of other systems.
    """

    label: str
    steps: dict[int, Counts] = field(default_factory=dict)
    num_single: int = 0
    low: float = np.inf
    high: float = -np.inf
    best: BestGroups = field(default_factory=BestGroups, repr=False)
    understood: Understood = field(default_factory=Understood)

    def add(self, groups: Iterable[Group]) -> None:
        """Assesses and counts groups; groups of one are only counted as such."""
        for group in groups:
            rewards = [each.reward for each in group.trajectories]
            self.low, self.high = min(self.low, *rewards), max(self.high, *rewards)
            self.understood.add(group)
            if len(group) == 1:
                self.num_single += 1
                continue
            assessed = assess(group)
            step = group.trajectories[0].policy_version
            self.steps.setdefault(step, Counts()).add(assessed)
            self.best.add(assessed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Counts over all sources.

    Attributes:
        sources: In order.
        total: Counts over all of them.
        remarks: What limits the counts, in sentences.
        withheld: Why the data cannot support the count of punished correct searches; empty where
            it can.
        understood: What was understood of logs of other systems.
    """

    sources: tuple[Source, ...]
    total: Counts
    remarks: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    understood: Understood = field(default_factory=Understood)

    @property
    def headline(self) -> list[str]:
        """The count in one or two sentences, or why there is none."""
        if self.withheld:
            return ["No count of punished correct searches is given:", *self.withheld]
        return summary_sentences(self.total.tally)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the totals, and the counts of each source and step."""
        return {
            "total": self.total.to_dict(),
            "headline": self.headline,
            "withheld": list(self.withheld),
            "understood": self.understood.to_dict(),
            "remarks": list(self.remarks),
            "sources": [
                {
                    "label": source.label,
                    "num_groups_of_one": source.num_single,
                    "reward_range": [source.low, source.high],
                    "steps": {
                        str(step): source.steps[step].to_dict() for step in sorted(source.steps)
                    },
                }
                for source in self.sources
            ],
        }


def diagnose(sources: Sequence[Source]) -> Diagnosis:
    """Sums up sources whose groups have been counted: at least one, with distinct labels.

    Raises:
        ValueError: if all groups are of one, or rewards lie outside of 0 to 1: the rule that
            silver passages come from rewards of at least 0.7 means that scale.
    """
    low, high = min(each.low for each in sources), max(each.high for each in sources)
    if low < 0 or high > 1:
        raise ValueError(
            f"rewards must lie between 0 and 1, got {low:g} to {high:g}: a trajectory counts as "
            f"successful from 0.7 on; name the scale with --reward-range {min(low, 0):g} {high:g}, "
            "or take --reward f1"
        )
    num_single = sum(each.num_single for each in sources)
    if not any(each.steps for each in sources):
        raise ValueError(
            f"all {num_single} groups have one trajectory, so there is nothing to compare; name "
            "the field that rollouts of the same question share with --group-by, and give files "
            "that hold one rollout of each question as one folder"
        )
    total = Counts()
    for source in sources:
        for counts in source.steps.values():
            _merge(total, counts)
    understood = sum_up(source.understood for source in sources)
    return Diagnosis(
        sources=tuple(sources),
        total=total,
        remarks=(*_remarks(total, num_single), *understood.sentences()),
        withheld=tuple(_doubts(total, understood)),
        understood=understood,
    )


def _doubts(total: Counts, understood: Understood) -> list[str]:
    """Reasons to give no count."""
    tally = total.tally
    if total.num_invalid == tally.num_trajectories:
        return [
            f"All {tally.num_trajectories:,} trajectories are of invalid format, so no search has "
            "a silver score: --validity answered asks for a search and an answer alone.",
            *understood.doubts(),
        ]
    reasons = understood.doubts()
    if tally.num_correct == 0 and total.num_scored_groups == 0:
        reasons.append(
            f"In none of {tally.num_groups:,} groups has a trajectory of valid format a reward of "
            "0.7 or more, so nothing says which searches were correct."
        )
    return reasons


def _remarks(total: Counts, num_single: int) -> Iterable[str]:
    tally = total.tally
    if num_single:
        yield (
            f"{num_single:,} groups of one trajectory are left out: they have nothing to be "
            "compared with."
        )
    unscored = tally.num_groups - total.num_scored_groups
    if unscored:
        yield (
            f"In {unscored:,} of {tally.num_groups:,} groups no trajectory of valid format has a "
            "reward of 0.7 or more, so nothing says which searches were correct there, unless the "
            "records name gold passages."
        )
    if total.num_invalid:
        yield (
            f"{total.num_invalid:,} of {tally.num_trajectories:,} trajectories are of invalid "
            "format; their searches have no silver score."
        )


def render_diagnosis(diagnosis: Diagnosis, *, max_groups: int = MAX_GROUPS) -> str:
    """The page as one document that loads nothing, with at most ``max_groups`` groups to browse.

    Raises:
        ValueError: if ``max_groups`` is not positive.
    """
    require_positive(max_groups=max_groups)
    wanted = max(1, max_groups // len(diagnosis.sources))
    groups = [
        each for source in diagnosis.sources for each in source.best.views(wanted, arm=source.label)
    ]
    panels = _panels(diagnosis.sources)
    labels = [source.label for source in diagnosis.sources]
    colours = {label: ARM_COLOURS[i % len(ARM_COLOURS)] for i, label in enumerate(labels)}
    return render_template(
        "diagnosis.html",
        groups[:max_groups],
        panels,
        colours,
        title=", ".join(labels),
        sentences=diagnosis.headline,
        remarks=diagnosis.remarks,
        table=markupsafe.Markup(html_table(_table(diagnosis))),
        num_all=diagnosis.total.tally.num_groups,
        has_panels=bool(panels),
    )


TABLE_HEADER: Final = (
    "Source",
    "Step",
    "Groups",
    "Trajectories",
    "Searches",
    "Correct",
    "Punished",
    "Spared",
    "Eased",
    "Kept",
    "Answer found",
    "and punished",
)
"""Columns of the table; the last two count searches that brought an accepted answer to light."""


def table_rows(diagnosis: Diagnosis, *, max_steps: int = 20) -> list[tuple[str, ...]]:
    """Rows of the table: at most ``max_steps`` steps of each source, spread evenly, and the sum."""
    rows = []
    for source in diagnosis.sources:
        for step in spread_out(source.steps, max_steps):
            rows.append((source.label, str(step), *_cells(source.steps[step], diagnosis)))
    return [*rows, ("all", "", *_cells(diagnosis.total, diagnosis))]


def _table(diagnosis: Diagnosis) -> Table:
    rows = tuple(table_rows(diagnosis))
    return Table(
        title="Correct searches that GRPO punishes",
        header=TABLE_HEADER,
        rows=rows,
        emphasised=frozenset({len(rows) - 1}),
        note=(
            "Correct: the search found a passage that the group's best trajectory used (silver), "
            "or a gold passage. Spared, eased, kept: what CalibAdv does with the penalty. The last "
            "two columns count searches that brought an accepted answer to light, whatever the "
            "silver passages say."
        ),
    )


def _cells(counts: Counts, diagnosis: Diagnosis) -> tuple[str, ...]:
    tally = counts.tally
    cells = (
        f"{tally.num_groups:,}",
        f"{tally.num_trajectories:,}",
        f"{tally.num_searches:,}",
        f"{tally.num_correct:,}",
        f"{tally.num_punished:,} ({share(tally.num_punished, tally.num_correct):.0%})",
        f"{tally.verdicts['spared']:,}",
        f"{tally.verdicts['eased']:,}",
        f"{tally.verdicts['punished']:,}",
        f"{counts.num_answer_searches:,}",
        f"{counts.num_answer_punished:,}",
    )
    if not diagnosis.withheld:
        return cells
    first = TABLE_HEADER.index("Correct") - 2
    last = TABLE_HEADER.index("Kept") - 2
    return tuple("–" if first <= i <= last else cell for i, cell in enumerate(cells))


def _panels(sources: Sequence[Source]) -> list[Panel]:
    """Curves over the steps, where a source has several."""
    shown = [source for source in sources if len(source.steps) > 1]
    wanted = (
        ("punished_share", "Punished correct searches", "share of correct searches"),
        ("reward_mean", "Reward", "mean reward of an episode"),
    )
    return [
        Panel(key=key, title=title, unit=unit, curves=tuple(_curve(s, key) for s in shown))
        for key, title, unit in wanted
        if shown
    ]


def _curve(source: Source, key: str) -> ArmCurve:
    steps = tuple(sorted(source.steps))
    values = tuple(float(source.steps[step].to_dict()[key]) for step in steps)
    return ArmCurve(
        arm=source.label, updates=steps, mean=values, low=None, high=None, by_seed={0: values}
    )


def _answer_searches(group: Group) -> Any:
    """Searches whose passages hold an accepted answer; none where that is unknown."""
    try:
        return AnswerMatchCredit()(group) > SCORED_BAD
    except MissingInfoKeyError:
        return np.zeros((len(group), group.max_turns), dtype=np.bool_)


def _merge(total: Counts, more: Counts) -> None:
    """Adds counts to others."""
    for target, values in ((total.tally, asdict(more.tally)), (total, asdict(more))):
        for name, value in values.items():
            if isinstance(value, Mapping):
                continue
            setattr(target, name, getattr(target, name) + value)
    for verdict, number in more.tally.verdicts.items():
        total.tally.verdicts[verdict] += number
