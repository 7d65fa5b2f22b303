"""Retrieval behind one protocol: ``search(queries, top_k)`` gives ranked passages per query."""

from __future__ import annotations

from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.memory import MemoryRetriever
from calibadv_env.retrieval.opening import is_remote, make_retriever, open_index, remote_retriever

__all__ = [
    "Corpus",
    "MemoryRetriever",
    "Passage",
    "Retriever",
    "ScoredPassage",
    "is_remote",
    "make_retriever",
    "open_index",
    "remote_retriever",
]
