"""Passages: the unit of retrieval, the form in which a policy reads them, and its parser. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from calibadv_env.info import DOCUMENTS_CLOSE, DOCUMENTS_OPEN, PassageText

HEAD: Final = r"Doc \d+\(Title:"
"""Pattern of :func:`passage_head`."""

NO_PASSAGES: Final = "No passages found."
"""Body of the observation after a search that found nothing."""

_OPENING: Final = re.compile(rf"<information>|<tool_response>|{re.escape(DOCUMENTS_OPEN)}")
_CLOSING: Final = re.compile(rf"</information>|</tool_response>|{re.escape(DOCUMENTS_CLOSE)}")
_DOC: Final = re.compile(r"(?:^|(?<=\n))[ \t]*(?:Doc(?:ument)?\s*|\[)(\d+)\]?[ \t]*(?=[(:\n\[\w])")
_MARKED: Final = re.compile(r"(?:^|(?<=\n))\((\d+)\)")
_TITLE: Final = re.compile(r"\(Title:[ \t]*")
_TITLE_KEYS: Final = ("title", "name")
_TEXT_KEYS: Final = ("text", "contents", "content", "snippet", "passage", "document", "body")
_LIST_KEYS: Final = ("result", "results", "passages", "documents", "output")


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


def passage_head(rank: int) -> str:
    """The beginning of a line of :func:`format_passages`, up to the title."""
    return f"Doc {rank}(Title:"


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


def parse_passages(observation: str) -> list[PassageText]:
    """Reads passages from the text of an observation: for logs, which have nothing else.

    Understood are ``Doc 1(Title: …) …`` as :func:`format_passages` and other systems write it,
    ``Doc 1: …`` and ``[1] …``, within ``<information>`` or ``<tool_response>`` or alone; the
    documents between markers of :func:`marked_documents`, whose titles cannot be told from their
    texts; lists of objects with a title and a text; the same inside the JSON object
    ``{"result": …}`` of verl's and SkyRL's tools.

    Args:
        observation: What came back after a search.

    Returns:
        Titles and texts in order. An observation in another form is one passage without a
        title; one without text is none, and so is :data:`NO_PASSAGES`.
    """
    starts = [found.start() for found in _OPENING.finditer(observation)]
    if not starts:
        return _of_block(observation.strip())
    ends = [*starts[1:], len(observation)]
    pieces = (observation[start:end] for start, end in zip(starts, ends, strict=True))
    return [passage for piece in pieces for passage in _of_piece(piece)]


def _of_piece(piece: str) -> list[PassageText]:
    """Passages of a block that begins with its opening tag.

    It reaches to the last closing tag, as the text of a passage may hold one.
    """
    opening = _OPENING.match(piece)
    start = opening.end() if opening else 0
    *_, end = (len(piece), *(found.start() for found in _CLOSING.finditer(piece)))
    body = piece[start:end].strip()
    if not piece.startswith(DOCUMENTS_OPEN):
        return _of_block(body)
    spans = _numbered(_MARKED, body)
    return [] if body == "None" else _cut(body, spans, lambda text: ("", text.strip()))


def _of_block(block: str) -> list[PassageText]:
    if block == NO_PASSAGES:
        return []
    if block[:1] in ("{", "["):
        try:
            return _of_value(json.loads(block))
        except (ValueError, RecursionError):
            pass
    return _cut(block, _numbered(_DOC, block), _titled)


def _cut(
    block: str, spans: Sequence[tuple[int, int]], read: Callable[[str], PassageText]
) -> list[PassageText]:
    """Passages of a block, given where each head begins and ends; without heads the whole."""
    if not spans:
        return [("", block)] if block else []
    ends = [*(start for start, _ in spans[1:]), len(block)]
    return [read(block[begin:end].strip()) for (_, begin), end in zip(spans, ends, strict=True)]


def _numbered(head: re.Pattern[str], block: str) -> list[tuple[int, int]]:
    """Where the heads of the passages 1, 2, … begin and end."""
    spans: list[tuple[int, int]] = []
    for found in head.finditer(block):
        if int(found.group(1)[:9]) == len(spans) + 1:
            spans.append(found.span())
    return spans


def _titled(part: str) -> PassageText:
    found = _TITLE.match(part)
    if found is None:
        head, newline, tail = part.removeprefix(":").strip().partition("\n")
        is_titled = newline and head.startswith('"') and head.endswith('"')
        whole = part.removeprefix(":").strip()
        return (head.strip('"'), tail.strip()) if is_titled else ("", whole)
    depth, position = 1, found.end()
    while position < len(part) and depth and part[position] != "\n":
        depth += (part[position] == "(") - (part[position] == ")")
        position += 1
    if depth:
        position = part.find(")", found.end()) + 1 or len(part)
    title = part[found.end() : position].removesuffix(")").strip().strip('"')
    return title, part[position:].strip()


def _of_value(value: Any) -> list[PassageText]:
    """Passages of a tool's result in JSON."""
    if isinstance(value, str):
        return _of_block(value.strip())
    if isinstance(value, Sequence):
        return [passage for each in value for passage in _of_value(each)]
    if not isinstance(value, Mapping):
        return []
    for key in _LIST_KEYS:
        if isinstance(value.get(key), str | list):
            return _of_value(value[key])
    inner = value.get("document")
    if isinstance(inner, Mapping):
        return _of_value(inner)
    title = next((value[key] for key in _TITLE_KEYS if isinstance(value.get(key), str)), "")
    text = next((value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)), "")
    if not title:
        return [_titled(text)] if text else []
    return [(title, text)]
