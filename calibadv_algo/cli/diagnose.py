"""`calibadv diagnose`: how many correct searches the GRPO of a run punished, whoever ran it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibadv_algo.cli.places import trajectories_at
from calibadv_algo.cli.trace import Reading, describe, describe_skipped, say, write_lines
from calibadv_algo.report.diagnosis import (
    MAX_GROUPS,
    TABLE_HEADER,
    Diagnosis,
    Source,
    diagnose,
    render_diagnosis,
    table_rows,
)
from calibadv_algo.report.groups import iterate_groups
from calibadv_algo.traces.base import Rules
from calibadv_algo.traces.building import rescale
from calibadv_algo.traces.files import iterate_records, log_files
from calibadv_algo.traces.grouping import Skipped
from calibadv_algo.types import Group

_SHOWN: Final = TABLE_HEADER.index("Kept") + 1
"""Columns that have room in a terminal; page and JSON have them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnose:
    """Count the correct searches that GRPO punishes in recorded rollouts, and show them.

    It reads trajectories of ours and whatever `calibadv trace import` reads.
    """

    traces: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files or folders; each is a source of its own in the table."""
    output: Path | None = None
    """Page to write: one HTML file with the counts and a browser of trajectories."""
    json: Path | None = None
    """File for the counts as JSON."""
    reward_range: tuple[float, float] | None = None
    """Lowest and highest reward possible, where they are not 0 and 1."""
    max_groups: int = MAX_GROUPS
    """Most groups on the page."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    """Rules for logs of other systems."""

    def run(self) -> int:
        """Counts, prints a table and writes what is asked for."""
        if not self.traces:
            raise ValueError("traces must name at least one file or folder, got none")
        console = Console(highlight=False)
        rules = self.reading.rules()
        sources: list[Source] = []
        for trace in self.traces:
            label = _label(trace, [source.label for source in sources])
            source = Source(label=label)
            source.add(self._scaled(self._groups(trace, rules, console)))
            sources.append(source)
        diagnosis = diagnose(sources)
        self._show(diagnosis, console)
        if self.json is not None:
            write_lines(self.json, [json.dumps(diagnosis.to_dict(), indent=1)])
        if self.output is not None:
            page = render_diagnosis(diagnosis, max_groups=self.max_groups)
            write_lines(self.output, [page])
            console.print(f"page: {self.output}", markup=False, soft_wrap=True)
        return 0

    def _groups(self, trace: Path, rules: Rules, console: Console) -> Iterator[Group]:
        """The groups of a source, ours or another's."""
        trace = trajectories_at(trace)
        paths = log_files(trace)
        if self.reading.format == "auto" and _is_ours(paths[0]):
            for path in paths:
                yield from iterate_groups(path)
            return
        skipped = Skipped()
        for log in self.reading.logs(trace, skipped):
            groups = self.reading.groups(log, rules)
            say(console, describe(log, groups)[:1])
            yield from groups
        say(console, describe_skipped(skipped))

    def _scaled(self, groups: Iterator[Group]) -> Iterator[Group]:
        for group in groups:
            if self.reward_range is None:
                yield group
            else:
                low, high = self.reward_range
                yield Group(tuple(rescale(each, low, high) for each in group.trajectories))

    def _show(self, diagnosis: Diagnosis, console: Console) -> None:
        table = Table(*TABLE_HEADER[:2], title="Correct searches that GRPO punishes")
        for name in TABLE_HEADER[2:_SHOWN]:
            table.add_column(name, justify="right")
        rows = table_rows(diagnosis)
        for row in rows[:-1]:
            table.add_row(*(escape(cell) for cell in row[:_SHOWN]))
        table.add_section()
        table.add_row(*rows[-1][:_SHOWN])
        console.print(table)
        say(console, (*diagnosis.headline, *diagnosis.remarks))


def _is_ours(path: Path) -> bool:
    """True if, by its first record, this library wrote a file."""
    _, record = next(iterate_records(path), ("", {}))
    return {"group_id", "prompt_ids", "turns"} <= set(record)


def _label(trace: Path, taken: Sequence[str]) -> str:
    """A short name for a source that no other has."""
    path = trace.absolute()
    says_nothing = path.stem.isdigit() or path.stem in ("results", "traces", "trajectories")
    name = (path.parent.name if says_nothing else path.stem) or str(path)
    candidates = [name, f"{path.parent.name}/{path.name}", str(path), f"{path} ({len(taken) + 1})"]
    return next(each for each in candidates if each not in taken)
