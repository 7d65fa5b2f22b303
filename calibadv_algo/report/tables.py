"""The tables of a comparison, for the terminal, for Markdown and for the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import rich.table
import rich.text

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.report.rows import Row
from calibadv_algo.report.shares import NOTHING
from calibadv_algo.report.summary import SplitSummary, Summary

COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("em", "EM"),
    ("f1", "F1"),
    ("num_searches", "Searches"),
    ("is_format_valid", "Format valid"),
)
"""Name of the score and heading of its column."""

F1_NOTE: Final[str] = "F1 is SQuAD's, of words, best accepted answer."
"""Says which F1 a table shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        header: One heading a column; the first column names the rows.
        rows: As many cells a row as there are headings.
        emphasised: Positions of rows that carry the result.
        note: How to read it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasised: frozenset[int] = frozenset()
    note: str = ""


def format_interval(interval: Interval | None, *, signed: bool = False) -> str:
    """An estimate and its interval, such as ``0.512 [0.480, 0.541]``.

    There are no brackets when the ends are NaN, and a dash where there is no interval.

    Args:
        interval: The interval, or None where there is none.
        signed: If true, positive numbers have their sign, for differences.
    """
    if interval is None or math.isnan(interval.estimate):
        return NOTHING
    style = "+.3f" if signed else ".3f"

    def number(value: float) -> str:
        return format(0.0 if abs(value) < 0.0005 else value, style).replace("-", "−")

    if math.isnan(interval.low) or math.isnan(interval.high):
        return number(interval.estimate)
    return f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]"


def _stable_runs(row: Row, num_seeds: int) -> str:
    if row.stability is None:
        return NOTHING
    return f"{round(row.stability.estimate * num_seeds)} of {num_seeds}"


def interval_note(summary: Summary, split: SplitSummary) -> str:
    """One to three sentences on the meaning of the intervals, and their limits."""
    percent = f"{summary.confidence:.0%}"
    units = "clusters of questions" if split.has_clusters else "questions"
    if len(summary.seeds) == 1:
        return (
            f"In brackets: {percent} intervals by bootstrap over {units}. With one seed they "
            "do not say how another seed would have ended."
        )
    return (
        f"In brackets: {percent} intervals by bootstrap over {len(summary.seeds)} seeds and the "
        f"{units}, crossed, with Student's t for their numbers.{_judged_note(summary, split)}"
    )


def _judged_note(summary: Summary, split: SplitSummary) -> str:
    """Says where the interval of a verdict stands in a table of bootstrap intervals."""
    judged = summary.judgement.verdicts.values()
    if split.split != summary.splits[0].split or not judged:
        return ""
    coverage = f"{100 * (1 - next(iter(judged)).level):.4g} %"
    return (
        f" Judged differences have the interval of their verdict in its column: {coverage}, by "
        "Student's t from the components of variance."
    )


def main_table(summary: Summary, split: SplitSummary) -> Table:
    """The headline table of a split: warm start, arms, paired differences.

    Gains over the warm start stand in a column of their own.
    """
    gains = {row.name.split(" − ")[0]: row for row in split.rows if row.kind == "gain"}
    rows: list[tuple[str, ...]] = []
    emphasised: set[int] = set()
    for row in split.rows:
        if row.kind == "gain":
            continue
        signed = row.kind == "difference"
        cells = [format_interval(row.scores.get(key), signed=signed) for key, _ in COLUMNS]
        gain = gains[row.name].scores["f1"] if row.name in gains else None
        cells.insert(2, format_interval(gain, signed=True))
        if signed:
            emphasised.add(len(rows))
        rows.append((row.name, *cells, _stable_runs(row, len(summary.seeds))))
    headings = [heading for _, heading in COLUMNS]
    headings.insert(2, "F1 gain")
    seeds = f"{len(summary.seeds)} seed{'s' if len(summary.seeds) > 1 else ''}"
    return Table(
        title=f"{split.split}: {split.num_questions} questions, {seeds}",
        header=("Policy", *headings, "Stable runs"),
        rows=tuple(rows),
        emphasised=frozenset(emphasised),
        note=f"{interval_note(summary, split)} {F1_NOTE}",
    )


def hops_table(split: SplitSummary) -> Table:
    """F1 by number of hops, one column a number; 0 hops are headed as unknown."""
    hops = sorted(split.by_hops)
    names = [row.name for row in split.by_hops[hops[0]] if row.kind != "gain"]
    rows: list[tuple[str, ...]] = []
    emphasised: set[int] = set()
    for name in names:
        lines = [next(row for row in split.by_hops[hop] if row.name == name) for hop in hops]
        signed = lines[0].kind == "difference"
        if signed:
            emphasised.add(len(rows))
        rows.append((name, *(format_interval(line.scores["f1"], signed=signed) for line in lines)))

    def heading(hop: int) -> str:
        kind = "hops unknown" if hop == 0 else f"{hop} hop{'s' if hop > 1 else ''}"
        return f"{kind} (n={split.num_questions_by_hops[hop]})"

    return Table(
        title=f"{split.split}: F1 by number of hops",
        header=("Policy", *(heading(hop) for hop in hops)),
        rows=tuple(rows),
        emphasised=frozenset(emphasised),
    )


def split_tables(summary: Summary) -> tuple[Table, ...]:
    """For each split, that of the verdicts first, the headline table and the one by hops."""
    return tuple(
        table
        for split in summary.splits
        for table in (main_table(summary, split), hops_table(split))
    )


def rich_table(table: Table) -> rich.table.Table:
    """A table for the terminal; names with brackets are shown as they are."""
    result = rich.table.Table(title=rich.text.Text(table.title), caption=rich.text.Text(table.note))
    for i, heading in enumerate(table.header):
        result.add_column(rich.text.Text(heading), justify="left" if i == 0 else "right")
    for i, row in enumerate(table.rows):
        cells = [rich.text.Text(cell) for cell in row]
        result.add_row(*cells, style="bold" if i in table.emphasised else "")
    return result


def _markdown_line(cells: Sequence[str]) -> str:
    clean = [" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(clean)} |"


def markdown_table(table: Table) -> str:
    """A table as Markdown with its title and note; ends with a newline."""
    rule = ["---", *("---:" for _ in table.header[1:])]
    lines = [f"**{table.title}**", "", _markdown_line(table.header), _markdown_line(rule)]
    lines += [_markdown_line(row) for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _html_cell(cell: str) -> str:
    estimate, bracket, interval = cell.partition(" [")
    text = html.escape(estimate)
    if bracket:
        text += f' <span class="interval">[{html.escape(interval)}</span>'
    return f"<td>{text}</td>"


def html_table(table: Table) -> str:
    """A ``figure`` with the table and its note; all text is escaped."""
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in table.header)
    body = []
    for i, (name, *cells) in enumerate(table.rows):
        style = ' class="emphasised"' if i in table.emphasised else ""
        columns = "".join(_html_cell(cell) for cell in cells)
        body.append(f'<tr{style}><th scope="row">{html.escape(name)}</th>{columns}</tr>')
    note = f"<figcaption>{html.escape(table.note)}</figcaption>" if table.note else ""
    return (
        '<figure class="table"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{html.escape(table.title)}"><table>'
        f"<caption>{html.escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>{note}</figure>"
    )
