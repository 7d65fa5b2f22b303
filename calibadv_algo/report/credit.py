"""Tables and page of a measurement of credit: which estimator is right, what turns are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import markupsafe
import numpy as np

from calibadv_algo.experiments.truth.audit import Audit, Standing
from calibadv_algo.experiments.truth.candidates import HEADLINE, REFERENCE
from calibadv_algo.experiments.truth.kinds import MIN_TURNS, Worth
from calibadv_algo.experiments.truth.metrics import METRICS
from calibadv_algo.experiments.truth.turns import truths
from calibadv_algo.experiments.truth.values import MeasuredGroup
from calibadv_algo.report.assessment import assess
from calibadv_algo.report.credit_pictures import Picture, make_pictures
from calibadv_algo.report.curves import ARM_COLOURS
from calibadv_algo.report.groups import GroupView, view
from calibadv_algo.report.tables import Table, format_interval, html_table, markdown_table
from calibadv_algo.report.template import render_template

MAX_GROUPS: Final = 40
NUM_OTHERS: Final = 6
"""Best and worst candidates beside those of the headline."""

_NOTE: Final = " ".join(f"{each.title}: {each.meaning}." for each in METRICS) + (
    " Redrawn: share of the estimate's variance that comes from which siblings were drawn. "
    "Minus another: difference in correlation, its 95 % interval holding for all comparisons."
)
_GRADIENT_NOTE: Final = (
    " Gradient: cosine with the gradient of the true advantages, corrected for their noise."
)

PART_TITLES: Final[Mapping[str, str]] = {
    "searches": "Searches",
    "answers": "Last turns",
    "all": "All turns",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSource:
    """A measured policy.

    Attributes:
        label: What to call it.
        measured: Its groups.
        audit: Candidates against the truth.
        facts: Sizes and settings.
    """

    label: str
    measured: tuple[MeasuredGroup, ...] = field(repr=False)
    audit: Audit = field(repr=False)
    facts: Mapping[str, Any]


def by_correlation(standings: Mapping[str, Standing]) -> list[str]:
    """Candidates by their corrected correlation, best first; those without a number last."""

    def rank(name: str) -> float:
        value = standings[name].scores["corrected"].estimate
        return math.inf if math.isnan(value) else -value

    return sorted(standings, key=rank)


def title_of(reference: str) -> str:
    """Name of the reference in headings."""
    return "GRPO" if reference == REFERENCE else reference


def headline_names(standings: Mapping[str, Standing]) -> list[str]:
    """GRPO, CalibAdv by its labels, and the best and worst of the others."""
    order = by_correlation(standings)
    known = [name for name in order if not math.isnan(standings[name].scores["corrected"].estimate)]
    others = [name for name in known if name not in HEADLINE]
    half = NUM_OTHERS // 2
    chosen = {*HEADLINE, *(others if len(others) <= NUM_OTHERS else others[:half] + others[-half:])}
    return [name for name in order if name in chosen]


def board(
    source: CreditSource, part: str, names: Sequence[str] | None = None, *, is_narrow: bool = False
) -> Table:
    """Candidates over some of the turns, best first; a narrow one has fewer intervals."""
    audit = source.audit
    standings = audit.standings[part]
    rows = []
    for name in names or by_correlation(standings):
        one = standings[name]
        cells = [_number(one.scores[each.name].estimate) for each in METRICS]
        if not is_narrow:
            cells[0] = format_interval(one.scores["correlation"])
        cells.append(_number(audit.jackknife.get(name, math.nan)))
        if audit.cosines:
            cosine = audit.cosines[name].scores["cosine"]
            cells.append(_number(cosine.estimate) if is_narrow else format_interval(cosine))
        difference = one.against.get("correlation")
        joint = "" if difference is None else format_interval(difference.joint, signed=True)
        verdict = "" if difference is None else difference.verdict
        # Beside the correlation, where a page that is too narrow for all columns shows it.
        rows.append((name, cells[0], joint, verdict, *cells[1:]))
    gradient = ("Gradient",) if audit.cosines else ()
    first, *others = (each.title for each in METRICS)
    against = f"− {title_of(audit.reference)}"
    header = ("Estimator", first, against, "Verdict", *others, "Redrawn", *gradient)
    return Table(
        title=f"{source.label}: {PART_TITLES[part].lower()}",
        header=header,
        rows=tuple(rows),
        emphasised=frozenset(i for i, row in enumerate(rows) if row[0] == audit.reference),
        note=_NOTE + (_GRADIENT_NOTE if audit.cosines else ""),
    )


def worth_table(source: CreditSource) -> Table:
    """What kinds of turns were worth."""
    return Table(
        title=f"{source.label}: mean true advantage",
        header=("Turns", "Number", "True advantage", "Clearly good", "Clearly bad"),
        rows=tuple(_worth_row(each) for each in source.audit.worth),
        note="In units of the reward, with 95 % intervals by cluster. Clearly: more than two "
        "standard errors of that turn's own advantage.",
    )


def kinds_table(source: CreditSource) -> Table:
    """Correlation of the headline's candidates over each kind of turns."""
    found = source.audit.by_kind
    names = [name for name in HEADLINE if name in source.audit.advantages]
    counts = {each.what: each.count for each in source.audit.worth}
    return Table(
        title=f"{source.label}: correlation by kind of turn",
        header=("Turns", "Number", *names),
        rows=tuple(
            (kind, f"{counts[kind]:,}", *(format_interval(scores[name]) for name in names))
            for kind, scores in found.items()
        ),
        note=f"With the measured truth, over kinds of at least {MIN_TURNS} turns; a dash where an "
        "estimate or the truth is the same for all of them.",
    )


