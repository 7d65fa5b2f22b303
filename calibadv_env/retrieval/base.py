"""What a passage is, and what a retriever promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Passage:
    """One unit of retrieval.

    Attributes:
        id: Unique within its corpus.
        title: May be empty.
        text: The body.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A passage with the score that ranked it; higher is better."""

    passage: Passage
    score: float


@runtime_checkable
class Retriever(Protocol):
    """Answers a batch of queries."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query.

        Args:
            queries: Any text, the empty string included.
            top_k: Number of passages wanted, at least 1.

        Returns:
            One list a query, best first, at most ``top_k`` long and shorter only if the corpus
            is. Ties are broken by corpus order, so the answer is deterministic and does not
            depend on which queries share the batch.

        Raises:
            RetrieverError: if the search could not be carried out.
        """
        ...
