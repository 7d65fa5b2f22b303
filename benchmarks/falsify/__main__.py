"""The experiment on CalibAdv's claims: labels, parts, step size and collapse.

    python -m benchmarks.falsify --output-dir runs/falsify

Trains 280 policies, 30 of them six times as long: about 22 hours of a core, and writes `page/`
below the output folder. What is finished is reported with its number of seeds, and the same
command goes on. The recorded page, docs/falsify/README.md, is that of the first edition.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.falsify.numbers import measure_study, write_numbers
from benchmarks.falsify.page import write_page
from benchmarks.falsify.study import FALSIFY, Study
from calibadv_algo.cli.compare import run_comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Falsify:
    """Run the comparisons of the experiment one after the other, then write its page."""

    output_dir: Path = Path("runs/falsify")
    """Folder of the comparisons and of the page."""
    num_workers: int = 0
    """Runs side by side; 0 means as many as there are cores."""

    def run(self) -> None:
        """Trains what is not finished, then writes numbers and page."""
        console = Console(highlight=False)
        for part in FALSIFY.parts:
            console.print(f"{part.name}: {part.label}")
            config = FALSIFY.part_config(part, self.output_dir, num_workers=self.num_workers)
            run_comparison(config, console)
        write_study(FALSIFY, self.output_dir, console)


def write_study(study: Study, study_dir: Path, console: Console) -> None:
    """Measures a study from its runs and writes its numbers and its page.

    Args:
        study: The comparisons that were run.
        study_dir: Their folder; the page goes into ``page`` below it.
        console: Where the names of the written files are printed.
    """
    results = measure_study(study, study_dir)
    page = study_dir / "page"
    for path in (write_numbers(results, page), *write_page(results, page)):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(Falsify, config=(tyro.conf.AvoidSubcommands,)).run()
