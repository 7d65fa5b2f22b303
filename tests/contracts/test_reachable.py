"""Every formula can be reached from a setting: nothing is there for its test alone."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORMULAS = ("advantages", "credit", "losses", "shaping")
USERS = ("calibadv_algo", "calibadv_env", "baselines")


def names_in(tree: ast.AST) -> Counter[str]:
    """How often each name is used: read, imported, or reached through a dot."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
    return found


def unused_functions(sources: dict[str, str], formulas: set[str]) -> dict[str, set[str]]:
    """Public functions of some files whose names no file uses."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    used = sum((names_in(tree) for tree in trees.values()), Counter[str]())
    unused: dict[str, set[str]] = {}
    for name in formulas:
        for node in trees[name].body:
            if isinstance(node, ast.FunctionDef) and not used[node.name]:
                unused.setdefault(name, set()).add(node.name)
    return unused


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", {"a.py": {"lonely"}}), ("from a import lonely\n\nx = lonely(1)", {})],
)
def test_the_check_finds_a_function_that_nobody_calls(
    user: str, expected: dict[str, set[str]]
) -> None:
    sources = {"a.py": "def lonely(x):\n    return x\n", "b.py": user}
    assert unused_functions(sources, {"a.py"}) == expected


def test_every_formula_is_reached_by_the_package() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in USERS
        for path in (ROOT / package).rglob("*.py")
    }
    formulas = {
        name for name in sources if name.startswith(tuple(f"calibadv_algo/{f}/" for f in FORMULAS))
    }
    assert len(formulas) > 50
    assert unused_functions(sources, formulas) == {}
