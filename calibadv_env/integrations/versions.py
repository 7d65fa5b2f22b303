"""Which releases of other people's environment libraries the adapters were tested with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from packaging.version import Version

from calibadv_env.errors import MissingDependencyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A package that an adapter stands on.

    Attributes:
        package: Its name in the package index.
        module: What is imported of it.
        tested: Releases that the tests ran with, oldest first.
        first: Oldest release that is let in.
        before: Release from which on none is let in.
    """

    package: str
    module: str
    tested: tuple[str, ...]
    first: str
    before: str


SKYRL_GYM: Final = Peer(
    package="skyrl-gym", module="skyrl_gym", tested=("0.4.0",), first="0.4", before="0.5"
)
"""SkyRL-Gym, whose environments take whole conversations."""

GEM: Final = Peer(package="gem-llm", module="gem", tested=("0.1.0",), first="0.1", before="0.2")
"""GEM."""

VERIFIERS: Final = Peer(
    package="verifiers", module="verifiers.v1", tested=("0.4.0",), first="0.4", before="0.5"
)
"""verifiers, of which 0.4 has only the API of ``verifiers.v1``."""

OPENENV: Final = Peer(
    package="openenv", module="openenv.core", tested=("0.10.0",), first="0.10", before="0.11"
)
"""OpenEnv; up to 0.3 its package was called openenv-core."""

NEMO_GYM: Final = Peer(
    package="nemo-gym",
    module="resources_servers.gymnasium",
    tested=("0.4.0",),
    first="0.4",
    before="0.5",
)
"""NeMo-Gym, of which 0.4 is the last that runs on Python 3.12."""


def require(peer: Peer) -> Any:
    """Imports a peer.

    Args:
        peer: What is needed.

    Returns:
        Its module.

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
    try:
        return importlib.import_module(peer.module)
    except ImportError as error:
        raise MissingDependencyError(
            f"this adapter needs {wanted}; {peer.package} {version} is installed, but importing "
            f"{peer.module} failed: {error}"
        ) from error
