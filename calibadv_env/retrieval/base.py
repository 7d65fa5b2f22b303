"""Interface of retrievers, the identity by which answers are recorded, and ranking with ties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.corpus import Corpus


@runtime_checkable
class Retriever(Protocol):
    """Answers a batch of queries.

    ``search`` is all that an environment needs. Three further methods are optional:

    * ``identity() -> dict``: everything that answers depend on, as plain JSON: kind, settings,
      hash of the corpus, identities of parts. Equal records must mean equal answers. Without it
      a retriever can neither be recorded nor cached, see :func:`retriever_identity`;
      :func:`identity_record` makes the usual one.
    * ``search_for(queries, top_k, tasks)``: see :class:`TaskRetriever`.
    * ``cache_key(query, task) -> str``: what one answer depends on besides the identity, where
      that is more than the query.
    """

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query.

        Args:
            queries: Any text, the empty string included.
            top_k: Number of passages wanted, at least 1.

        Returns:
            One list a query, best first, at most ``top_k`` long. It is shorter where fewer
            passages match, and empty where none does: a lexical retriever gives no passage that
            holds no word of the query. Ties are broken by corpus order, so the answer is
            deterministic and does not depend on which queries share the batch.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if the search could not be carried out.
        """
        ...


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
        """Ranks passages as :meth:`search` does; ``tasks`` holds that of each query's episode.

        Raises:
            RetrieverError: if the search could not be carried out.
        """
        ...


def search_with_tasks(
    retriever: Retriever, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
) -> list[list[ScoredPassage]]:
    """Searches, and tells the task of each query to a retriever that takes tasks.

    Raises:
        RetrieverError: if the search could not be carried out.
    """
    search_for = getattr(retriever, "search_for", None)
    if search_for is None:
        return retriever.search(queries, top_k)
    found: list[list[ScoredPassage]] = search_for(queries, top_k, tasks)
    return found


ONLY_MATCHES: Final = "only_matches"
"""Key of the identities of retrievers that give no passage without a match. Recordings of answers
that were filled up lack it, so they are not taken for answers of these."""


def check_search(queries: Sequence[str], top_k: int, corpus: Corpus | None = None) -> int:
    """Checks the arguments of a search; gives the number of passages that it has to find.

    That is ``top_k``, or the size of a smaller corpus, where one is at hand.

    Raises:
        ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
    """
    if isinstance(queries, str):
        raise ValueError(f"queries must be a sequence of strings, got the string {queries[:40]!r}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    return top_k if corpus is None else min(top_k, len(corpus))


def has_identity(retriever: object) -> bool:
    """True if a retriever has a method ``identity``; it is not called, so no server is asked."""
    return callable(getattr(retriever, "identity", None))


def retriever_identity(retriever: Retriever) -> dict[str, Any]:
    """Identity of a retriever: everything that its answers depend on, as a record for JSON.

    Equal records mean equal answers. The retriever has a method ``identity() -> dict``.

    Raises:
        ValueError: if the retriever has no such method. Its settings could not be told from
            another one's, so it would be given answers that are not its own.
        RetrieverError: if the retriever has to ask a server for it and cannot.
    """
    if not has_identity(retriever):
        raise ValueError(
            f"retriever {type(retriever).__name__} has no method identity(), so its answers cannot "
            "be recorded or cached: define identity() -> dict with everything that they depend on "
            "(kind, settings, corpus; calibadv_env.retrieval.base.identity_record makes one)"
        )
    return dict(retriever.identity())  # type: ignore[attr-defined]


def identity_record(
    retriever: Retriever, corpus: Corpus | None = None, **settings: Any
) -> dict[str, Any]:
    """The usual identity of a retriever: ``kind``, its settings, hash and size of its corpus.

    Args:
        retriever: The retriever.
        corpus: Searched passages; None where only parts know them.
        settings: Everything else that answers depend on, as plain JSON.
    """
    record: dict[str, Any] = {"kind": type(retriever).__name__, **settings}
    if corpus is not None:
        record |= {"corpus_sha256": corpus.sha256, "num_passages": len(corpus)}
    return record


Hits: TypeAlias = list[tuple[int, float]]
"""Positions in the corpus with their scores, best first."""


def only_matches(hits: Hits) -> Hits:
    """Hits without those whose score is 0: passages that hold no word of the query, or none."""
    if hits and hits[-1][1] > 0:
        return hits
    return [hit for hit in hits if hit[1] > 0]


_SPARE: Final = 8
_FEW: Final = 16


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> Hits:
    """Positions and scores of the best of an array, equal ones by position; spoils the array.

    Args:
        scores: One score a passage; overwritten.
        count: How many to pick, 1 to ``len(scores)``.
    """
    best: Hits = []
    # For a few, argmax again and again beats a partial sort, and finds the first of equal scores.
    if count <= _FEW:
        for _ in range(count):
            position = int(scores.argmax())
            best.append((position, float(scores[position])))
            scores[position] = -np.inf
        return best
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    better = np.flatnonzero(scores > threshold)
    better = better[np.argsort(-scores[better], kind="stable")]
    equal = np.flatnonzero(scores == threshold)[: count - len(better)]
    chosen = np.concatenate((better, equal))
    return list(zip(chosen.tolist(), scores[chosen].tolist(), strict=True))


def first_limit(count: int, limit: int) -> int:
    """Number of hits that :func:`with_ties` fetches first.

    A few more than are wanted, so that one fetch mostly suffices.
    """
    return min(count + _SPARE, limit)


def with_ties(fetch: Callable[[int], Sequence[tuple[int, float]]], count: int, limit: int) -> Hits:
    """Makes the order of an engine that breaks ties as it likes that of the corpus.

    More is fetched than is wanted, until the last score fetched is worse than the last that
    counts; then equal scores are sorted by position.

    Args:
        fetch: Gives the best so many positions with their scores, best first, or fewer if there
            are no more.
        count: How many are wanted.
        limit: How many there can be at most.

    Returns:
        At most ``count`` positions and scores, best first, ties by position.
    """
    wanted = first_limit(count, limit)
    # Equal scores may go on past what was fetched, so only a worse last score ends the search.
    while True:
        found = fetch(wanted)
        is_all = len(found) < wanted or wanted >= limit
        if is_all or found[-1][1] < found[count - 1][1]:
            return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:count]
        wanted = min(4 * wanted, limit)


def take(passages: Sequence[Passage], hits: Iterable[tuple[int, float]]) -> list[ScoredPassage]:
    """Fetches the passages of positions."""
    return [ScoredPassage(passages[position], score) for position, score in hits]
