"""The bounded runs of the killer, and of lone episodes against whole batches."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

_SPEC = importlib.util.spec_from_file_location("killed_cases", HERE / "cases.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules["killed_cases"] = _MODULE
_SPEC.loader.exec_module(_MODULE)
CASES = _MODULE.CASES


def run(script: str, *arguments: str, **variables: str) -> str:
    """Runs a script of this folder with one thread; its output."""
    fixed = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env=os.environ | fixed | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def rows_in(out: str) -> list[dict[str, Any]]:
    """Rows that the killer printed."""
    return [json.loads(line.partition(" s ")[2]) for line in out.split("\n") if " s {" in line]


def test_folders_and_files_survive_kills() -> None:
    names = ("index bm25 --overwrite", "data prepare, again", "trace import")
    rows = rows_in(run("killer.py", "--most", "4", "--only", *names))
    assert [(row["name"], row["kills"], row["failures"]) for row in rows] == [
        (name, 4, []) for name in names
    ]


@pytest.mark.slow
def test_every_command_survives_kills() -> None:
    """Three kills one after the other, each going on from the last; two commands at a time."""
    rows = rows_in(run("killer.py", "--most", "3", "--chain", "3", "--jobs", "2"))
    assert {row["name"] for row in rows} == {case.name for case in CASES}
    assert not any(row["failures"] for row in rows)
    # A command that goes on may have fewer events left than the next kill waits for.
    assert all(row["kills"] >= 1 for row in rows)
    assert sum(row["kills"] for row in rows) >= 2 * len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
        },
    ],
)
def test_an_episode_has_the_same_bits_alone_and_in_its_batch(variables: dict[str, str]) -> None:
    assert "'other_bits': 0" in run("lone_episodes.py", "--batches", "2", **variables)
