"""`calibadv conformance`: our numbers against vectors of the reference implementation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from calibadv_algo.conformance import format_report, run_conformance


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """Compare credit and advantages with a file of reference vectors."""

    file: Annotated[Path, tyro.conf.Positional]
    """JSON file of vectors, such as tests/data/calibadv_vectors.json."""
    tolerance: float = 1e-5
    """Largest absolute difference that counts as agreement."""

    def run(self) -> int:
        """Prints how many vectors agree; the exit code is 1 if a supported one does not."""
        report = run_conformance(self.file, self.tolerance)
        Console(soft_wrap=True).print(format_report(report), highlight=False, markup=False)
        return 0 if report.is_conformant else 1
