"""A retriever that misses: some queries, always the same ones, do not find what they should.

A miss leaves out the best passages and gives those that come after them, as a weak index would.
Which queries miss is settled by a hash of their words, so that asking the same again helps nothing,
while other words may find it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import (
    AskedTask,
    Retriever,
    check_search,
    identity_record,
    retriever_identity,
    search_with_tasks,
)
from calibadv_env.retrieval.filled import with_fillers

_WORD = re.compile(r"\w+")


class MissingRetriever:
    """Another retriever, some of whose answers lack the best passages.

    Args:
        retriever: Finds the passages.
        rate: Share of the queries that miss, 0 to 1.
        seed: Which ones do.

    Raises:
        ValueError: if the rate is out of its range.
    """

    def __init__(self, retriever: Retriever, rate: float = 0.3, seed: int = 0) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {rate}")
        self.retriever = retriever
        self.rate = rate
        self.seed = seed
        corpus = getattr(retriever, "corpus", None)
        if corpus is not None:
            self.corpus = corpus

    def is_miss(self, query: str) -> bool:
        """True if a query misses; case, punctuation and spaces make no difference."""
        words = " ".join(_WORD.findall(query.lower()))
        digest = hashlib.sha256(f"{self.seed}|{words}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.rate * 2**64

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`."""
        check_search(queries, top_k)
        return self._cut(queries, top_k, self.retriever.search(queries, 2 * top_k))

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[list[ScoredPassage]]:
        """Searches for tasks; see :class:`TaskRetriever`."""
        check_search(queries, top_k)
        found = search_with_tasks(self.retriever, queries, 2 * top_k, tasks)
        return self._cut(queries, top_k, found)

    def identity(self) -> dict[str, Any]:
        """Rate, seed and the identity of the retriever.

        Raises:
            ValueError: if the retriever has none.
        """
        parts = [retriever_identity(self.retriever)]
        corpus = getattr(self, "corpus", None)
        return identity_record(self, corpus, rate=self.rate, seed=self.seed, parts=parts)

    def with_fillers(self) -> MissingRetriever:
        """This retriever as environments of version 0 know it."""
        return MissingRetriever(with_fillers(self.retriever), self.rate, self.seed)

    def _cut(
        self, queries: Sequence[str], top_k: int, found: Sequence[list[ScoredPassage]]
    ) -> list[list[ScoredPassage]]:
        return [
            hits[top_k:] if self.is_miss(query) else hits[:top_k]
            for query, hits in zip(queries, found, strict=True)
        ]
