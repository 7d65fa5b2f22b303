"""Retrieval behind one protocol: ``search(queries, top_k)`` gives ranked passages per query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.memory import MemoryRetriever

__all__ = [
    "RETRIEVERS",
    "Corpus",
    "MemoryRetriever",
    "Passage",
    "Retriever",
    "ScoredPassage",
    "is_remote",
    "make_retriever",
    "remote_retriever",
]


def _make_bm25(corpus: Corpus) -> Retriever:
    from calibadv_env.retrieval.bm25.memory import Bm25Retriever

    return Bm25Retriever(corpus)


def _make_rank_bm25(corpus: Corpus) -> Retriever:
    from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever

    return RankBm25Retriever(corpus)


RETRIEVERS: Final[dict[str, Callable[[Corpus], Retriever]]] = {
    "bm25": _make_bm25,
    "rank_bm25": _make_rank_bm25,
    "memory": MemoryRetriever,
}
"""How each named retriever is built; a builder imports its package only when it is called."""


def is_remote(spec: str) -> bool:
    """Whether a specification is the address of a server, which needs no corpus here."""
    return spec.startswith(("http://", "https://", "simulated:"))


def remote_retriever(spec: str) -> Retriever:
    """The client of the server at an address; see :func:`make_retriever`."""
    if spec.startswith("simulated:"):
        from calibadv_env.retrieval.remote.simulated import simulated_from_spec

        return simulated_from_spec(spec)
    from calibadv_env.retrieval.remote.client import HttpRetriever

    return HttpRetriever.from_spec(spec)


def make_retriever(spec: str | Retriever, corpus: Corpus) -> Retriever:
    """Gives the retriever that a specification names.

    Args:
        spec: A name in :data:`RETRIEVERS`; the address of a server (``http://127.0.0.1:8000``,
            with settings behind ``#`` if need be); ``simulated:http://…``, whose passages a
            model writes (:func:`calibadv_env.retrieval.remote.simulated.simulated_from_spec`); the
            folder of an index (a text with a path
            separator in it), which must be one of the same corpus; or any object with a method
            ``search``, which is given back as it is.
        corpus: What to search.

    Returns:
        The retriever.

    Raises:
        ValueError: if the name is unknown or the object cannot search.
        MissingDependencyError: if the package behind the name is not installed.
        DataError: if the folder holds no index, a damaged one, or one of another corpus.
    """
    if isinstance(spec, str):
        if is_remote(spec):
            return remote_retriever(spec)
        if spec not in RETRIEVERS and ("/" in spec or "\\" in spec):
            from calibadv_env.retrieval.opening import open_index

            return open_index(spec, corpus=corpus)
        if spec not in RETRIEVERS:
            known = ", ".join(repr(name) for name in RETRIEVERS)
            raise ValueError(
                f"retriever must be one of {known}, the path of an index or an object, got {spec!r}"
            )
        return RETRIEVERS[spec](corpus)
    if not isinstance(spec, Retriever):
        raise ValueError(f"retriever must have a method search, got {type(spec).__name__}")
    return spec
