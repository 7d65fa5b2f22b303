"""Several processes that train together, each with an engine of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_rank_has_its_own_engine(tmp_path: Path) -> None:
    script = Path(__file__).with_name("rank_run.py")
    started = []
    for rank in range(2):
        launcher = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), str(rank), "2", str(tmp_path / "store")],
                env={**os.environ, **launcher},
                stdout=subprocess.PIPE,
                stderr=(tmp_path / f"rank{rank}.err").open("wb"),
                text=True,
            )
        )
    results = []
    for rank, process in enumerate(started):
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, (tmp_path / f"rank{rank}.err").read_text()[-3000:]
        results.append(json.loads(output.splitlines()[-1]))
    assert results[0] == results[1]
    assert "workers must be separate if several processes train together" in results[0]["refused"]
    assert len(results[0]["turns"]) == 4
    assert all(turn for turn in results[0]["turns"])
