"""The page of a comparison while its runs go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from calibadv_algo.cli.warned import say
from calibadv_algo.cli.watch import HEADS, runs_of, state_of

EVERY_S: Final = 20.0
"""Seconds between two writings of the page."""


class LiveReport:
    """Writes the page again as the runs go on; what goes wrong with it ends no run.

    Args:
        folder: Folder of the comparison.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_wanted = True
        self._looked_at = time.monotonic()
        self._shown: list[tuple[str, int]] = []

    def look(self) -> None:
        """Writes the page if it is time, and a run came further."""
        if self._is_wanted and time.monotonic() - self._looked_at >= EVERY_S:
            self._looked_at = time.monotonic()
            self._write(is_over=False)

    def stop(self) -> None:
        """Writes the page for the last time, where runs ended before their last update."""
        if self._is_wanted:
            self._write(is_over=True)

    def _write(self, *, is_over: bool) -> None:
        from calibadv_algo.report.live import write_live

        remark = "Ended before the last update; the same command resumes from there."
        try:
            states = [state_of(run) for run in runs_of(self._folder)]
            shown = [(state.name, state.update) for state in states]
            if not states or (shown == self._shown and not is_over):
                return
            self._shown = shown
            write_live(
                self._folder,
                HEADS,
                [state.row() for state in states],
                is_over=is_over,
                remark=remark if is_over else "",
            )
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a page, the runs go on)
            self._is_wanted = False
            say(f"the page of the runs is not written while they go on: {error}")
