"""Pages with all recorded groups, one a run and update, which the report links to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from calibadv_algo.report.assessment import Assessment
from calibadv_algo.report.groups import view
from calibadv_algo.report.methods import Methods
from calibadv_algo.report.reading import Run
from calibadv_algo.report.template import render_template

GROUPS_FOLDER: Final = "report_groups"
"""Folder of the pages, beside the report."""


@dataclass(frozen=True, slots=True)
class PageLink:
    """A page of groups.

    Attributes:
        update: Number of updates before these episodes, or the name of their file.
        num_groups: Groups on the page.
        href: Its address, relative to the report.
    """

    update: str
    num_groups: int
    href: str


@dataclass(slots=True)
class GroupPages:
    """Writes the pages as their groups are read, and knows their links.

    Attributes:
        folder: Where they are written; it exists.
        title: Title of the report that links to them.
        links: Links by the name of the run.
    """

    folder: Path
    title: str
    links: dict[str, list[PageLink]] = field(default_factory=dict)

    def add(self, run: Run, name: str, groups: Sequence[Assessment], methods: Methods) -> None:
        """Writes the page of the groups of a file; a file without groups has none."""
        if not groups:
            return
        place = Path(run.directory.name, f"{name}.html")
        number = name.removeprefix("update_").lstrip("0")
        update = number if number.isdecimal() else "0" if not number else name
        (self.folder / place.parent).mkdir(exist_ok=True)
        text = render_template(
            "groups.html",
            [view(each, arm=run.arm, seed=run.seed) for each in groups],
            (),
            {},
            methods.labels,
            title=f"{run.arm}, seed {run.seed}, update {update}",
            sentences=[f"All {len(groups)} groups that were sampled for this update."],
            report_title=self.title,
        )
        # Policies write halves of surrogate pairs, which UTF-8 cannot.
        (self.folder / place).write_bytes(text.encode("utf-8", "replace"))
        link = PageLink(update, len(groups), f"{GROUPS_FOLDER}/{place.as_posix()}")
        self.links.setdefault(run.directory.name, []).append(link)
