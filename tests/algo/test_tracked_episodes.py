"""Trackers get sampled episodes during a run, and the same ones afterwards."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.training.config import config_hash
from calibadv_algo.training.tracked_episodes import (
    EPISODE_COLUMNS,
    MAX_CHARS,
    EpisodeRow,
    episode_rows,
    markdown_rows,
    sampled_episodes,
)


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()


class Shown:
    """A tracker that remembers the tables."""

    def __init__(self) -> None:
        self.tables: dict[int, list[EpisodeRow]] = {}

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        pass

    def log_episodes(self, update: int, rows: Sequence[EpisodeRow]) -> None:
        self.tables[update] = list(rows)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shown]:
    """A run of three updates, and what a tracker saw of it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    optim = letters.OptimConfig(num_updates=3, lr=1e-2)
    config = letters.make_config(folder, optim=optim, track_episodes_every=2, track_episodes=3)
    shown = Shown()
    letters.make_trainer(config, trackers=[shown]).train()
    return folder, shown


def records_of(folder: Path, update: int) -> list[dict[str, object]]:
    text = (folder / "trajectories" / f"update_{update:06d}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_tracker_sees_episodes_of_every_second_update(run: tuple[Path, Shown]) -> None:
    folder, shown = run
    assert sorted(shown.tables) == [1, 3]
    rows = [dict(zip(EPISODE_COLUMNS, row, strict=True)) for row in shown.tables[1]]
    assert sorted({row["episode"] for row in rows}) == [1, 2, 3]
    assert len({row["question"] for row in rows}) == 1
    records = records_of(folder, 0)
    known = {round(value, 4) for record in records for value in record["advantages"]}  # type: ignore[attr-defined]
    assert {row["advantage"] for row in rows} <= known


def test_settings_of_the_table_are_no_other_run(tmp_path: Path) -> None:
    config = letters.make_config(tmp_path)
    assert config_hash(replace(config, track_episodes_every=3, track_episodes=1)) == config_hash(
        config
    )


def test_an_export_shows_the_episodes_that_the_trackers_saw(
    run: tuple[Path, Shown], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, shown = run
    words = ["export", str(folder), "--episodes-every", "2", "--episodes", "3"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "4 lines of metrics, episodes of 2 updates" in capsys.readouterr().out.replace("\n", " ")
    with (tmp_path / "out" / "csv" / "episodes.csv").open(encoding="utf-8") as stream:
        header, *lines = csv.reader(stream)
    assert tuple(header) == EPISODE_COLUMNS
    seen = [row for table in shown.tables.values() for row in table]
    assert lines == [["" if value is None else str(value) for value in row] for row in seen]
    with (tmp_path / "out" / "csv" / "metrics.csv").open(encoding="utf-8") as stream:
        metrics = list(csv.DictReader(stream))
    assert [line["update"] for line in metrics] == ["0", "1", "2", "3"]
    assert float(metrics[1]["reward_mean"]) >= 0
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_an_export_to_tensorboard_holds_numbers_and_texts(
    run: tuple[Path, Shown], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    words = ["export", str(run[0]), "--to", "tensorboard", "--output", str(tmp_path)]
    assert main(words) == 0
    (events,) = (tmp_path / "tensorboard" / "tensorboard").glob("events*")
    content = events.read_bytes()
    assert b"reward_mean" in content
    assert b"| update | question |" in content


def test_a_folder_without_metrics_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["export", str(tmp_path)]) == 1
    assert "no update of the run has ended" in capsys.readouterr().err


def test_siblings_come_together_and_the_draw_depends_on_the_update() -> None:
    records = [{"group_id": str(i % 5), "number": i} for i in range(20)]
    first = sampled_episodes(records, 6, update=1)
    groups = [str(record["group_id"]) for record in first]
    assert len(set(groups)) == 2
    assert groups[:4] == [groups[0]] * 4
    assert sampled_episodes(records, 6, update=1) == first
    assert any(sampled_episodes(records, 6, update=u) != first for u in range(2, 9))


def test_cells_are_cut_and_cannot_break_the_table(run: tuple[Path, Shown]) -> None:
    record = records_of(run[0], 0)[0]
    record["prompt_text"] = "x" * 900 + "\ud800"
    (row, *_) = episode_rows([record], 1)
    assert len(row[1]) == MAX_CHARS
    assert row[1].endswith("…")
    line = markdown_rows([(1, "a|b\nc", "", 1, 0.0, 1, "turn", "t", "", None)]).splitlines()[2]
    assert line == "| 1 | a\\|b c |  | 1 | 0.0 | 1 | turn | t |  |  |"
