"""The `calibadv` command: reads arguments, joins environment, engine and algorithm, runs."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import gymnasium
import tyro
from rich.console import Console

from calibadv_algo.cli.flags import CONFIG, NamedSettings
from calibadv_algo.cli.help_texts import asks_for_help, opening
from calibadv_algo.cli.training_extra import explained, need_training
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_env.errors import CalibadvEnvError

NEED_TRAINING: Final = (
    "compare",
    "sweep",
    "train",
    "eval",
    "report",
    "warmstart",
    "credit",
    "export",
)
"""Commands that train or sample, and so need the extra `train`."""

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "compare": ("compare", "Compare", "train arms x seeds from one warm start, and compare"),
    "sweep": ("sweep", "Sweep", "vary one or two settings, and compare"),
    "train": ("train", "Train", "train one policy"),
    "eval": ("evaluate", "Eval", "evaluate a policy on a split of one dataset"),
    "eval --suite": (
        "evaluate_suite",
        "EvalSuite",
        "evaluate it on the seven benchmarks, or on others",
    ),
    "report": ("report", "Report", "make the report of a comparison again"),
    "warmstart": ("warmstart", "WarmStart", "make the small policy that training starts from"),
    "play": ("play", "Play", "search by hand in the terminal, or watch a policy"),
    "index": ("index", "Index", "make an index of a corpus, or check one"),
    "serve": ("serve", "Serve", "serve searches over HTTP"),
    "data": ("data", "Data", "prepare datasets, inspect and audit them, draft questions"),
    "trace": ("trace", "Trace", "import rollouts that other systems logged"),
    "credit": ("credit", "Credit", "measure what each turn was worth, by estimator"),
    "plan": ("plan", "Plan", "compute memory and time of a large run, by model and GPUs"),
    "diagnose": ("diagnose", "Diagnose", "count the correct searches that GRPO punished"),
    "watch": ("watch", "Watch", "follow a run or a comparison while it trains"),
    "export": ("export", "Export", "hand a run to a tracker afterwards, or write it as CSV"),
    "completion": ("completion", "Completion", "print a script that completes commands and flags"),
    "list": ("listing", "List", "list arms, baselines, datasets, presets or policies"),
}
"""Command -> module under `calibadv_algo.cli`, its class, and one line of help.

A command that a flag is a part of is chosen by that flag, wherever it stands.
"""

TRACEBACK: Final = "CALIBADV_TRACEBACK"
"""Environment variable: if it is set, an expected error shows where it came from."""

EXPECTED_ERRORS: Final = (
    CalibadvAlgoError,
    CalibadvEnvError,
    ValueError,
    OSError,
    ImportError,
    FloatingPointError,
    gymnasium.error.Error,
)
"""Errors that a user can mend: shown as one line, without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments without the program's name; None means those of the process.

    Returns:
        The exit code: 0 if all went well, 1 if a command failed, 2 for wrong arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_commands()
        return 0
    if arguments[0] in ("-V", "--version"):
        Console(highlight=False).print(_version_line(), markup=False, soft_wrap=True)
        return 0
    name, rest = arguments[0], arguments[1:]
    errors = Console(stderr=True, highlight=False)
    if name not in COMMANDS or " " in name:
        close = get_close_matches(name, [each for each in COMMANDS if " " not in each], n=1)
        hint = f", did you mean `calibadv {close[0]}`?" if close else ""
        text = f"unknown command {name!r}{hint} There are: {', '.join(COMMANDS)}"
        errors.print(text, markup=False)
        return 2
    shown, warnings.formatwarning = warnings.formatwarning, _in_one_line
    try:
        command = parse(name, rest)
        if name in NEED_TRAINING:
            need_training(f"calibadv {name}")
        return int(command.run() or 0)
    except EXPECTED_ERRORS as error:
        if os.environ.get(TRACEBACK):
            raise
        text = _in_words(error, f"calibadv {name}")
        errors.print(f"error: {text}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    finally:
        warnings.formatwarning = shown


def _in_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning without the line of code that gave it, which says nothing to a user."""
    kind = "warning" if issubclass(category, UserWarning) else category.__name__
    return f"{kind}: {message}\n"


def _version_line() -> str:
    """Version of the package, of Python, and of what training runs on."""
    parts = [f"calibadv {version('calibadv')}", f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in ("torch", "transformers") if find_spec(name)]
    return ", ".join([*parts, platform.platform()])


def _in_words(error: Exception, command: str) -> str:
    """An error's message; a path that is a file where a folder is needed is said to be one."""
    if isinstance(error, ImportError):
        return explained(error, command)
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        path = Path(os.fsdecode(error.filename))
        files = [each for each in (path, *path.parents) if each.is_file()]
        if files:
            return (
                f"{files[0]} is a file where a folder is needed: choose another path, or move the "
                "file away"
            )
    return str(error)


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The command of a name in `COMMANDS` with its arguments, ready to run.

    Unknown flags end the process with exit code 2.

    Raises:
        ValueError: if a preset, an arm or a setting is not valid.
    """
    form = _form(name, arguments)
    command = _load(form)
    is_named = issubclass(command, NamedSettings)
    if is_named:
        arguments = command.in_full(arguments)
    default = command.named(arguments) if is_named else tyro.MISSING_NONPROP
    if asks_for_help(arguments):
        Console(highlight=False).print(opening(form), end="", markup=False, soft_wrap=True)
        # `eval --suite --help` leaves the suite open, so flags before --help go.
        arguments = [*takewhile(lambda word: not word.startswith("-"), arguments), "--help"]
    return tyro.cli(
        command,
        args=arguments,
        prog=f"calibadv {form}",
        config=CONFIG,
        default=default,
    )


def _form(name: str, arguments: Sequence[str]) -> str:
    """The form of a command that its arguments choose.

    Raises:
        ValueError: if a flag belongs to another form.
    """
    forms = {key: key.removeprefix(name).strip() for key in COMMANDS if key.split()[0] == name}
    given = {argument.partition("=")[0] for argument in arguments}
    form = next((key for key, flag in forms.items() if flag in given), name)
    own = _flags(form) if len(forms) > 1 else set()
    for other in forms.keys() - {form}:
        for flag in sorted(given & (_flags(other) - own)):
            raise ValueError(f"{flag} belongs to `calibadv {other}`; see calibadv {form} --help")
    return form


def _load(form: str) -> Any:
    """The class of a command."""
    module, class_name, _ = COMMANDS[form]
    return getattr(importlib.import_module(f"calibadv_algo.cli.{module}"), class_name)


def _flags(form: str) -> set[str]:
    """Flags of a command, without those of its nested settings."""
    return {f"--{field.name.replace('_', '-')}" for field in fields(_load(form))}


def _print_commands() -> None:
    console = Console(highlight=False)
    console.print("Train and compare search agents. Each command explains itself with --help.\n")
    width = max(map(len, COMMANDS))
    for name, (_, _, description) in COMMANDS.items():
        console.print(f"  calibadv {name:<{width}}  {description}", soft_wrap=True)
    console.print("\ncalibadv --version says what to put into a bug report.")


if __name__ == "__main__":
    sys.exit(main())
