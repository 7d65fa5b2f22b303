"""Files, commands, flags and names that the documentation mentions exist."""

from __future__ import annotations

import ast
import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from calibadv_algo.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks" / "README.md",
        *(ROOT / "environments").rglob("*.md"),
    )
    if path.name not in ("CHANGELOG.md", "DATA_LICENSES.md")
)
FOLDERS = (
    "baselines",
    "benchmarks",
    "calibadv_algo",
    "calibadv_env",
    "conformance",
    "environments",
    "examples",
)
FILES = [
    str(path.relative_to(ROOT))
    for folder in (*FOLDERS, "calibadv", "docs", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
]
PACKAGES = (
    "calibadv",
    "calibadv_algo",
    "calibadv_env",
    "calibadv_baselines",
    "benchmarks",
    "conformance",
)
YOURS = {"mine.py", "my_module.py", "my_package/trivia.py", "my_trivia.py"}
"""Files that a reader would write."""
GROUPS = ("data", "index")
"""Commands whose first argument is another command."""
CHOICES = {
    "--preset", "--arm", "--baseline", "--engine", "--lora", "--advantage", "--credit",
    "--objective", "--mismatch", "--filter", "--shaping", "--loss-mask", "--part",
}  # fmt: skip
"""Flags that decide which other flags there are."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_of(page: str) -> list[str]:
    """Inline code, and the lines of code blocks with continued ones joined."""
    text = text_of(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [*re.findall(r"`([^`\n]+)`", rest), *lines]


# Links and files


def dead_links(page: str) -> list[str]:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    local = [link.partition("#")[0] for link in links if not re.match(r"\w+:", link)]
    folder = (ROOT / page).parent
    return [link for link in local if link and not (folder / link).exists()]


def is_yours(name: str) -> bool:
    """Tells whether a reader would write the file; ``NAME`` stands for a word of theirs."""
    return name in YOURS or "NAME" in name


def missing_files(code: str) -> list[str]:
    """Python files that are nowhere; a name may leave out the folders above."""
    found = re.findall(r"(?<![\w/.*-])((?:[\w-]+/)*[\w-]+\.py)\b(?!\w)", code)
    return [
        name
        for name in found
        if not is_yours(name) and not any(f == name or f.endswith("/" + name) for f in FILES)
    ]


def missing_folders(code: str) -> list[str]:
    """Paths below the project's folders that are nowhere."""
    found = re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)}|tests|docs)/[\w/.-]*)", code)
    return [name for name in found if not is_yours(name) and not (ROOT / name.rstrip(".")).exists()]


# Names


@cache
def names_in(path: Path) -> frozenset[str]:
    """Names that a module defines or imports, and Class.attribute."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Assign):
            found.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


@cache
def source_strings() -> str:
    return "\n".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in [*FILES, "pyproject.toml"]
        if name.endswith((".py", ".toml")) and not name.startswith("tests/")
    )


def exists(name: str) -> bool:
    """Tells whether a dotted name is a module, or something in one, or a name in quotes."""
    parts = re.split(r"[.:]", name)
    for top in (ROOT, ROOT / "baselines"):
        place = top
        for index, part in enumerate(parts):
            module = place / f"{part}.py"
            if (place / part).is_dir():
                place = place / part
                continue
            file = module if module.is_file() else place / "__init__.py"
            rest = parts[index + 1 :] if module.is_file() else parts[index:]
            if file.is_file() and all(each in names_in(file) for each in rest):
                return True
            break
        else:
            return True
    return f'"{name}"' in source_strings()


def missing_names(code: str) -> list[str]:
    found = re.findall(rf"(?<![\w/.-])((?:{'|'.join(PACKAGES)})(?:[.:]\w+)+)(?![\w-])", code)
    names = [name for name in found if not name.endswith((".py", ".md", ".jsonl", ".json"))]
    if match := re.match(r"from ((?:calibadv|benchmarks)[\w.]*) import ([\w, ]+)", code):
        names += [f"{match[1]}.{each.strip()}" for each in match[2].split(",") if each.strip()]
    return [name for name in names if not exists(name)]


# Commands


@cache
def flags_of(*arguments: str) -> frozenset[str]:
    """Flags that the help of a command shows."""
    out = io.StringIO()
    if str(ROOT / "examples") not in sys.path:
        sys.path.append(str(ROOT / "examples"))
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return frozenset(re.findall(r"--[a-z][\w.-]*", out.getvalue()))


def command_faults(code: str) -> list[str]:
    """Faults of commands such as ``calibadv train --arm grpo``."""
    return [
        fault
        for line in re.findall(r"(?<![\w./=-])calibadv ([a-z].*)", code.partition("  #")[0])
        for fault in faults_of(line)
    ]


def faults_of(line: str) -> list[str]:
    words = shlex.split(line.replace("'", "").replace("…", ""), comments=True)
    name = words[0].strip("`,;:.")
    if name not in COMMANDS:
        return [f"no command {name}"]
    chosen = [name, "--suite"] if "--suite" in words else [name]
    if name in GROUPS and len(words) > 1 and words[1].isalnum() and words[1].islower():
        chosen.append(words[1])
    for flag, value in pairwise(words):
        if flag in CHOICES and (value.islower() or ":" in value):
            chosen += [flag, value]
    given = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    known = flags_of(*chosen)
    return [f"no flag {flag} of {' '.join(chosen)}" for flag in given if flag not in known]


def missing_targets(code: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z][\w-]*)", code)
    return [each for each in targets if not re.search(rf"^{each}:", makefile, re.MULTILINE)]


CHECKS = (missing_files, missing_folders, missing_names, command_faults, missing_targets)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_mentions_exists(page: str) -> None:
    faults = [(code, fault) for code in code_of(page) for find in CHECKS for fault in find(code)]
    assert (dead_links(page), faults) == ([], [])


@pytest.mark.parametrize(
    ("find", "code", "fine"),
    [
        (missing_files, "credits.py", "advantages/calibadv.py"),
        (missing_folders, "calibadv_algo/commands/", "calibadv_algo/cli/"),
        (missing_names, "calibadv_algo.trainer.Trainer", "calibadv_algo.training.trainer.Trainer"),
        (missing_names, "from calibadv_env import nothing", "from calibadv_env import get_dataset"),
        (command_faults, "calibadv conformance", "calibadv list"),
        (command_faults, "calibadv eval --subset 5 NAME", "calibadv eval --suite nq --subset 5"),
        (command_faults, "calibadv data prepare --no NAME", "calibadv data prepare NQ --seed 1"),
        (missing_targets, "make nothing", "make test-slow"),
    ],
)
def test_faults_are_found(find: object, code: str, fine: str) -> None:
    assert callable(find)
    assert find(code)
    assert not find(fine)


# Messages

FOREIGN = {"No module named 'torch'", "CUDA out of memory", "doesn't exist", "Environment"}
"""Messages of Python, torch and Gymnasium."""


def test_troubleshooting_quotes_messages_that_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \|", text_of("docs/troubleshooting.md"), flags=re.MULTILINE)
    quoted = {each for row in rows for each in re.findall(r"`([^`]+)`", row)}
    assert len(quoted) > 15
    # A message may be broken over lines of the source.
    source = re.sub(r'"\s*\n\s*f?"', "", source_strings())
    assert [each for each in quoted - FOREIGN if each not in source] == []
