"""Compares our numbers with vectors of the reference implementations: `make conformance`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console

from conformance.calibadv import check_vector
from conformance.published import check_output
from conformance.report import ConformanceReport, VectorResult, format_report

RECORDED: Final = tuple(
    Path(__file__).parent / "data" / f"{name}_vectors.json" for name in ("calibadv", "misc")
)
"""The vectors that come with the project."""

DEFAULT_TOLERANCE: Final = 1e-5
"""Largest absolute difference that counts as agreement; the vectors are single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """Compare credit, advantages and losses with files of reference vectors."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = RECORDED
    """JSON files of vectors; by default those that are recorded here."""
    tolerance: float = DEFAULT_TOLERANCE
    """Largest absolute difference that counts as agreement."""

    def __post_init__(self) -> None:
        """Checks that there is something to compare."""
        if not self.files:
            raise ValueError("files must not be empty")

    def run(self) -> int:
        """Prints how many vectors agree; the exit code is 1 if a supported one does not."""
        console = Console(soft_wrap=True)
        reports = [run_conformance(path, self.tolerance) for path in self.files]
        for report in reports:
            console.print(format_report(report), highlight=False, markup=False)
        if len(reports) > 1:
            agreed = sum(report.num_agreed for report in reports)
            total = sum(report.num_vectors for report in reports)
            console.print(f"all files: {agreed} of {total} vectors agree", highlight=False)
        return 0 if all(report.is_conformant for report in reports) else 1


def run_conformance(
    path: str | Path,
    tolerance: float = DEFAULT_TOLERANCE,
) -> ConformanceReport:
    """Runs the library on every vector of a file.

    Args:
        path: A JSON file with a list ``vectors``, or with ``inputs`` and ``outputs``.
        tolerance: Largest absolute difference that counts as agreement, not negative.

    Returns:
        The report.

    Raises:
        ValueError: if the file is not in the format; it names the file and the vector.
        OSError: if it cannot be read.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be a JSON object: {error}") from error
    results = []
    for name, check in _checks(path, content):
        try:
            results.append(check())
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: vector {name} is not in the format: {error!r}") from error
    return ConformanceReport(path=str(path), tolerance=tolerance, results=tuple(results))


def _checks(path: str | Path, content: Any) -> list[tuple[str, Callable[[], VectorResult]]]:
    """Lists what a file asks to be checked, by name."""
    if isinstance(content, dict) and isinstance(content.get("vectors"), list):
        return [
            (str(index), partial(check_vector, vector))
            for index, vector in enumerate(content["vectors"])
        ]
    if isinstance(content, dict) and all(
        isinstance(content.get(key), dict) for key in ("inputs", "outputs")
    ):
        return [(name, partial(check_output, name, content)) for name in content["outputs"]]
    raise ValueError(
        f"{path} must be a JSON object with a list 'vectors', or 'inputs' and 'outputs'"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(Conformance, config=(tyro.conf.AvoidSubcommands,)).run())
