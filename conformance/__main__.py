"""Compares our numbers with vectors of the reference implementations: `make conformance`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console

from calibadv_env.retrieval.remote.simulated import noise_probability
from conformance.calibadv import format_report, run_conformance

RECORDED: Final = tuple(
    Path(__file__).parent / "data" / f"{name}_vectors.json" for name in ("calibadv", "misc")
)
"""The vectors that come with the project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """Compare credit, advantages and losses with files of reference vectors."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = RECORDED
    """JSON files of vectors; by default those that are recorded here."""
    tolerance: float = 1e-5
    """Largest absolute difference that counts as agreement."""

    def __post_init__(self) -> None:
        """Checks that there is something to compare."""
        if not self.files:
            raise ValueError("files must not be empty")

    def run(self) -> int:
        """Prints how many vectors agree; the exit code is 1 if a supported one does not."""
        console = Console(soft_wrap=True)
        reports = [run_conformance(path, self.tolerance, _curriculum) for path in self.files]
        for report in reports:
            console.print(format_report(report), highlight=False, markup=False)
        if len(reports) > 1:
            agreed = sum(report.num_agreed for report in reports)
            total = sum(report.num_vectors for report in reports)
            console.print(f"all files: {agreed} of {total} vectors agree", highlight=False)
        return 0 if all(report.is_conformant for report in reports) else 1


def _curriculum(step: int, num_steps: int, start: float, end: float) -> float:
    """The environment's share of noisy searches."""
    return noise_probability(step, num_steps, start=start, end=end)


if __name__ == "__main__":
    sys.exit(tyro.cli(Conformance, config=(tyro.conf.AvoidSubcommands,)).run())
