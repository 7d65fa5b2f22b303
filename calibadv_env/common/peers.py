"""Packages of others that adapters stand on, and the releases that were tested."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.version import Version

from calibadv_env.errors import MissingDependencyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A package that an adapter stands on.

    Attributes:
        package: Its name in the package index.
        module: Module to import, "" for the one of the package's name.
        tested: Releases that the tests ran with, oldest first.
        first: Oldest release that is let in.
        before: Release from which on none is let in.
    """

    package: str
    module: str = ""
    tested: tuple[str, ...]
    first: str
    before: str


def require(peer: Peer) -> Any:
    """Imports a peer and gives its module.

    Raises:
        MissingDependencyError: if it is not installed, its release is too old or too new, or it
            cannot be imported; the message names the releases that were tested.
    """
    tested = ", ".join(peer.tested)
    wanted = f"{peer.package}>={peer.first},<{peer.before} (tested with {tested})"
    try:
        version = Version(metadata.version(peer.package))
    except metadata.PackageNotFoundError:
        raise MissingDependencyError(
            f"this adapter needs {wanted}, which is not installed"
        ) from None
    if not Version(peer.first) <= version < Version(peer.before):
        age = "old" if version < Version(peer.first) else "new"
        raise MissingDependencyError(
            f"this adapter needs {wanted}; {peer.package} {version} is too {age}"
        )
    module = peer.module or peer.package
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"this adapter needs {wanted}; {peer.package} {version} is installed, but importing "
            f"{module} failed: {error}"
        ) from error
