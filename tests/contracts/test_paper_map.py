"""Functions, classes and settings that docs/paper_map.md names exist, and where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("calibadv_algo", "calibadv_env")

Definition = ast.FunctionDef | ast.ClassDef


def definitions() -> dict[str, dict[str, Definition]]:
    """For every module its functions and classes."""
    found: dict[str, dict[str, Definition]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = {
                node.name: node for node in tree.body if isinstance(node, Definition)
            }
    return found


MODULES = definitions()


def settings_of(node: Definition) -> set[str]:
    """Arguments of a function; fields of a class and of its bases."""
    if isinstance(node, ast.FunctionDef):
        return {each.arg for each in [*node.args.args, *node.args.kwonlyargs]}
    own = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return own.union(
        *(settings_of(names[base]) for base in bases for names in MODULES.values() if base in names)
    )


def fault(mention: str) -> str | None:
    """Tells what is wrong with a name such as ``grpo.Grpo(epsilon=...)``; None if nothing is."""
    dotted, _, call = mention.partition("(")
    module, _, name = dotted.rpartition(".")
    places = [
        names[name]
        for where, names in MODULES.items()
        if name in names and (not module or where.endswith("." + module))
    ]
    if not places:
        return "is nowhere in the packages"
    settings = set(re.findall(r"(\w+)=", call))
    if not any(settings <= settings_of(place) for place in places):
        return f"has no {', '.join(sorted(settings))}"
    return None


def mentions() -> list[str]:
    """Names in the columns of functions and credits, and those of further losses."""
    found, column = [], -1
    for line in (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        heads = [i for i, cell in enumerate(cells) if re.match(r"function|credit$", cell)]
        if heads:
            column = heads[0]
        elif not line.startswith("|"):
            column = -1
        elif column > 0:
            found += re.findall(r"`([^`]+)`", cells[column])
    return sorted({each for each in found if not re.match(r"\w+=", each)})


@pytest.mark.parametrize("mention", mentions())
def test_a_name_in_the_paper_map_exists(mention: str) -> None:
    assert fault(mention) is None


def test_there_is_something_to_check() -> None:
    assert len(mentions()) > 90
    assert fault("losses.gspo.Gspo(clip_low=0)") is None
    assert fault("losses.cispo.Gspo") == "is nowhere in the packages"
    assert fault("Gspo(clip=0)") == "has no clip"
