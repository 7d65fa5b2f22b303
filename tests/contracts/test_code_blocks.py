"""Every Python block of the documentation runs as pasted: alone, in an empty folder.

A block of the language ``text`` right after it is what it prints, to the letter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "docs/integrations.md": "tests/integrations",
    "docs/trl.md": "tests/integrations/test_trl.py",
    "docs/verl.md": "tests/integrations/test_verl.py",
}
"""Pages whose blocks need other packages, and the tests that run them where these are."""
PAGES = [
    path
    for path in sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
    if str(path.relative_to(ROOT)) not in PACKAGES
]
BLOCK = re.compile(
    r"^```python[^\n]*\n(?P<code>.*?)^```$(?:\n+```text\n(?P<printed>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


def blocks() -> list[object]:
    """Code and printed text of every block, named by page and line."""
    found: list[object] = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            name = f"{path.relative_to(ROOT)}:{line}"
            found.append(pytest.param(match["code"], match["printed"], id=name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), blocks())
def test_a_block_runs_as_pasted(code: str, printed: str | None, tmp_path: Path) -> None:
    script = tmp_path / "pasted.py"
    script.write_text(code, encoding="utf-8")
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"OMP_NUM_THREADS": "1", "CALIBADV_DATA": str(tmp_path / "data"), "PATH": commands}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if printed is not None:
        assert done.stdout == printed


@pytest.mark.parametrize("page", PACKAGES)
def test_blocks_that_need_other_packages_have_tests(page: str) -> None:
    tests = ROOT / PACKAGES[page]
    files = sorted(tests.glob("test_*.py")) if tests.is_dir() else [tests]
    text = "".join(each.read_text(encoding="utf-8") for each in files)
    assert Path(page).name in text
