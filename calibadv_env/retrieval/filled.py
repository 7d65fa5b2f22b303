"""Retrievers that fill up what they find, as all did for environments of version 0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import ONLY_MATCHES, Retriever, check_search, retriever_identity

NO_MATCH: Final = 0.0
"""Score of a passage that only fills up."""


class FilledUp:
    """The passages that a retriever finds, filled up with the first others of its corpus.

    Scores, order and identity are those that the retriever had before it left passages without a
    match out, so recordings of that time go on to match.

    Args:
        retriever: A retriever with its passages at ``corpus``.
        score: Score of the passages that fill up; None takes the last score that was found.
    """

    def __init__(self, retriever: Any, score: float | None = NO_MATCH) -> None:
        self.retriever: Retriever = retriever
        self.corpus = retriever.corpus
        self.score = score

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; fewer than ``top_k`` only if the corpus is smaller."""
        count = check_search(queries, top_k, self.corpus)
        answers = self.retriever.search(queries, top_k)
        return [self._fill(*each, count) for each in zip(queries, answers, strict=True)]

    def identity(self) -> dict[str, Any]:
        """That of the retriever without the mark that it gives matches alone."""
        record = retriever_identity(self.retriever)
        return {name: value for name, value in record.items() if name != ONLY_MATCHES}

    def with_fillers(self) -> FilledUp:
        """This retriever itself."""
        return self

    def _fill(self, query: str, hits: list[ScoredPassage], count: int) -> list[ScoredPassage]:
        if self.score is not None and hits and hits[-1].score < self.score:
            # A passage without a match ranks above a match that counts against itself (Okapi), so
            # all matches must be known.
            [hits] = self.retriever.search([query], len(self.corpus))
        elif len(hits) >= count:
            return hits
        known = {hit.passage.id for hit in hits}
        last = hits[-1].score if hits else NO_MATCH
        score = last if self.score is None else self.score
        first = (self.corpus.passages[i] for i in range(min(count + len(known), len(self.corpus))))
        fillers = [ScoredPassage(passage, score) for passage in first if passage.id not in known]
        filled = [*hits, *fillers[:count]]
        return (filled if self.score is None else _in_order(filled, self.corpus))[:count]


def with_fillers(retriever: Retriever) -> Retriever:
    """The retriever as it answered environments of version 0.

    Those of this package that leave out passages without a match have a method ``with_fillers``;
    any other one is given back.
    """
    make = getattr(retriever, "with_fillers", None)
    filled: Retriever = make() if callable(make) else retriever
    return filled


def _in_order(hits: list[ScoredPassage], corpus: Any) -> list[ScoredPassage]:
    """Best first; where fillers tie with matches, in corpus order."""
    scores = [hit.score for hit in hits]
    if all(first > second for first, second in pairwise(scores)):
        return hits
    return sorted(hits, key=lambda hit: (-hit.score, corpus.index_of(hit.passage.id)))
