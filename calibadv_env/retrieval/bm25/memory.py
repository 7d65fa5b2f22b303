"""The default retriever: BM25 by ``bm25s``, made deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import (
    ONLY_MATCHES,
    best_positions,
    check_search,
    identity_record,
    only_matches,
    take,
)
from calibadv_env.retrieval.bm25.postings import postings_of
from calibadv_env.retrieval.bm25.settings import Bm25Settings
from calibadv_env.retrieval.bm25.words import WordChoice, splitter, words_record
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.filled import FilledUp


class Bm25Retriever:
    """Scores with the Lucene variant of BM25 over lower-case words of two letters or more.

    English stop words are left out and nothing is stemmed. The scores are those of
    ``bm25s.BM25.retrieve``; the choice of the best is our own, because the library's breaks ties
    by the accidents of a partial sort. Equal scores stand in corpus order. A passage that holds no
    word of the query is not given, so a query without any word of the corpus finds nothing.

    The index is immutable after construction, so threads may share it, and it pickles.

    **Source:** Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework", in the
    variant that Kamphuis et al. (2020) call "Lucene (accurate)".

    Args:
        corpus: Passages to search.
        k1: How slowly repeated words saturate, at least 0.
        b: How much long passages are discounted, 0 to 1.
        words: Rules for words; "auto" chooses by the scripts of the corpus. The rules that were
            chosen are the attribute ``words``.

    Raises:
        ValueError: if ``k1`` or ``b`` is out of its range.
    """

    def __init__(
        self, corpus: Corpus, k1: float = 1.2, b: float = 0.75, words: WordChoice = "auto"
    ) -> None:
        settings = Bm25Settings(k1=k1, b=b, words=words).for_corpus(corpus.passages)
        self.corpus = corpus
        self.k1 = settings.k1
        self.b = settings.b
        self.words = settings.rules
        self._is_chosen = words != "auto"
        self._split = splitter(self.words)
        self._postings = postings_of(corpus, settings)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        A query that stands in the batch more than once is searched once.
        """
        count = check_search(queries, top_k, self.corpus)
        found = {query: self._search_one(query, count) for query in dict.fromkeys(queries)}
        return [list(found[query]) for query in queries]

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        settings = {"k1": self.k1, "b": self.b, ONLY_MATCHES: True, **words_record(self.words)}
        return identity_record(self, self.corpus, **settings)

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it: plain words, if none were chosen."""
        if self._is_chosen or self.words == "plain":
            return FilledUp(self)
        return FilledUp(self._plain)

    @cached_property
    def _plain(self) -> Bm25Retriever:
        return Bm25Retriever(self.corpus, self.k1, self.b, "plain")

    def _search_one(self, query: str, count: int) -> list[ScoredPassage]:
        passages = self.corpus.passages
        vocabulary = self._postings.words
        ids = [vocabulary[word] for word in self._split(query) if word in vocabulary]
        if not ids:
            return []
        scores = self._postings.sums(ids)
        return take(passages, only_matches(best_positions(scores, count)))
