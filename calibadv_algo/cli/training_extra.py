"""The extra `train`: what training and sampling need beyond the plain install."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from calibadv_env.errors import MissingDependencyError

PACKAGES: Final = ("torch", "transformers", "tokenizers", "safetensors", "scipy", "matplotlib")
"""Modules that the commands below import."""

REMEDY: Final = "pip install 'calibadv[train]'"


def need_training(what: str, packages: tuple[str, ...] = PACKAGES) -> None:
    """Says before anything is begun that packages of the extra are missing.

    Args:
        what: A command or a function, for the message.
        packages: The ones that it needs.

    Raises:
        MissingDependencyError: if one is not installed; the message names all and the extra.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"{what} needs {', '.join(missing)}: {REMEDY}")


def explained(error: ImportError, what: str) -> str:
    """The message of a failed import; for a package of the extra, how to install that."""
    package = (error.name or "").partition(".")[0]
    if package in PACKAGES and not isinstance(error, MissingDependencyError):
        missing = [name for name in PACKAGES if find_spec(name) is None] or [package]
        return f"{what} needs {', '.join(missing)}: {REMEDY}"
    return str(error)
