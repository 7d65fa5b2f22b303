"""The command lines of the documentation: each is understood as pasted, and the cheap ones run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main, parse

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:bash|shell)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CHEAP = (["plan"], ["list"], ["completion"])
"""Beginnings of lines that take a moment; a training that ends with --dry-run is as cheap."""


def lines() -> list[object]:
    """Every `calibadv` line of a block, named by its page."""
    found: list[object] = []
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]):
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            for line in block[1].replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["calibadv"]:
                    name = f"{page.relative_to(ROOT)}: {' '.join(words[1:])[:60]}"
                    found.append(pytest.param(words[1:], id=name))
    return found


@pytest.mark.parametrize("words", lines())
def test_a_line_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")  # some lines name the file of an example
    assert parse(words[0], words[1:]) is not None


def runs_at_once(words: list[str]) -> bool:
    """True for lines that need no data, model or time."""
    is_plan = any(words[: len(start)] == start for start in CHEAP)
    return is_plan and not any("./" in word for word in words)


@pytest.mark.parametrize("words", [each for each in lines() if runs_at_once(each.values[0])])  # type: ignore[attr-defined]
def test_a_cheap_line_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.strip()
