"""Imports that the layers in pyproject.toml do not speak of.

The order of the rooms is checked by import-linter. Here is what algorithms may know of the
environment, what formulas may import, and what must not be loaded by an import.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("calibadv", "calibadv_env", "calibadv_algo")

HEAVY = {"torch", "transformers", "vllm"}
SHARED = ("calibadv_env.info", "calibadv_env.protocol", "calibadv_env.common")
"""The part of the environment package that algorithms may import."""
FORMULAS = (
    "calibadv_env.protocol",
    "calibadv_env.rewards",
    "calibadv_algo.advantages",
    "calibadv_algo.batching",
    "calibadv_algo.credit.base",
    "calibadv_algo.credit.beliefs",
    "calibadv_algo.credit.hindsight",
    "calibadv_algo.credit.facts",
    "calibadv_algo.credit.labels",
    "calibadv_algo.credit.silver",
    "calibadv_algo.losses",
    "calibadv_algo.training.diagnostics",
)
"""Rooms and files of formulas: no I/O, no tokenizer, engine, tracker or settings of a run."""
NOUNS = (
    "calibadv_env.common.checks",
    "calibadv_env.info",
    "calibadv_env.retrieval.base",
    "calibadv_algo.errors",
    "calibadv_algo.types",
)
"""What formulas may import beside each other: words and types."""
FOR_FORMULAS = {"numpy", "regex", "torch", "jaxtyping", "annotated_types"}
IO = {
    "asyncio", "concurrent", "csv", "gzip", "http", "importlib", "io", "logging",
    "multiprocessing", "os", "pathlib", "pickle", "random", "shelve", "shutil", "socket",
    "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
"""Modules of the standard library that formulas may not import."""
OUTSIDERS = {"baselines", "benchmarks", "calibadv_baselines", "conformance", "examples", "tests"}


def modules(*names: str) -> Iterator[Path]:
    """Files of packages and modules."""
    for name in names:
        place = ROOT / name.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), name
        yield from place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]


def faults(find: Callable[[str], list[str]], files: Iterator[Path]) -> dict[str, list[str]]:
    """Faults of files, by their names."""
    found = {str(f.relative_to(ROOT)): find(f.read_text(encoding="utf-8")) for f in files}
    assert found
    return {name: each for name, each in found.items() if each}


def imports(source: str, *, top_level_only: bool = False) -> Iterator[str]:
    """Full names of the modules, or of the things in them, that a file imports."""
    tree = ast.parse(source)
    for node in module_level(tree) if top_level_only else ast.walk(tree):
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


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(each + ".") for each in packages)


def heavy(source: str) -> list[str]:
    """Imports at module level that take seconds."""
    return [n for n in imports(source, top_level_only=True) if n.split(".")[0] in HEAVY]


def unshared(source: str) -> list[str]:
    """Imports from the environment package that are not for all."""
    return [n for n in imports(source) if within(n, ("calibadv_env",)) and not within(n, SHARED)]


def impure(source: str) -> list[str]:
    """Imports and calls that formulas must not have."""
    found = []
    for name in imports(source):
        top = name.split(".")[0]
        if top in PACKAGES:
            is_fine = within(name, FORMULAS + NOUNS)
        elif top in sys.stdlib_module_names:
            is_fine = top not in IO
        else:
            is_fine = top in FOR_FORMULAS
        if not is_fine:
            found.append(name)
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return found + sorted(names & {"open", "print", "input", "exec", "eval", "__import__"})


def outside(source: str) -> list[str]:
    """Imports of what is no part of the library; relative ones would get past these tests."""
    return [n for n in imports(source) if n.split(".")[0] in OUTSIDERS or n.startswith(".")]


def test_the_environment_loads_nothing_heavy() -> None:
    assert faults(heavy, modules("calibadv_env")) == {}


def test_algorithms_take_only_what_is_shared_from_the_environment() -> None:
    command_line = ROOT / "calibadv_algo" / "cli"
    files = (f for f in modules("calibadv_algo") if not f.is_relative_to(command_line))
    assert faults(unshared, files) == {}


def test_formulas_import_no_machinery() -> None:
    assert faults(impure, modules(*FORMULAS)) == {}


def test_nothing_imports_the_outside() -> None:
    assert faults(outside, modules(*PACKAGES)) == {}


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("calibadv_env", HEAVY | {"calibadv_algo"}),
        ("calibadv_env.env", HEAVY | {"calibadv_algo"}),
        ("calibadv", HEAVY | {"calibadv_algo"}),
        ("calibadv_algo.cli.main", HEAVY | {"matplotlib"}),
        ("calibadv_algo.training.config", HEAVY),
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


def test_an_episode_runs_without_the_preparation_of_data() -> None:
    code = (
        "import sys, gymnasium, calibadv_env\n"
        "gymnasium.make('DeepSearch-Toy-v1').reset(seed=0)\n"
        "print(*[name for name in sys.modules if 'calibadv_env.data.preparing' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (heavy, "import torch"),
        (heavy, "class A:\n    import transformers.utils"),
        (unshared, "from calibadv_env.rewards import f1_score"),
        (unshared, "from calibadv_env import rewards"),
        (unshared, "from calibadv_env import *"),
        (unshared, "import calibadv_env"),
        (unshared, "def f():\n    from calibadv_env.data.registry import get_dataset"),
        (unshared, "from calibadv_env.information import x"),
        (impure, "from calibadv_algo.training.config import TrainConfig"),
        (impure, "from calibadv_algo import rollout"),
        (impure, "from calibadv_algo.rollout.engines.base import SamplingParams"),
        (impure, "from calibadv_env.retrieval.bm25.memory import Bm25Retriever"),
        (impure, "import transformers"),
        (impure, "from pathlib import Path"),
        (impure, "import random"),
        (impure, "def f():\n    print(1)"),
        (impure, "open('x')"),
        (outside, "def f():\n    from benchmarks import gpu"),
        (outside, "from . import x"),
    ],
)
def test_faults_are_found(find: Callable[[str], list[str]], source: str) -> None:
    assert find(source)


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (heavy, "def f():\n    import torch"),
        (heavy, "if TYPE_CHECKING:\n    import torch"),
        (heavy, "import numpy"),
        (unshared, "from calibadv_env.info import STOP_STRINGS"),
        (unshared, "from calibadv_env import info"),
        (unshared, "import calibadv_env.protocol.actions"),
        (unshared, "import calibadv_environment"),
        (impure, "from calibadv_algo.types import Group"),
        (impure, "import math"),
        (impure, "import torch.nn.functional as F"),
        (outside, "import benchmarking"),
    ],
)
def test_what_is_allowed_is_no_fault(find: Callable[[str], list[str]], source: str) -> None:
    assert not find(source)