def values_tables(source: CreditSource) -> tuple[Table, ...]:
    """How good the critic's values are: one table, or none without a critic."""
    rows = tuple(
        (
            each.what,
            f"{each.count:,}",
            format_interval(each.correlation),
            _number(each.corrected.estimate),
            _number(each.within.estimate),
            format_interval(each.explained),
            format_interval(each.bias, signed=True),
        )
        for each in source.audit.values
    )
    if not rows:
        return ()
    header = ("Values of", "Turns", "Correlation", "… corrected", "Within", "Explained", "Bias")
    note = (
        "Against the measured values of the states before the turns. Other episodes: the mean "
        "return of the rest of the group. Corrected: without the noise of the measurement. Within: "
        "corrected, after each question's mean is taken off. Explained: share of the variance of "
        "the values; below 0, the mean of all values is nearer. Bias: mean difference."
    )
    return (Table(title=f"{source.label}: values of states", header=header, rows=rows, note=note),)


def remarks(source: CreditSource) -> list[str]:
    """Sentences about sizes and about what could not be shown."""
    facts, audit = source.facts, source.audit
    share = audit.reliability["searches"].estimate
    noise = (
        "All searches look alike, so how much of that is noise cannot be told. "
        if math.isnan(share)
        else f"{_percent(share)} of the variance of the measured advantages of searches is no "
        "noise. "
    )
    lines = [
        f"{source.label}: {facts['questions']} questions × {facts['group_size']} episodes, "
        f"{facts['states']:,} states, {facts['continuations']:,} continuations; "
        f"{audit.num_turns['searches']:,} searches and {audit.num_turns['answers']:,} last turns. "
        f"{noise}Intervals resample {audit.num_clusters:,} clusters, by {facts['clusters']}."
    ]
    shown = audit.standings["searches"]
    showable = [
        shown[name].against["correlation"].showable
        for name in HEADLINE
        if name in shown and "correlation" in shown[name].against
    ]
    if showable:
        lines.append(
            f"{source.label}: a difference in correlation from {title_of(audit.reference)} of "
            f"{max(showable):.2f} shows "
            f"in four of five such measurements, {len(shown) - 1} comparisons considered."
        )
    if facts.get("critic_rewards"):
        lines.append(
            f"{source.label}: its critic learnt from other rewards than are measured here "
            f"({facts['critic_rewards']}): its order of states can be judged, its scale cannot."
        )
    for key, text in (
        ("dropped", "episodes or continuations were given up"),
        ("questions_lost", "questions were left out: too few episodes"),
    ):
        if facts.get(key):
            lines.append(f"{source.label}: {facts[key]} {text}.")
    return lines


