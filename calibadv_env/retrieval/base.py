"""What a passage is, and what a retriever promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from calibadv_env.protocol.passages import ScoredPassage


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
