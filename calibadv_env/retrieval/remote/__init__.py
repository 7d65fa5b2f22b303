"""Retrieval over HTTP: client, server, wire formats and simulated search."""

from __future__ import annotations

from typing import Final

from calibadv_env.retrieval.backends import Backend, lazily

BACKENDS: Final = (
    Backend(
        name="http",
        schemes=("http", "https"),
        connect=lazily("calibadv_env.retrieval.remote.client:HttpRetriever.from_spec"),
    ),
    Backend(
        name="pages",
        schemes=("pages",),
        connect=lazily("calibadv_env.retrieval.remote.pages:RemotePages.from_spec"),
    ),
    Backend(
        name="visit",
        schemes=("visit",),
        connect=lazily("calibadv_env.retrieval.remote.pages:VisitedPages.from_spec"),
    ),
    Backend(
        name="simulated",
        schemes=("simulated",),
        connect=lazily("calibadv_env.retrieval.remote.simulated:simulated_from_spec"),
    ),
)
