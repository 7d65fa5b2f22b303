"""`calibadv report`: table, curves and page of a comparison that has run, made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from calibadv_algo.cli.compare import write_results
from calibadv_algo.cli.places import comparison_at
from calibadv_env.common.locks import hold_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Make the table, the curves and the page of a comparison again."""

    comparison_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that `calibadv compare` wrote, or of a run in it."""

    def run(self) -> int:
        """Writes and prints."""
        folder = comparison_at(self.comparison_dir)
        with hold_folder(folder):
            write_results(folder, Console(highlight=False))
        return 0
