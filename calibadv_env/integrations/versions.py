"""Releases of other people's environment libraries that the adapters were tested with."""

from __future__ import annotations

from typing import Final

from calibadv_env.common.peers import Peer

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
