"""Passages: the unit of retrieval, and the printed form in which a policy reads it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibadv_env.info import (
    DOCUMENTS_CLOSE,
    DOCUMENTS_OPEN,
)


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


def format_passages(passages: Sequence[ScoredPassage]) -> str:
    """Passages as a policy reads them.

    Args:
        passages: In rank order.

    Returns:
        A line ``Doc k(Title: …) …`` for the k-th passage, counted from 1.
    """
    return "".join(
        [
            f"Doc {rank}(Title: {scored.passage.title}) {scored.passage.text}\n"
            for rank, scored in enumerate(passages, start=1)
        ]
    )


def marked_documents(passages: Sequence[ScoredPassage], max_chars: int | None = None) -> str:
    """Passages between the markers of R1-Searcher.

    Args:
        passages: In rank order.
        max_chars: Most characters of the passages, None for all.

    Returns:
        Lines ``(k)title text`` between the markers, with ``None`` in place of no passage. What
        is cut, both markers stand.
    """
    body = "".join(
        f"({rank}){' '.join((scored.passage.title, scored.passage.text)).strip()}\n"
        for rank, scored in enumerate(passages, start=1)
    )
    body = (body or "None\n")[:max_chars]
    return f"\n\n{DOCUMENTS_OPEN}\n{body}{DOCUMENTS_CLOSE}\n\n"


def information_block(body: str, *, compact: bool, max_chars: int | None = None) -> str:
    """Wraps search results in their tags.

    Args:
        body: The formatted passages.
        compact: Whether to write nothing round the tags; otherwise the body is stripped and
            the block stands between blank lines, as in Search-R1.
        max_chars: Most characters of the body, None for all.

    Returns:
        The block. Whatever is cut from the body, its closing tag stands.
    """
    if not compact:
        body = body.strip()
    if max_chars is not None:
        body = body[:max_chars]
    block = f"<information>{body}</information>"
    return block if compact else f"\n\n{block}\n\n"
