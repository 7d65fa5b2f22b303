"""Where numbers go: JSON lines always, TensorBoard on request, a progress display for people."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calibadv_algo.training.tracked_episodes import EpisodeRow, markdown_rows
from calibadv_env.common.files import naming, write_text

Metrics = Mapping[str, float]
"""Named numbers of one update."""


class Tracker(Protocol):
    """Receiver of the metrics of a run."""

    def log(self, update: int, metrics: Metrics) -> None:
        """Records the metrics of one update."""
        ...

    def close(self) -> None:
        """Finishes; a second call does nothing."""
        ...


@runtime_checkable
class EpisodeTracker(Tracker, Protocol):
    """Receiver that also shows a few sampled episodes."""

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Shows the turns of a few episodes of one update."""
        ...


class JsonlTracker:
    """Writes one line of JSON an update, and has it on the disk before it goes on.

    Numbers that are not finite become null. When a run goes on from a checkpoint, the lines
    that came after it are dropped, since they will be written again.
    """

    def __init__(self, file: Path, *, after_update: int | None = None) -> None:
        """Opens the file.

        Args:
            file: Where to write; its folder is made if need be.
            after_update: Keep the lines up to this update; None keeps none.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        truncate_lines(file, after_update)
        self._file = file
        self._stream = file.open("a", encoding="utf-8")

    def log(self, update: int, metrics: Metrics) -> None:
        """Writes a line; the update comes first."""
        row = {"update": update, **{name: _finite(value) for name, value in metrics.items()}}
        with naming(self._file):
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class TensorBoardTracker:
    """Writes TensorBoard event files."""

    def __init__(self, directory: Path, *, after_update: int | None = None) -> None:
        """Opens a writer.

        Args:
            directory: Folder of the event files.
            after_update: Hide what an interrupted run logged after this update.

        Raises:
            ImportError: if tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard=True needs tensorboard: pip install tensorboard") from (
                error
            )
        purge = None if after_update is None else after_update + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def log(self, update: int, metrics: Metrics) -> None:
        """Writes every finite number."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, update)

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Writes the table as a text."""
        self._writer.add_text("episodes", markdown_rows(rows), update)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()


class ProgressTracker:
    """Shows one line of progress in the terminal, and a line of text for each evaluation."""

    _COLUMNS = (
        ("reward", "reward_mean", "{:.3f}"),
        ("F1", "f1_mean", "{:.3f}"),
        ("searches", "searches_mean", "{:.2f}"),
        ("entropy", "entropy", "{:.2f}"),
        ("mis-penalised", "mispenalized_share", "{:.0%}"),
        ("tokens/s", "tokens_per_s", "{:,.0f}"),
    )
    _RESULTS = ("eval_em", "eval_f1", "eval_cover_em", "eval_searches", "eval_format_valid")

    def __init__(
        self, num_updates: int, *, console: Console | None = None, label: str = ""
    ) -> None:
        """Starts the display.

        Args:
            num_updates: Updates of the whole run.
            console: Where to draw; a new one on the standard error stream by default.
            label: What stands before the bar.
        """
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._is_plain = not console.is_terminal
        self._num_updates = num_updates
        self._began = (time.monotonic(), 0)
        self._task = self._progress.add_task(label or "training", total=num_updates, numbers="")
        if not self._is_plain:
            self._progress.start()

    def log(self, update: int, metrics: Metrics) -> None:
        """Moves the bar, and writes a line if there are evaluation results."""
        numbers = "  ".join(
            f"{name} {template.format(metrics[key])}"
            for name, key, template in self._COLUMNS
            if math.isfinite(metrics.get(key, math.nan))
        )
        if self._is_plain and update:
            text = f"update {update}/{self._num_updates}  {numbers}  {self._left(update)}"
            self._progress.console.print(text.rstrip(), highlight=False, soft_wrap=True)
        if numbers:
            self._progress.update(self._task, numbers=numbers)
        self._progress.update(self._task, completed=update)
        results = [f"{name} {metrics[name]:.3f}" for name in self._RESULTS if name in metrics]
        if results:
            text = f"update {update}: " + "  ".join(results)
            self._progress.console.print(text, highlight=False)

    def _left(self, update: int) -> str:
        """The time that is left, by the updates since the first one that was logged."""
        began, first = self._began
        if first == 0:
            self._began = (time.monotonic(), update)
            return ""
        seconds = (time.monotonic() - began) / (update - first) * (self._num_updates - update)
        return f"ETA {seconds / 60:.1f} min" if update < self._num_updates else ""

    def close(self) -> None:
        """Stops the display."""
        self._progress.stop()


class TrackerGroup:
    """Hands metrics on to several trackers; closes them all at the end of a ``with`` block."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        """Owns the trackers from now on."""
        self._trackers = tuple(trackers)

    def log(self, update: int, metrics: Metrics) -> None:
        """Logs to each of them."""
        for tracker in self._trackers:
            tracker.log(update, metrics)

    @property
    def shows_episodes(self) -> bool:
        """True if one of them takes sampled episodes."""
        return any(isinstance(tracker, EpisodeTracker) for tracker in self._trackers)

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        """Hands sampled episodes on to those that take them."""
        for tracker in self._trackers:
            if isinstance(tracker, EpisodeTracker):
                tracker.log_episodes(update, rows)

    def close(self) -> None:
        """Closes each of them."""
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the trackers."""
        self.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Reads a metrics file.

    Args:
        file: Written by `JsonlTracker`.

    Returns:
        One dictionary an update; a last line that was cut off is left out.
    """
    if not file.exists():
        return []
    return [row for row, _ in _complete_rows(file)]


def truncate_lines(file: Path, after_update: int | None) -> None:
    """Drops the lines of later updates, and a last line that was cut off.

    The file is replaced in one step, so a crash leaves the old or the new one.

    Args:
        file: Lines of JSON with a number ``update``; it need not exist.
        after_update: Last update to keep; None keeps none.
    """
    if not file.exists():
        return
    limit = -1 if after_update is None else after_update
    kept = [line for row, line in _complete_rows(file) if row["update"] <= limit]
    write_text(file, "".join(kept))


def _complete_rows(file: Path) -> list[tuple[dict[str, Any], str]]:
    """Lines that end with a line break, parsed and as text."""
    # Lines end at \n alone: an answer may hold U+2028 and its like, which splitlines cuts at.
    lines = file.read_bytes().split(b"\n")[:-1]
    return [(json.loads(line), f"{line.decode('utf-8')}\n") for line in lines]


def _finite(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
