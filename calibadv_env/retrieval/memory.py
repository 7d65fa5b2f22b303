"""A retriever that looks its answers up, for tests and for timing everything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.backends import Backend
from calibadv_env.retrieval.base import ONLY_MATCHES, check_search, identity_record
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.filled import FilledUp


class MemoryRetriever:
    """A table of known queries and their passages, in the order given.

    The k-th of them scores ``1/k``; an unknown query finds nothing. Without any answers it stands
    for a search that takes no time: every query gets the first passages at the score 0.

    Args:
        corpus: Passages to search.
        answers: For each known query the ids of its passages, best first.

    Raises:
        ValueError: if an id is not in the corpus or stands twice in a list.
    """

    def __init__(self, corpus: Corpus, answers: Mapping[str, Sequence[str]] | None = None) -> None:
        self.corpus = corpus
        self._answers: dict[str, tuple[int, ...]] = {}
        for query, ids in (answers or {}).items():
            for passage_id in ids:
                if passage_id not in corpus:
                    raise ValueError(
                        f"answers to {query!r} must be in the corpus, got {passage_id!r}"
                    )
            if len(set(ids)) != len(ids):
                raise ValueError(f"answers to {query!r} must be distinct, got {list(ids)!r}")
            self._answers[query] = tuple(corpus.index_of(passage_id) for passage_id in ids)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`."""
        count = check_search(queries, top_k, self.corpus)
        return [self._search_one(query, count) for query in queries]

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        if not self._answers:
            return identity_record(self, self.corpus)
        text = json.dumps(sorted(self._answers.items()))
        answers_sha256 = hashlib.sha256(text.encode("ascii")).hexdigest()
        settings = {"answers_sha256": answers_sha256, ONLY_MATCHES: True}
        return identity_record(self, self.corpus, **settings)

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        return FilledUp(self)

    def _search_one(self, query: str, count: int) -> list[ScoredPassage]:
        passages = self.corpus.passages
        if not self._answers:
            return [ScoredPassage(passages[i], 0.0) for i in range(count)]
        known = self._answers.get(query, ())[:count]
        return [ScoredPassage(passages[i], 1.0 / k) for k, i in enumerate(known, start=1)]


BACKENDS: Final = (Backend(name="memory", build=MemoryRetriever),)
