"""The examples run as they stand, in a few seconds, and are as short as they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOOP = ROOT / "examples" / "calibadv_loop.py"


def test_the_loop_on_one_page_trains(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(LOOP), "2", "4", "4"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["update 1", "update 2"]
    numbers = [[float(value) for value in re.findall(r"\d+\.\d+", line)] for line in lines]
    assert all(0 < reward <= 1 and 0 < searches <= 4 for reward, searches in numbers)
    assert numbers[0] != numbers[1]


def test_ten_opens_fit_into_1024_tokens() -> None:
    script = ROOT / "examples" / "pages_ten_opens.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"10 calls, (\d+) tokens, reward 1.0", done.stdout.splitlines()[-1])
    assert found is not None
    assert int(found.group(1)) <= 1024


def test_it_is_one_page() -> None:
    assert len(LOOP.read_text(encoding="utf-8").splitlines()) < 70
