"""The trackers of others take a run's numbers; each test needs the package itself."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv_algo.training import tracking_services
from calibadv_algo.training.tracked_episodes import EPISODE_COLUMNS
from calibadv_algo.training.tracking import TrackerGroup
from calibadv_algo.training.tracking_services import PEERS, Peer, RunFacts, open_trackers

ROOT = Path(__file__).parents[2]
RUN = """
import math, sys
from pathlib import Path
from calibadv_algo.training.tracking import TrackerGroup
from calibadv_algo.training.tracking_services import RunFacts, open_trackers
run = RunFacts(output_dir=Path(sys.argv[2]) / "run", config={"optim": {"lr": 0.1}, "seed": 3})
row = (1, "Who?", "A | B", 1, 0.5, 1, "search", "a query", "Title", -0.25)
unjudged = (1, "Who?", "A | B", 1, 0.5, 2, "answer", "A", "", None)
with TrackerGroup(open_trackers([sys.argv[1]], run)) as trackers:
    trackers.log_episodes(1, [row, unjudged])
    for update in (1, 2):
        trackers.log(update, {"reward_mean": update / 2, "unfit": math.nan})
trackers.close()
again = RunFacts(output_dir=run.output_dir, config={}, after_update=2)
with TrackerGroup(open_trackers([sys.argv[1]], again)) as trackers:
    trackers.log(3, {"reward_mean": 1.5})
    trackers.log(4, {"unfit": math.inf})
"""


def play(name: str, place: Path, **settings: str) -> Path:
    """Logs two short runs in a process of its own, offline, and gives the run's folder."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "WANDB_SILENT": "true"}
    kept = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, str(place)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**kept, **quiet, "HOME": str(place), "OMP_NUM_THREADS": "1", **settings},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return place / "run"


def test_wandb_keeps_the_run_offline(tmp_path: Path) -> None:
    run = play("wandb", tmp_path)
    files = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    content = files[0].read_bytes()
    assert b"reward_mean" in content
    assert b"unfit" not in content
    (table,) = (run / "wandb").glob("offline-run-*/files/media/table/episodes*.json")
    found = json.loads(table.read_text())
    assert tuple(found["columns"]) == EPISODE_COLUMNS
    assert [line[-3:] for line in found["data"]] == [
        ["a query", "Title", -0.25],
        ["A", "", None],
    ]


def test_trackio_writes_its_database(tmp_path: Path) -> None:
    play("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "db"))
    (file,) = (tmp_path / "db").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    found = [(step, json.loads(text)) for step, text in rows]
    assert [(step, row["reward_mean"]) for step, row in found if "reward_mean" in row] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
    ]
    assert not any("unfit" in row for _, row in found)
    ((step, table),) = [(step, row["episodes"]) for step, row in found if "episodes" in row]
    assert step == 1
    assert [row["advantage"] for row in table["_value"]] == [-0.25, None]


def test_mlflow_writes_files(tmp_path: Path) -> None:
    run = play("mlflow", tmp_path)
    metrics = sorted((run / "mlruns").glob("*/*/metrics/reward_mean"))
    texts = sorted(file.read_text() for file in metrics)
    rows = [[line.split()[1:] for line in text.splitlines()] for text in texts]
    assert sorted(rows) == [[["0.5", "1"], ["1.0", "2"]], [["1.5", "3"]]]
    assert not list((run / "mlruns").glob("*/*/metrics/unfit"))
    (table,) = (run / "mlruns").glob("*/*/artifacts/episodes/update_000001.md")
    assert "| A \\| B | 1 | 0.5 | 1 | search | a query | Title | -0.25 |" in table.read_text()
    params = sorted((run / "mlruns").glob("*/*/params/*"))
    assert {(file.name, file.read_text()) for file in params} == {
        ("optim.lr", "0.1"),
        ("seed", "3"),
    }


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_missing_package_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    run = RunFacts(output_dir=tmp_path / "run", config={})
    tested = PEERS[name].tested
    with pytest.raises(ImportError, match=rf"calibadv\[{name}\]' \(tested with {tested}\)"):
        open_trackers([name], run)  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["0.1", "99.0", "0"])
def test_another_version_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("wandb")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ImportError, match=rf"got {version}: pip install .* \(tested with"):
        PEERS["wandb"].load()


def test_versions_within_the_range_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(module="made_up", at_least="1.9", below="2", tested="1.10")
    for version in ("1.9", "1.10.3", "1.11rc1"):
        module = ModuleType("made_up")
        module.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "made_up", module)
        assert peer.load() is module


def test_tensorboard_by_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = RunFacts(output_dir=tmp_path, config={})
    with TrackerGroup(open_trackers(["tensorboard"], run)) as trackers:
        trackers.log(1, {"reward_mean": 0.5, "unfit": math.nan})
    assert b"reward_mean" in next((tmp_path / "tensorboard").glob("events*")).read_bytes()


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    run = RunFacts(output_dir=tmp_path / "a" / "b", config={})
    assert run.name == "a/b"
    assert open_trackers([], run) == []
    with pytest.raises(ValueError, match="trackers must be of tensorboard, wandb"):
        open_trackers(["comet"], run)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="trackers must be distinct, got wandb, wandb"):
        open_trackers(["wandb", "wandb"], run)


def test_trackers_that_were_opened_are_closed_if_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Opened:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, update: int, metrics: Any) -> None:
            pass

        def close(self) -> None:
            closed.append("tensorboard")

    monkeypatch.setattr(tracking_services, "TensorBoardTracker", Opened)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="mlflow"):
        open_trackers(["tensorboard", "mlflow"], RunFacts(output_dir=tmp_path, config={}))
    assert closed == ["tensorboard"]


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    page = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(block, "docs/trackers.md", "exec"), {})
    assert capsys.readouterr().out == "3 updates; ['metrics.jsonl', 'tensorboard']\n"


@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_page_names_the_versions(name: str) -> None:
    page = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    peer = PEERS[name]
    assert f"`calibadv[{name}]`, {peer.at_least} to below {peer.below}" in page
    for version in peer.tested.split(", "):
        assert version in page
