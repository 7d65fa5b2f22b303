"""Training through vLLM in processes that are killed and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("train_run.py")

pytestmark = pytest.mark.slow


def start(folder: Path, updates: int, workers: str) -> subprocess.Popen[bytes]:
    log = (folder.parent / f"{folder.name}.out").open("ab")
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(updates), workers],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(folder: Path, updates: int, workers: str) -> None:
    process = start(folder, updates, workers)
    assert process.wait(timeout=600) == 0, (folder.parent / f"{folder.name}.out").read_text()[
        -3000:
    ]


def actions(folder: Path) -> list[Any]:
    """Token ids of every turn, by update."""
    return [
        [turn["action_ids"] for turn in json.loads(line)["turns"]]
        for file in sorted((folder / "trajectories").glob("update_*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def weights(folder: Path, update: int) -> dict[str, Any]:
    return load_file(folder / "checkpoints" / f"update_{update:06d}" / "policy/model.safetensors")


@pytest.mark.parametrize("workers", ["in-process", "separate"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, workers: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, 3, workers)
    process = start(killed, 3, workers)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 1):
        assert process.poll() is None, (tmp_path / "killed.out").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finish(killed, 3, workers)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["update"] for row in rows if row["update"]] == [1, 2, 3]
    assert actions(killed) == actions(whole)
    ours, theirs = weights(killed, 3), weights(whole, 3)
    first = weights(whole, 2)
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < 1e-5, name
    moved = max(float((tensor - first[name]).abs().max()) for name, tensor in theirs.items())
    assert moved > 1e-4
