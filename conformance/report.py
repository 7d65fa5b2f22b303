"""Results of checks against reference vectors, and their report as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorResult:
    """Differences of one vector, or the reason why it was not compared.

    Attributes:
        name: Its name.
        switches: Its settings where they are not the default, as ``name=value``, sorted.
        differences: Largest absolute difference of each compared quantity; infinite where
            one side has a score and the other has none. Empty if it was not compared.
        unsupported: Why it was not compared; None if it was.
        note: A defect of the original that was repeated for the comparison; None if none was.
    """

    name: str
    switches: str
    differences: Mapping[str, float]
    unsupported: str | None = None
    note: str | None = None

    @property
    def worst(self) -> float:
        """Largest difference, 0 if it was not compared."""
        return max(self.differences.values(), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceReport:
    """Results of all vectors of a file.

    Attributes:
        path: The file.
        tolerance: Largest difference that counts as agreement.
        results: One a vector, in the file's order.
    """

    path: str
    tolerance: float
    results: tuple[VectorResult, ...]

    @property
    def num_vectors(self) -> int:
        """Vectors in the file."""
        return len(self.results)

    @property
    def num_compared(self) -> int:
        """Vectors whose settings are implemented."""
        return sum(result.unsupported is None for result in self.results)

    @property
    def num_agreed(self) -> int:
        """Vectors that were compared and agree within the tolerance."""
        return sum(self.agrees(result) for result in self.results)

    @property
    def worst_difference(self) -> float:
        """Largest difference over all compared vectors, 0 if there is none."""
        return max((result.worst for result in self.results), default=0.0)

    @property
    def is_conformant(self) -> bool:
        """If true, every compared vector agrees and at least one was compared."""
        return 0 < self.num_compared == self.num_agreed

    def agrees(self, result: VectorResult) -> bool:
        """Tells whether a vector was compared and agrees."""
        return result.unsupported is None and result.worst <= self.tolerance

    def by_switches(self) -> dict[str, tuple[VectorResult, ...]]:
        """Groups the results by their settings, default settings first, then by name."""
        return {
            name: tuple(result for result in self.results if result.switches == name)
            for name in sorted({result.switches for result in self.results})
        }


def format_report(report: ConformanceReport) -> str:
    """Writes a report as plain text, default settings first.

    Args:
        report: Result of :func:`conformance.__main__.run_conformance`.

    Returns:
        Lines for a terminal, without a final newline.
    """
    lines = [
        f"{report.path}: {report.num_agreed} of {report.num_compared} compared vectors agree "
        f"within {report.tolerance:g} (worst difference {report.worst_difference:.2g}); "
        f"{report.num_vectors - report.num_compared} unsupported"
    ]
    for switches, results in report.by_switches().items():
        compared = [result for result in results if result.unsupported is None]
        agreed = sum(report.agrees(result) for result in compared)
        worst = max((result.worst for result in compared), default=0.0)
        name = switches or "default switches"
        if compared:
            lines.append(f"  {agreed}/{len(compared)}  worst {worst:.2g}  {name}")
        lines += [
            f"  unsupported  {result.name}: {result.unsupported}"
            for result in results
            if result.unsupported is not None
        ]
        lines += [
            f"    note  {result.name}: compared {result.note}"
            for result in compared
            if result.note is not None
        ]
        lines += [
            f"    differs  {result.name}: "
            + ", ".join(f"{key} {value:.2g}" for key, value in result.differences.items())
            for result in compared
            if not report.agrees(result)
        ]
    return "\n".join(lines)


def worst_difference(expected: Any, computed: Any) -> float:
    """Largest absolute difference of two numbers, or of equal-shaped lists or tables of them.

    None stands for NaN. Infinite where the shapes differ or one side alone is no number.
    """
    if isinstance(computed, Mapping):
        if set(expected) != set(computed):
            return math.inf
        pairs = [(expected[key], computed[key]) for key in computed]
    elif isinstance(computed, Sequence | np.ndarray):
        if len(expected) != len(computed):
            return math.inf
        pairs = list(zip(expected, computed, strict=True))
    else:
        want = math.nan if expected is None else float(expected)
        if math.isnan(want) or math.isnan(computed):
            return 0.0 if math.isnan(want) and math.isnan(computed) else math.inf
        return abs(want - float(computed))
    return max((worst_difference(*pair) for pair in pairs), default=0.0)
