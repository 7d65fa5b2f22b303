"""The GPU measurement, rehearsed from end to end on the CPU, so that no stage can rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STAGES = {"facts", "right", "update", "rollouts", "learning", "cores"}


def errors(value: Any) -> list[str]:
    """Messages of measurements that failed, however deep."""
    if isinstance(value, dict):
        own = [str(value["error"])] if "error" in value else []
        return own + [found for part in value.values() for found in errors(part)]
    return []


@pytest.mark.slow
def test_the_rehearsal_measures_every_stage(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--minutes", "6"]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + log
    records = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert set(records) == STAGES
    assert errors(records) == []
    right = records["right"]
    assert right["packed_against_padded"]["max"] < 1e-4
    assert right["gradient_fp32"]["relative_difference"] < 1e-4
    assert right["hf_fp32"]["trainer_fp32"]["max"] < 1e-3
    assert 0 < right["hf_bf16"]["trainer_fp32"]["mean"] < 0.1
    runs = records["learning"]["grpo and calibadv on the atlas policy"]["runs"]
    assert {name.rpartition("-seed")[0] for name in runs} == {"grpo", "calibadv"}
    assert all(run["updates"] == 2 for run in runs.values())
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "no GPU was measured" in page
    merged = tmp_path / "merged"
    command = [sys.executable, "-m", "benchmarks.gpu_stages.cores", "--into", str(merged)]
    subprocess.run([*command, "--merge", str(tmp_path / "runs.tar.gz")], cwd=ROOT, check=True)
    assert (merged / "runs" / "calibadv-seed1" / "metrics.jsonl").is_file()
