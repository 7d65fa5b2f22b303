"""The reference implementation of BM25, for comparison on small corpora."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import bm25s
import numpy as np

from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import ONLY_MATCHES, check_search, identity_record, take
from calibadv_env.retrieval.bm25.settings import STOP_WORDS, Bm25Settings
from calibadv_env.retrieval.bm25.words import (
    WordChoice,
    WordRules,
    split_unicode,
    words_record,
)
from calibadv_env.retrieval.corpus import Corpus, indexed_text
from calibadv_env.retrieval.filled import FilledUp

_STOP_WORDS: Final = frozenset(STOP_WORDS)
MAX_PASSAGES: Final = 200_000
"""A linear scan beyond this size takes over half a second and gigabytes of memory a query."""


class RankBm25Retriever:
    """``rank_bm25.BM25Okapi`` over the same words that :class:`Bm25Retriever` sees.

    **Differs** from :class:`Bm25Retriever` in the formula alone: term frequencies are multiplied
    by ``k1 + 1``, and the idf is Okapi's, which is negative for a word in more than half of the
    passages and is then raised to a quarter of the mean. Orders differ on common words.

    Args:
        corpus: Passages to search, at most 200,000 passages.
        k1: How slowly repeated words saturate, at least 0.
        b: How much long passages are discounted, 0 to 1.
        words: Rules for words; "auto" chooses by the scripts of the corpus.

    Raises:
        ValueError: if ``k1`` or ``b`` is out of its range, or the corpus is too large.
        MissingDependencyError: if the package ``rank-bm25`` is not installed.
    """

    def __init__(
        self, corpus: Corpus, k1: float = 1.2, b: float = 0.75, words: WordChoice = "auto"
    ) -> None:
        settings = Bm25Settings(k1=k1, b=b, words=words)
        self._settings = settings = settings.for_corpus(corpus.passages)
        self._is_chosen = words != "auto"
        if len(corpus) > MAX_PASSAGES:
            raise ValueError(
                f"a corpus for 'rank_bm25' must have at most {MAX_PASSAGES:,} passages, got "
                f"{len(corpus):,}; take 'bm25' instead"
            )
        package = import_extra("rank_bm25", "rank-bm25", "the retriever 'rank_bm25'")
        self.corpus = corpus
        texts = [indexed_text(passage) for passage in corpus]
        bodies = _words(texts, settings.rules)
        self._index: Any = (
            package.BM25Okapi(bodies, k1=settings.k1, b=settings.b) if any(bodies) else None
        )

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`."""
        count = check_search(queries, top_k, self.corpus)
        return [self._search_one(words, count) for words in _words(queries, self._settings.rules)]

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        # Recordings from before k1 and b were part of it go on to match where these are the usual.
        k1, b = self._settings.k1, self._settings.b
        usual = Bm25Settings()
        settings = {} if (k1, b) == (usual.k1, usual.b) else {"k1": k1, "b": b}
        settings |= {ONLY_MATCHES: True, **words_record(self._settings.rules)}
        return identity_record(self, self.corpus, **settings)

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        if self._is_chosen or self._settings.rules == "plain":
            return FilledUp(self)
        return FilledUp(
            RankBm25Retriever(self.corpus, self._settings.k1, self._settings.b, "plain")
        )

    def _search_one(self, words: list[str], count: int) -> list[ScoredPassage]:
        if self._index is None:
            return []
        scores = np.asarray(self._index.get_scores(words))
        # The score of a match may be 0 or less here, so it does not tell what matches.
        counts = enumerate(self._index.doc_freqs)
        matches = np.array([i for i, held in counts if not held.keys().isdisjoint(words)], np.intp)
        best = matches[np.argsort(-scores[matches], kind="stable")[:count]]
        return take(self.corpus.passages, [(int(i), float(scores[i])) for i in best])


def _words(texts: Sequence[str], rules: WordRules) -> list[list[str]]:
    if rules == "unicode":
        split = (split_unicode(text) for text in texts)
        return [[word for word in found if word not in _STOP_WORDS] for found in split]
    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="english", return_ids=False, show_progress=False
    )
    return words
