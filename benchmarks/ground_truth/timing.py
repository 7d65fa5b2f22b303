"""How long `calibadv credit` takes, and what sharing prefixes saves: the record of times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ground_truth.records import SPEED
from calibadv_algo.cli.provenance import git_commit

ROOT = Path(__file__).parents[2]


def measure_speed() -> dict[str, Any]:
    """Times the command as it is, and runs `benchmarks/credit.py`, each in a process of its own.

    Raises:
        RuntimeError: if a command failed, or printed no ratio.
    """
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "calibadv", "credit", "atlas-tiny", "--output", folder]
        wall, cpu, _ = _timed(words)
    loads.append(os.getloadavg()[0])
    # It says with its exit status whether the ratio is as large as wanted; the page says it too.
    _, _, printed = _timed([str(ROOT / "benchmarks" / "credit.py")], may_fail=True)
    found = re.search(r"naive continuation: ([\d.]+) x", printed)
    if found is None:
        raise RuntimeError(f"benchmarks/credit.py printed no ratio: {printed[-500:]}")
    return {
        "name": SPEED,
        "ratio": round(float(found[1]), 1),
        "wall_s": round(wall),
        "cpu_s": round(cpu),
        "load": f"{min(loads):.1f} to {max(loads):.1f}",
        "git_commit": git_commit(),
    }


def _timed(words: list[str], *, may_fail: bool = False) -> tuple[float, float, str]:
    """Seconds by the clock and of processor time of a command, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began, before = time.monotonic(), os.times()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    wall, after = time.monotonic() - began, os.times()
    if done.returncode and not may_fail:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-500:]}")
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system, done.stdout
