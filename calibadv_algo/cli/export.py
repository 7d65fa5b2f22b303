"""`calibadv export`: numbers and sampled episodes of runs that have run, for trackers or as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from calibadv_algo.cli.watch import runs_of
from calibadv_algo.report.reading import iterate_json_lines
from calibadv_algo.training.tracked_episodes import (
    EPISODE_COLUMNS,
    EpisodeRow,
    episode_rows,
    sampled_episodes,
)
from calibadv_algo.training.tracking import TrackerGroup, read_metrics
from calibadv_algo.training.tracking_services import RunFacts, open_trackers
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.files import write_text

Target = Literal["csv", "tensorboard", "wandb", "trackio", "mlflow"]
"""Where a run can be exported to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export(Checked):
    """Hand a run's numbers and a few of its episodes to a tracker, or write them as CSV."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of `calibadv train`, or of `calibadv compare`, of which every run is exported."""
    to: Target = "csv"
    """csv: the files metrics.csv and episodes.csv; else a tracker, which needs its extra. Without a
    login wandb keeps the run offline, for `wandb sync`."""
    output: Path | None = None
    """Folder for what is written, with a folder below it for each run of a comparison; by default
    the folder `export` within the run."""
    episodes_every: Annotated[int, NOT_NEGATIVE] = 10
    """Updates between the tables of episodes; 0 for none."""
    episodes: Annotated[int, POSITIVE] = 4
    """Episodes of such a table."""

    def run(self) -> int:
        """Exports every run, and says what was written."""
        console = Console(highlight=False)
        runs = runs_of(self.folder)
        for run in runs:
            place = run / "export" if self.output is None else self.output
            if self.output is not None and len(runs) > 1:
                place /= run.name
            place = place / self.to
            if place.exists():
                raise ValueError(
                    f"{place} is there already: move it away, or name another --output"
                )
            console.print(self._export(run, place), markup=False, soft_wrap=True)
        return 0

    def _export(self, run: Path, place: Path) -> str:
        """Exports a run; returns a sentence about it."""
        metrics = read_metrics(run / "metrics.jsonl")
        if not metrics:
            raise ValueError(f"{run} holds no metrics yet: no update of the run has ended")
        tables = dict(self._tables(run))
        if self.to == "csv":
            place.mkdir(parents=True)
            write_text(place / "metrics.csv", metrics_csv(metrics))
            rows = [row for table in tables.values() for row in table]
            write_text(place / "episodes.csv", _csv_text(EPISODE_COLUMNS, rows))
        else:
            facts = RunFacts(output_dir=run, config=_settings(run), files=place)
            with TrackerGroup(open_trackers([self.to], facts)) as trackers:
                for line in metrics:
                    update = int(line["update"])
                    if update in tables:
                        trackers.log_episodes(update, tables[update])
                    trackers.log(update, _numbers(line))
        text = f"{run}: {len(metrics)} lines of metrics, episodes of {len(tables)} updates"
        # trackio keeps a database of its own, and servers are elsewhere.
        return f"{text}, to {place if place.exists() else self.to}"

    def _tables(self, run: Path) -> Iterator[tuple[int, list[EpisodeRow]]]:
        """Tables of sampled episodes by the update that learnt from them."""
        for file in sorted((run / "trajectories").glob("update_*.jsonl")):
            done = int(file.stem.removeprefix("update_"))
            if self.episodes_every == 0 or done % self.episodes_every:
                continue
            records = [record for _, record in iterate_json_lines(file)]
            picked = sampled_episodes(records, self.episodes, done + 1)
            if picked:
                yield done + 1, episode_rows(picked, done + 1)


def metrics_csv(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Lines of metrics as CSV: one column a name, empty where a line lacks it."""
    names = list(dict.fromkeys(name for line in metrics for name in line))
    return _csv_text(names, [[line.get(name) for name in names] for line in metrics])


def _csv_text(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return stream.getvalue()


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line; those that were not finite are NaN, as in the run."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in line.items()
        if name != "update"
    }


def _settings(run: Path) -> Mapping[str, Any]:
    """The settings of the run, {} where they were not kept."""
    file = run / "config.json"
    if not file.is_file():
        return {}
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["config"]
    return found
