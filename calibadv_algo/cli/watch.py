"""`calibadv watch`: the numbers of a run or of a comparison, while it trains."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from calibadv_algo.cli.places import COMPARISON_FILE
from calibadv_algo.cli.training_extra import need_training
from calibadv_algo.experiments.compare import last_metrics
from calibadv_env.common.checks import POSITIVE, Checked

_COLUMNS: Final = {
    "reward": "reward_mean",
    "searches": "searches_mean",
    "format": "format_valid_share",
    "signal": "groups_with_signal_share",
    "entropy": "entropy",
    "dev F1": "eval_f1",
}
_RECENT: Final = 5
HEADS: Final = ("run", "update", *_COLUMNS, "left")
"""Heads of the table of states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a run is.

    Attributes:
        name: Of its folder.
        update: Finished updates.
        num_updates: All updates, 0 where unknown.
        metrics: The last value of every metric.
        eta_s: Seconds that are left by the last updates, None where unknown.
    """

    name: str
    update: int
    num_updates: int
    metrics: dict[str, Any]
    eta_s: float | None

    @property
    def is_done(self) -> bool:
        """True after the last update."""
        return self.num_updates > 0 and self.update >= self.num_updates

    def cells(self) -> list[str]:
        """The metrics of the table, "" where one is unknown."""
        known = {label: self.metrics.get(key) for label, key in _COLUMNS.items()}
        return [
            f"{value:.3f}" if isinstance(value, int | float) else "" for value in known.values()
        ]

    def row(self) -> list[str]:
        """The state as a row of the table that `HEADS` heads."""
        return [self.name, f"{self.update}/{self.num_updates or '?'}", *self.cells(), self.left]

    def line(self) -> str:
        """The state as a line of text."""
        numbers = zip(_COLUMNS, self.cells(), strict=True)
        shown = "  ".join(f"{label} {cell}" for label, cell in numbers if cell)
        return f"{self.name}: update {self.update}/{self.num_updates or '?'}  {shown}  {self.left}"

    @property
    def left(self) -> str:
        """The time that is left, in words."""
        if self.is_done:
            return "done"
        return "" if self.eta_s is None else f"ETA {duration(self.eta_s)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Checked):
    """Follow a run or a comparison while it trains; where output is piped, a line an update."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of `calibadv train` or `calibadv compare`."""
    interval_s: Annotated[float, POSITIVE] = 2.0
    """Seconds between looks."""
    once: bool = False
    """If true, the state is shown once, and that is all."""
    page: Path | None = None
    """Also write a page with curves and the newest trajectories, which the browser loads again by
    itself until the last update. `calibadv compare` writes one as it goes: its report.html."""

    def run(self) -> int:
        """Shows the state until the last update, or until Ctrl-C."""
        console = Console(highlight=False)
        runs_of(self.folder)
        if self.page is not None:
            need_training("calibadv watch --page")
        if console.is_terminal and not self.once:
            with Live(console=console, auto_refresh=False) as live:
                while not self._look(live):
                    time.sleep(self.interval_s)
            return 0
        said: dict[str, int] = {}
        while True:
            states = self._states()
            for state in states:
                if said.get(state.name) != state.update:
                    console.print(state.line(), markup=False, soft_wrap=True)
                    said[state.name] = state.update
            if self.once or all(state.is_done for state in states):
                return 0
            time.sleep(self.interval_s)

    def _states(self) -> list[State]:
        """How far the runs are; the page is written as well."""
        states = [state_of(run) for run in runs_of(self.folder)]
        if self.page is not None:
            from calibadv_algo.report.live import write_live

            is_over = bool(states) and all(state.is_done for state in states)
            rows = [state.row() for state in states]
            write_live(self.folder, HEADS, rows, is_over=is_over, file=self.page)
        return states

    def _look(self, live: Live) -> bool:
        """Draws the state; true if all runs are done."""
        states = self._states()
        table = Table(*HEADS, box=None)
        for state in states:
            table.add_row(*state.row())
        live.update(table, refresh=True)
        return all(state.is_done for state in states)


def runs_of(folder: Path) -> list[Path]:
    """The runs in a folder: itself, or those of a comparison.

    Raises:
        ValueError: if it is neither.
    """
    if (folder / COMPARISON_FILE).is_file():
        return sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    if (folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file():
        return [folder]
    raise ValueError(f"{folder} is no folder of calibadv train or calibadv compare")


def state_of(run: Path) -> State:
    """How far a run is, by its files."""
    metrics = last_metrics(run)
    update = int(metrics.get("update", 0))
    try:
        settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
        num_updates = int(settings["config"]["optim"]["num_updates"])
    except (OSError, ValueError, KeyError, TypeError):
        num_updates = 0
    lines = _last_lines(run)
    evaluated = next((line["eval_f1"] for line in reversed(lines) if "eval_f1" in line), None)
    if evaluated is not None:
        metrics = {**metrics, "eval_f1": evaluated}
    return State(
        name=run.name,
        update=update,
        num_updates=num_updates,
        metrics=metrics,
        eta_s=_seconds_left(lines, num_updates - update),
    )


def _last_lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the last line, while it is written
    return found


def _seconds_left(lines: list[dict[str, Any]], updates_left: int) -> float | None:
    parts = ("time_rollout_s", "time_update_s", "time_eval_s")
    took = [sum(float(line.get(part, 0.0)) for part in parts) for line in lines if line["update"]]
    recent = took[-_RECENT:]
    return updates_left * sum(recent) / len(recent) if recent else None


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
