"""Answers of retrievers of one's own: strings, dicts and passages, and functions that search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.passage_records import content_id, parse_record

RIGHT_FORM: Final = (
    "give one list a query, best first, of strings, of dicts such as "
    '{"id": "7", "title": "Oslo", "text": "Oslo is the capital of Norway.", "score": 1.5} '
    "(id, title and score may be left out), or of passages "
    "(calibadv.Passage, calibadv_env.retrieval.base.ScoredPassage)"
)
"""What a retriever of one's own must return, for messages."""


class CalledRetriever:
    """A function of one's own as a retriever.

    ``search(query, top_k)`` gives the hits of one query, ``search(queries, top_k)`` a list of hits
    for each: the name of the first parameter decides.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Looks at the parameters; nothing is called yet.

        Raises:
            ValueError: if the function does not take a query and ``top_k``.
        """
        names = list(inspect.signature(function).parameters)
        if len(names) < 2:
            raise ValueError(
                "retriever must take a query and top_k, as in search(query, top_k) or "
                f"search(queries, top_k); got a function of {', '.join(names) or 'nothing'}"
            )
        self._function = function
        self._is_batched = names[0] == "queries"

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Calls the function.

        Raises:
            RetrieverError: if it fails, or returns something else than passages.
        """
        try:
            if self._is_batched:
                found = self._function(list(queries), top_k)
            else:
                found = [self._function(query, top_k) for query in queries]
        except RetrieverError:
            raise
        except Exception as error:
            name = getattr(self._function, "__name__", type(self._function).__name__)
            raise RetrieverError(f"{name} failed: {type(error).__name__}: {error}") from error
        return as_passages(found, len(queries), top_k)


def as_retriever(given: object) -> Retriever:
    """An object that searches, or a function, as a retriever.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(given, Retriever):
        return given
    if callable(given) and not isinstance(given, type):
        return CalledRetriever(given)
    raise ValueError(
        f"retriever must have a method search, got {type(given).__name__}; a function "
        "search(query, top_k) will do too"
    )


def as_passages(found: Any, num_queries: int, top_k: int) -> list[list[ScoredPassage]]:
    """The answers of a retriever, whatever form its hits have.

    Args:
        found: What it returned.
        num_queries: How many queries it was asked.
        top_k: Passages wanted; further ones are left out.

    Raises:
        RetrieverError: if it is something else; the message shows the right form.
    """
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Sequence):
        raise RetrieverError(f"retriever returned {_shown(found)}; {RIGHT_FORM}")
    if len(found) != num_queries:
        raise RetrieverError(
            f"retriever must answer all {num_queries} queries, got {len(found)} answers; "
            f"{RIGHT_FORM}"
        )
    return [_hits(each, top_k) for each in found]


def _hits(found: Any, top_k: int) -> list[ScoredPassage]:
    """The hits of one query."""
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Sequence):
        raise RetrieverError(f"retriever returned {_shown(found)} for a query; {RIGHT_FORM}")
    if isinstance(found, list) and all(type(hit) is ScoredPassage for hit in found):
        return found
    return [_hit(hit, rank) for rank, hit in enumerate(found[:top_k])]


def _hit(hit: Any, rank: int) -> ScoredPassage:
    """A hit; one without a score gets one that falls with its rank."""
    score = -float(rank)
    if isinstance(hit, ScoredPassage):
        return hit
    if isinstance(hit, Passage):
        return ScoredPassage(hit, score)
    if isinstance(hit, str):
        return ScoredPassage(Passage(content_id("", hit), "", hit), score)
    if isinstance(hit, Mapping):
        try:
            given = hit.get("score")
            return ScoredPassage(parse_record(hit), score if given is None else float(given))
        except (ValueError, TypeError) as error:
            text = f"retriever returned the hit {_shown(hit)}: {error}; {RIGHT_FORM}"
            raise RetrieverError(text) from error
    raise RetrieverError(f"retriever returned the hit {_shown(hit)}; {RIGHT_FORM}")


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.80}"
