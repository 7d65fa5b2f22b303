"""The bounded runs of the killer, and of lone episodes against whole batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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


def test_folders_and_files_survive_kills() -> None:
    names = ("index bm25 --overwrite", "data prepare, again", "trace import")
    out = run("killer.py", "--most", "4", "--only", *names)
    assert out.count("kills=4, failures=[]") == len(names), out


@pytest.mark.slow
def test_every_command_survives_kills() -> None:
    out = run("killer.py", "--most", "3")
    assert out.count("kills=3, failures=[]") >= 15, out


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
