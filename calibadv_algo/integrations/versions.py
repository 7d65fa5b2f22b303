"""Releases of other people's training code that the adapters were tested with."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Final

from calibadv_env.common.peers import Peer

TRL: Final = Peer(package="trl", tested=("1.16.0",), first="1.16", before="2")
"""TRL, whose loss takes advantages of shape (batch, token)."""

VERL: Final = Peer(package="verl", tested=("0.9.1",), first="0.9", before="0.10")
"""verl, with the trainers of ``verl.trainer.ppo.v1``."""

MACHINE_FAILURES: Final = ("builtins.OSError", "calibadv_env.errors.RetrieverError")
"""Errors of the environments that are no policy's fault, by full name: nothing is imported."""


def part_of(module: str, name: str) -> Any:
    """A name of a peer's module.

    Raises:
        ImportError: if that release has moved it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{module} has no {name}: a release that was not tested") from error


def errors_named(names: Iterable[str]) -> tuple[type[Exception], ...]:
    """Finds exception types by their full names, as a settings file gives them.

    Raises:
        ImportError: if there is no such module or name.
        ValueError: if a name is that of something else.
    """
    found = []
    for name in names:
        module, _, last = name.rpartition(".")
        error = part_of(module, last)
        if not (isinstance(error, type) and issubclass(error, Exception)):
            raise ValueError(f"retry_on must name exception types, got {name!r}")
        found.append(error)
    return tuple(found)
