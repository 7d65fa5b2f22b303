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
PURE_ALGO = {
    "batching",
    "credit",
    "diagnostics",
    "filters",
    "losses",
    "losses_llds",
    "losses_value",
    "losses_variants",
}
NOUNS = {
    "calibadv_env.info",
    "calibadv_env.prompts",
    "calibadv_env.data.base",
    "calibadv_env.retrieval.base",
    "calibadv_algo.types",
    "calibadv_algo.errors",
}
"""What formulas may import beside each other: words, types and texts, without I/O."""
FOR_FORMULAS = {"numpy", "torch", "jaxtyping"}
STDLIB_IO = {
    "asyncio", "concurrent", "csv", "gzip", "http", "importlib", "io", "json", "logging",
    "multiprocessing", "os", "pathlib", "pickle", "random", "shelve", "shutil", "socket",
    "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
OUTSIDERS = {"baselines", "benchmarks", "tests"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(source: str, *, top_level_only: bool = False) -> Iterator[str]:
    """Full names of the modules, or of the things in them, that a file imports."""
    tree = ast.parse(source)
    nodes = list(module_level(tree)) if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
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


def is_composition_root(path: Path) -> bool:
    """Whether a file joins both packages: the command line and its commands, nothing else."""
    inside = path.relative_to(ROOT / "calibadv_algo")
    return inside == Path("cli.py") or inside.parts[0] == "commands"


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
    ]


def pure_faults(source: str) -> list[str]:
    """Imports and calls that formulas must not have."""
    own = {f"calibadv_env.{name}" for name in PURE_ENV}
    own |= {f"calibadv_algo.{name}" for name in PURE_ALGO | {"advantages"}}
    faults = []
    for name in imports(source):
        top = name.split(".")[0]
        if top in ("calibadv_env", "calibadv_algo"):
            is_fine = any(within(name, module) for module in own | NOUNS)
        elif top in sys.stdlib_module_names:
            is_fine = top not in STDLIB_IO
        else:
            is_fine = top in FOR_FORMULAS
        if not is_fine:
            faults.append(name)
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return faults + sorted(names & {"open", "print", "input", "exec", "eval", "__import__"})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("calibadv_env"), ids=name_of)
def test_env_knows_neither_algorithms_nor_torch(path: Path) -> None:
    assert env_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path", [p for p in modules("calibadv_algo") if not is_composition_root(p)], ids=name_of
)
def test_algo_takes_only_info_from_env(path: Path) -> None:
    assert algo_faults(path.read_text(encoding="utf-8")) == []


def test_the_composition_root_is_the_command_line() -> None:
    roots = {name_of(path) for path in modules("calibadv_algo") if is_composition_root(path)}
    assert "calibadv_algo/cli.py" in roots
    assert all(name.startswith("calibadv_algo/c") for name in roots)
    assert "calibadv_algo/compare.py" not in roots
    for path in modules("calibadv_algo"):
        if not is_composition_root(path):
            names = imports(path.read_text(encoding="utf-8"))
            roots_used = ("calibadv_algo.cli", "calibadv_algo.commands")
            assert not [name for name in names if any(within(name, r) for r in roots_used)], path


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
    assert "" not in found, "a relative import would get past these tests"


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("calibadv_env", HEAVY | {"calibadv_algo"}),
        ("calibadv_env.env", HEAVY | {"calibadv_algo"}),
        ("calibadv_algo.cli", HEAVY | {"matplotlib"}),
        ("calibadv_algo.config", HEAVY | {"calibadv_env", "gymnasium"}),
        ("calibadv_algo.credit", HEAVY | {"calibadv_env", "gymnasium"}),
        ("calibadv_algo.advantages.calibadv", HEAVY | {"calibadv_env", "gymnasium"}),
    ],
)
def test_importing_stays_light(module: str, banned: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {banned!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "source",
    ["import torch", "def f():\n    from calibadv_algo import types", "import calibadv_algo"],
)
def test_faults_of_the_environment_are_found(source: str) -> None:
    assert env_faults(source)


@pytest.mark.parametrize(
    "source", ["def f():\n    import torch", "if TYPE_CHECKING:\n    import torch", "import numpy"]
)
def test_what_the_environment_may_do_is_no_fault(source: str) -> None:
    assert not env_faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "from calibadv_env.rewards import f1_score",
        "from calibadv_env import rewards",
        "from calibadv_env import *",
        "import calibadv_env",
        "import calibadv_env.env",
        "def f():\n    from calibadv_env.data.registry import get_dataset",
        "from calibadv_env.information import x",
    ],
)
def test_faults_of_the_algorithms_are_found(source: str) -> None:
    assert algo_faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "from calibadv_env.info import STOP_STRINGS",
        "from calibadv_env import info",
        "import calibadv_env.info",
        "import calibadv_environment",
    ],
)
def test_what_the_algorithms_may_do_is_no_fault(source: str) -> None:
    assert not algo_faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "from calibadv_algo.config import TrainConfig",
        "from calibadv_algo import config",
        "from calibadv_algo.rollout.base import SamplingParams",
        "import transformers",
        "from pathlib import Path",
        "import random",
        "from calibadv_env.retrieval.bm25 import Bm25Retriever",
        "def f():\n    print(1)",
        "open('x')",
    ],
)
def test_faults_of_formulas_are_found(source: str) -> None:
    assert pure_faults(source)


@pytest.mark.parametrize(
    "source",
    ["from calibadv_algo.types import Group", "import math", "import torch.nn.functional as F"],
)
def test_what_formulas_may_do_is_no_fault(source: str) -> None:
    assert not pure_faults(source)
