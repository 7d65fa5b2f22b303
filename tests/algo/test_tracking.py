"""Metrics files survive crashes; the display shows what it should."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from rich.console import Console

from calibadv_algo.training.tracking import (
    JsonlTracker,
    ProgressTracker,
    TensorBoardTracker,
    TrackerGroup,
    read_metrics,
    truncate_lines,
)


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "metrics.jsonl"
    tracker = JsonlTracker(file)
    tracker.log(0, {"a": 1.5, "b": math.nan, "c": math.inf})
    assert json.loads(file.read_text()) == {"update": 0, "a": 1.5, "b": None, "c": None}
    tracker.close()
    tracker.close()


def test_resuming_drops_later_lines_and_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with TrackerGroup([JsonlTracker(file)]) as trackers:
        for update in range(5):
            trackers.log(update, {"x": float(update)})
    with file.open("a") as stream:
        stream.write('{"update": 5, "x"')
    assert [row["update"] for row in read_metrics(file)] == [0, 1, 2, 3, 4]
    with TrackerGroup([JsonlTracker(file, after_update=2)]) as trackers:
        trackers.log(3, {"x": 30.0})
    assert [row["x"] for row in read_metrics(file)] == [0.0, 1.0, 2.0, 30.0]
    with TrackerGroup([JsonlTracker(file)]):
        pass
    assert read_metrics(file) == []


def test_truncating_what_is_not_there_is_harmless(tmp_path: Path) -> None:
    truncate_lines(tmp_path / "none.jsonl", 3)
    assert read_metrics(tmp_path / "none.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_the_display_shows_numbers_and_evaluations() -> None:
    stream = io.StringIO()
    display = ProgressTracker(4, console=Console(file=stream, force_terminal=True, width=160))
    display.log(0, {"eval_f1": 0.25, "eval_em": 0.2})
    display.log(1, {"reward_mean": 0.5, "mispenalized_share": 0.4, "entropy": math.nan})
    display.close()
    text = stream.getvalue()
    assert "update 0: em 0.200  f1 0.250" in text.replace("eval_", "")
    assert "reward 0.500" in text
    assert "mis-penalised 40%" in text
    assert "entropy" not in text
    assert "1/4" in text


def test_where_output_is_piped_there_is_a_line_an_update_with_the_time_that_is_left() -> None:
    stream = io.StringIO()
    display = ProgressTracker(4, console=Console(file=stream, force_terminal=False, width=160))
    for update in range(4):
        display.log(update, {"reward_mean": 0.5})
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4"]
    assert "ETA" not in lines[0]
    assert lines[2].endswith("reward 0.500  ETA 0.0 min")
    display.close()


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.log(1, {"reward_mean": 0.5, "bad": math.nan})
    tracker.close()
    assert b"reward_mean" in next(tmp_path.glob("events*")).read_bytes()
