"""Pages of the commands and of the public modules, made when the site is built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import mkdocs_gen_files

from calibadv_algo.cli.main import COMMANDS

MODULES: Final = (
    "calibadv_env",
    "calibadv_env.info",
    "calibadv_env.env",
    "calibadv_env.vector",
    "calibadv_env.wrappers",
    "calibadv_env.data.registry",
    "calibadv_env.retrieval",
    "calibadv_env.graders",
    "calibadv_env.protocol.answers",
    "calibadv_env.protocol.passages",
    "calibadv_algo.types",
    "calibadv_algo.training.config",
    "calibadv_algo.training.trainer",
    "calibadv_algo.rollout.driver",
    "calibadv_algo.rollout.episodes",
    "calibadv_algo.rollout.slots",
    "calibadv_algo.rollout.engines.base",
    "calibadv_algo.advantages.base",
    "calibadv_algo.advantages.calibadv",
    "calibadv_algo.advantages.grpo",
    "calibadv_algo.credit.base",
    "calibadv_algo.credit.silver",
    "calibadv_algo.losses.base",
    "calibadv_algo.shaping.base",
    "calibadv_algo.batching",
)
"""Modules that a user imports from."""

GROUPS: Final = {
    "data": ("prepare", "inspect", "audit", "questions"),
    "index": (),
    "trace": ("import",),
}
"""Commands that hold others."""


def help_of(command: str) -> str:
    """What a command prints about itself."""
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "calibadv", *command.split(), "--help"],
        env=os.environ | plain,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def write_commands() -> list[str]:
    """A page for each command; their links."""
    links = []
    for name, (_, _, line) in COMMANDS.items():
        path = f"reference/{name.replace(' --', '-')}.md"
        names = [name, *(f"{name} {inner}" for inner in GROUPS.get(name, ()))]
        texts = [f"## calibadv {each}\n\n```text\n{help_of(each)}\n```\n" for each in names]
        with mkdocs_gen_files.open(path, "w") as page:
            page.write(f"# calibadv {name}\n\n{line[:1].upper()}{line[1:]}.\n\n" + "\n".join(texts))
        links.append(f"- [`calibadv {name}`]({Path(path).name}): {line}")
    return links


def write_modules() -> list[str]:
    """A page for each public module; their links."""
    links = []
    for module in MODULES:
        path = f"reference/{module}.md"
        with mkdocs_gen_files.open(path, "w") as page:
            page.write(f"# {module}\n\n::: {module}\n")
        links.append(f"- [`{module}`]({Path(path).name})")
    return links


commands, modules = write_commands(), write_modules()
with mkdocs_gen_files.open("reference/index.md", "w") as index:
    index.write(
        "# Reference\n\nMade from the code.\n\n## Commands\n\n"
        + "\n".join(commands)
        + "\n\n## Modules\n\n"
        + "\n".join(modules)
        + "\n"
    )

# Help texts and docstrings are 100 columns wide.
with mkdocs_gen_files.open("assets/wide.css", "w") as style:
    style.write(".md-grid { max-width: 76rem; } .md-typeset pre > code { font-size: 0.62rem; }\n")