def sentences(source: CreditSource) -> list[str]:
    """The two sentences at the top of the page."""
    worth = {each.what: each for each in source.audit.worth}
    against = source.audit.standings["searches"]
    better = [n for n, s in against.items() if _verdict(s) == "better"]
    worse = [n for n, s in against.items() if _verdict(s) == "worse"]
    others = len(against) - 1 - len(better) - len(worse)
    first = (
        f"Against {title_of(source.audit.reference)}, {len(better)} of {len(against) - 1} "
        f"estimators are closer to what searches were worth, {len(worse)} farther from it, "
        f"{others} undecided."
    )
    punished = worth.get("… of them correct by gold")
    if punished is None:
        return [first]
    return [
        first,
        f"The {punished.count:,} searches that GRPO punishes although they are correct by gold are "
        f"worth {format_interval(punished.advantage, signed=True)}.",
    ]


def table_texts(sources: Sequence[CreditSource]) -> str:
    """The tables as Markdown."""
    parts = []
    for source in sources:
        names = headline_names(source.audit.standings["searches"])
        parts += [markdown_table(board(source, "searches", names)), "\n".join(remarks(source))]
        parts += [markdown_table(each) for each in (worth_table(source), *values_tables(source))]
        parts += [markdown_table(replace(board(source, part), note="")) for part in PART_TITLES]
        parts += [markdown_table(kinds_table(source))]
    return "\n\n".join(parts) + "\n"


def pictures_of(sources: Sequence[CreditSource]) -> list[Picture]:
    """The pictures of the page."""
    return make_pictures([(source.label, source.audit) for source in sources], headline_names)


def render_credit(
    sources: Sequence[CreditSource],
    *,
    pictures: Sequence[Picture] | None = None,
    max_groups: int = MAX_GROUPS,
) -> str:
    """The page as one document that loads nothing; pictures are drawn unless they are given."""
    share = max(1, max_groups // len(sources))
    groups = [each for source in sources for each in _views(source, share)]
    headline = [
        markupsafe.Markup(
            html_table(board(s, "searches", headline_names(s.audit.standings["searches"])))
        )
        for s in sources
    ]
    return render_template(
        "credit.html",
        groups,
        (),
        {source.label: ARM_COLOURS[i % len(ARM_COLOURS)] for i, source in enumerate(sources)},
        title=", ".join(source.label for source in sources),
        sentences=sentences(sources[0]),
        headline_tables=headline,
        remarks=[line for source in sources for line in remarks(source)],
        pictures=pictures_of(sources) if pictures is None else pictures,
        worth_tables=[
            markupsafe.Markup(html_table(table))
            for source in sources
            for table in (worth_table(source), *values_tables(source))
        ],
        all_tables=[
            {"title": table.title, "html": markupsafe.Markup(html_table(table))}
            for source in sources
            for table in (*(board(source, part) for part in PART_TITLES), kinds_table(source))
        ],
        left_out=sorted(sources[0].audit.left_out.items()),
        settings=[
            (f"{source.label}: {name}", str(value))
            for source in sources
            for name, value in source.facts.items()
            # Seconds of the last call: a measurement that was resumed must give the same page.
            if name != "wall_s"
        ],
    )


def _views(source: CreditSource, wanted: int) -> Iterable[GroupView]:
    """Groups for the browser with the truth beside the estimates, the most telling ones first."""
    pairs = [
        (assess(each.group), truth)
        for each, truth in zip(source.measured, truths(source.measured), strict=True)
    ]
    pairs.sort(
        key=lambda pair: (-int(pair[0].is_mispenalized.sum()), -np.abs(pair[1].advantages).max())
    )
    for assessed, truth in pairs[:wanted]:
        shown = view(assessed, arm=source.label, seed=0)
        trajectories = tuple(
            replace(
                each,
                turns=tuple(
                    replace(
                        turn,
                        truth=round(float(truth.advantages[row, column]), 4),
                        truth_error=round(float(truth.errors[row, column]), 4),
                    )
                    for column, turn in enumerate(each.turns)
                ),
            )
            for row, each in enumerate(shown.trajectories)
        )
        yield replace(shown, trajectories=trajectories)


def _verdict(standing: Standing) -> str:
    difference = standing.against.get("correlation")
    return "" if difference is None else difference.verdict


def _worth_row(worth: Worth) -> tuple[str, ...]:
    mean = format_interval(worth.advantage, signed=True)
    return (worth.what, f"{worth.count:,}", mean, f"{worth.clear_good:,}", f"{worth.clear_bad:,}")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{value:.0%}"
