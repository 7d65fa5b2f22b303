"""TorchRL's GymEnv takes the environment unchanged, as the example shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torchrl")

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "contracts"))

from test_printed_examples import run, shown  # noqa: E402


def test_the_example_prints_what_it_shows(tmp_path: Path) -> None:
    example = ROOT / "examples" / "torchrl_loop.py"
    assert run(example, tmp_path) == shown(example)
