"""Searches that depend on the task behind a query: for retrievers that simulate a search engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import Retriever


class AskedTask(Protocol):
    """The part of a task that a retriever may look at."""

    @property
    def question(self) -> str:
        """The bare question."""
        ...

    @property
    def golden_answers(self) -> tuple[str, ...]:
        """Accepted answers, at least one."""
        ...


@runtime_checkable
class TaskRetriever(Retriever, Protocol):
    """A retriever that is told which task each query belongs to. Environments tell it."""

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[list[ScoredPassage]]:
        """Ranks passages for each query.

        Args:
            queries: Any text.
            top_k: Number of passages wanted, at least 1.
            tasks: For each query the task of the episode that it came from.

        Returns:
            One list a query, best first.

        Raises:
            RetrieverError: if the search could not be carried out.
        """
        ...


def search_with_tasks(
    retriever: Retriever, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
) -> list[list[ScoredPassage]]:
    """Searches, and tells the tasks to a retriever that takes them.

    Args:
        retriever: Any.
        queries: The queries.
        top_k: Number of passages wanted.
        tasks: The task of each query.

    Returns:
        One list a query.

    Raises:
        RetrieverError: if the search could not be carried out.
    """
    search_for = getattr(retriever, "search_for", None)
    if search_for is None:
        return retriever.search(queries, top_k)
    found: list[list[ScoredPassage]] = search_for(queries, top_k, tasks)
    return found
