"""Private names stay in their module: none is imported, or inherited, by another one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def private_imports(source: str) -> list[str]:
    """Names with one underscore that a file takes from another module."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


@pytest.mark.parametrize("package", ["calibadv", "calibadv_env", "calibadv_algo"])
def test_no_private_name_is_imported(package: str) -> None:
    found = {
        str(file.relative_to(ROOT)): names
        for file in sorted((ROOT / package).rglob("*.py"))
        if (names := private_imports(file.read_text(encoding="utf-8")))
    }
    assert found == {}
