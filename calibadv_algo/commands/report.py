"""`calibadv report`: table, curves and page of a comparison that has run, made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from calibadv_algo.commands.compare import write_results, write_study
from calibadv_algo.study import STUDIES, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Make the table, the curves and the page of a comparison or of a study again."""

    comparison_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that `calibadv compare` wrote, also with the preset of a study."""

    def run(self) -> int:
        """Writes and prints."""
        console = Console(highlight=False)
        study = find_study(self.comparison_dir)
        if study is None:
            write_results(self.comparison_dir, console)
        else:
            write_study(study, self.comparison_dir, console)
        return 0


def find_study(directory: Path) -> Study | None:
    """The study whose parts lie in a folder, None if it holds no part of any."""
    for study in STUDIES.values():
        if any((directory / part.name / "comparison.json").is_file() for part in study.parts):
            return study
    return None
