"""The experiment on CalibAdv's claims: labels, parts, harder worlds, long runs, controls.

    python -m benchmarks.falsify --parts main

What is finished is kept in `benchmarks/falsify/records`, a few kilobytes a run, and reported in
docs/falsify; the same command adds the rest when it is started again, here or elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.falsify.numbers import measure_study, write_numbers
from benchmarks.falsify.page import write_page
from benchmarks.falsify.records import RECORDS, collect, restore
from benchmarks.falsify.study import FALSIFY, Study
from calibadv_algo.cli.compare import run_comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Falsify:
    """Run the comparisons of the experiment one after the other, then write its page."""

    output_dir: Path = Path("runs/falsify")
    """Folder of the comparisons."""
    page_dir: Path = Path("docs/falsify")
    """Folder of the page."""
    records_dir: Path = RECORDS
    """Folder of the records of finished runs."""
    parts: tuple[str, ...] = tuple(part.name for part in FALSIFY.parts)
    """Comparisons that are run, in this order."""
    num_workers: int = 0
    """Runs side by side; 0 means as many as there are cores."""
    page_only: bool = False
    """If true, nothing is run: what is finished is recorded, and the page is written."""

    def run(self) -> None:
        """Runs what is not finished, records it and writes numbers and page.

        Raises:
            ValueError: if a part is not known.
        """
        known = {part.name: part for part in FALSIFY.parts}
        for name in self.parts:
            if name not in known:
                raise ValueError(f"parts must be among {', '.join(known)}, got {name!r}")
        console = Console(highlight=False)
        self._restore(console)
        try:
            for name in () if self.page_only else self.parts:
                part = known[name]
                console.print(f"{part.name}: {part.label}")
                config = FALSIFY.part_config(part, self.output_dir, num_workers=self.num_workers)
                run_comparison(config, console)
        finally:
            self._collect(console)
            write_study(FALSIFY, self.output_dir, self.page_dir, console)

    def _restore(self, console: Console) -> None:
        made = sum(
            restore(FALSIFY.part_config(part, self.output_dir), self.records_dir)
            for part in FALSIFY.parts
        )
        console.print(f"{made} finished runs were restored from {self.records_dir}", markup=False)

    def _collect(self, console: Console) -> None:
        written = [
            path
            for part in FALSIFY.parts
            for path in collect(FALSIFY.part_config(part, self.output_dir), self.records_dir)
        ]
        console.print(f"{len(written)} runs were recorded in {self.records_dir}", markup=False)


def write_study(study: Study, study_dir: Path, page_dir: Path, console: Console) -> None:
    """Measures a study from its runs and writes its numbers and its page.

    Args:
        study: The comparisons that were run.
        study_dir: Their folder.
        page_dir: Where the page goes.
        console: Where the names of the written files are printed.
    """
    results = measure_study(study, study_dir)
    for path in (write_numbers(results, page_dir), *write_page(results, page_dir)):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(Falsify, config=(tyro.conf.AvoidSubcommands,)).run()
