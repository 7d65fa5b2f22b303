"""Who may import whom; see the table in the architecture's text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"torch", "transformers", "vllm"}
PURE_ENV = {"actions", "dynamics", "rewards", "correctness"}
PURE_ALGO = {"credit", "losses", "batching", "diagnostics"}
IO_LAYERS = {
    "config",
    "tracking",
    "policy",
    "trainer",
    "checkpoint",
    "evaluation",
    "cli",
    "rollout",
}
COMPOSITION_ROOTS = ("cli", "commands", "compare")
OUTSIDERS = {"baselines", "benchmarks", "tests"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(source: str, *, top_level_only: bool = False) -> Iterator[str]:
    """Full names of the modules that a file imports."""
    tree = ast.parse(source)
    nodes = list(module_level(tree)) if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not in functions, nor for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from module_level(child)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def env_faults(source: str) -> list[str]:
    """Imports that the environment package must not have."""
    faults = [name for name in imports(source) if within(name, "calibadv_algo")]
    top = imports(source, top_level_only=True)
    return faults + [name for name in top if name.split(".")[0] in HEAVY]


def algo_faults(source: str) -> list[str]:
    """Imports from the environment package other than its info module."""
    return [
        name
        for name in imports(source)
        if within(name, "calibadv_env") and not within(name, "calibadv_env.info")
        if name != "calibadv_env"
    ]


def pure_faults(source: str) -> list[str]:
    """Imports that formulas must not have."""
    banned = {"transformers", "tokenizers", "vllm", "pathlib", "requests", "rich", "tyro"}
    return [
        name
        for name in imports(source)
        if name.split(".")[0] in banned
        or (
            within(name, "calibadv_algo")
            and name.split(".")[1:2]
            and name.split(".")[1] in IO_LAYERS
        )
    ]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("calibadv_env"), ids=name_of)
def test_env_knows_neither_algorithms_nor_torch(path: Path) -> None:
    assert env_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", modules("calibadv_algo"), ids=name_of)
def test_algo_takes_only_info_from_env(path: Path) -> None:
    if path.relative_to(ROOT / "calibadv_algo").parts[0].removesuffix(".py") in COMPOSITION_ROOTS:
        pytest.skip("a composition root joins both packages")
    assert algo_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path",
    [
        *(ROOT / "calibadv_env" / f"{name}.py" for name in sorted(PURE_ENV)),
        *(ROOT / "calibadv_algo" / f"{name}.py" for name in sorted(PURE_ALGO)),
        *modules("calibadv_algo/advantages"),
    ],
    ids=name_of,
)
def test_formulas_import_no_machinery(path: Path) -> None:
    assert pure_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*modules("calibadv_env"), *modules("calibadv_algo")], ids=name_of)
def test_nothing_imports_the_outside(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    assert not found & OUTSIDERS


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("calibadv_env", HEAVY | {"calibadv_algo"}),
        ("calibadv_algo.config", HEAVY),
        ("calibadv_algo.credit", HEAVY),
        ("calibadv_algo.advantages.calibadv", HEAVY),
    ],
)
def test_importing_stays_light(module: str, banned: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {banned!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_the_rules_can_fail() -> None:
    assert env_faults("import torch")
    assert env_faults("def f():\n    from calibadv_algo import types")
    assert not env_faults("def f():\n    import torch")
    assert not env_faults("if TYPE_CHECKING:\n    import torch")
    assert algo_faults("from calibadv_env.rewards import f1_score")
    assert algo_faults("from calibadv_env import rewards")
    assert not algo_faults("from calibadv_env.info import STOP_STRINGS")
    assert pure_faults("from calibadv_algo.config import TrainConfig")
    assert pure_faults("from calibadv_algo import config")
    assert not pure_faults("from calibadv_algo.types import Group")
