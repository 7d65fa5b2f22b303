"""Imports that the layers in pyproject.toml do not speak of.

The order of the rooms is checked by import-linter; here is what algorithms may know of the
environment, what formulas may import, and what must not be loaded by an import.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"torch", "transformers", "vllm"}
PURE = ("calibadv_env/protocol", "calibadv_algo/advantages", "calibadv_algo/losses")
"""Rooms of formulas and words."""
NOUNS = {
    "calibadv_env.info",
    "calibadv_env.protocol.prompts",
    "calibadv_env.common.checks",
    "calibadv_env.retrieval.base",
    "calibadv_algo.types",
    "calibadv_algo.errors",
    "calibadv_algo.batching",
    "calibadv_algo.credit.base",
    "calibadv_algo.credit.facts",
}
"""What formulas may import beside each other: words, types and texts, without I/O."""
FOR_FORMULAS = {"numpy", "torch", "jaxtyping", "annotated_types"}
STDLIB_IO = {
    "asyncio", "concurrent", "csv", "gzip", "http", "importlib", "io", "logging",
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
    return path.is_relative_to(ROOT / "calibadv_algo" / "cli")


def env_faults(source: str) -> list[str]:
    """Imports that the environment package must not have."""
    faults = [name for name in imports(source) if within(name, "calibadv_algo")]
    top = imports(source, top_level_only=True)
    return faults + [name for name in top if name.split(".")[0] in HEAVY]


def algo_faults(source: str) -> list[str]:
    """Imports from the environment package other than info, protocol and common."""
    allowed = ("calibadv_env.info", "calibadv_env.protocol", "calibadv_env.common")
    return [
        name
        for name in imports(source)
        if within(name, "calibadv_env") and not any(within(name, each) for each in allowed)
    ]


def pure_faults(source: str) -> list[str]:
    """Imports and calls that formulas must not have."""
    own = {room.replace("/", ".") for room in PURE}
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
def test_algo_takes_only_what_is_shared_from_env(path: Path) -> None:
    assert algo_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [p for room in PURE for p in modules(room)], ids=name_of)
def test_formulas_import_no_machinery(path: Path) -> None:
    assert pure_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*modules("calibadv_env"), *modules("calibadv_algo")], ids=name_of)
def test_nothing_imports_the_outside(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    assert not found & OUTSIDERS
    assert "" not in found, "a relative import would get past these tests"


@pytest.mark.parametrize("path", modules("calibadv_algo/losses"), ids=name_of)
def test_a_loss_loads_torch_only_when_it_computes(path: Path) -> None:
    names = imports(path.read_text(encoding="utf-8"), top_level_only=True)
    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("calibadv_env", HEAVY | {"calibadv_algo"}),
        ("calibadv_env.env", HEAVY | {"calibadv_algo"}),
        ("calibadv_algo.cli.main", HEAVY | {"matplotlib"}),
        ("calibadv_algo.training.config", HEAVY),
        ("calibadv_algo.learner.config", HEAVY),
        ("calibadv_algo.credit.base", HEAVY),
        ("calibadv_algo.advantages.calibadv", HEAVY),
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
        "from calibadv_algo.training.config import TrainConfig",
        "from calibadv_algo import rollout",
        "from calibadv_algo.rollout.engines.base import SamplingParams",
        "import transformers",
        "from pathlib import Path",
        "import random",
        "from calibadv_env.retrieval.bm25.memory import Bm25Retriever",
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
