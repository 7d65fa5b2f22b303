"""Passages in the observations of a log: their titles, their texts, and names for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Passage = tuple[str, str]
"""Title and text."""

MIN_CUT_CHARS: Final = 20
"""Least text of a passage that was cut off by which the whole one can be told."""

_BLOCK: Final = re.compile(
    r"<information>(.*?)(?:</information>|$)|<tool_response>(.*?)(?:</tool_response>|$)", re.S
)
_DOC: Final = re.compile(r"(?:^|(?<=\n))[ \t]*(?:Doc(?:ument)?\s*|\[)(\d+)\]?[ \t]*(?=[(:\n\[\w])")
_TITLE: Final = re.compile(r"\(Title:[ \t]*")
_TITLE_KEYS: Final = ("title", "name")
_TEXT_KEYS: Final = ("text", "contents", "content", "snippet", "passage", "document", "body")


def split_passages(observation: str) -> list[Passage]:
    """Takes the passages of an observation apart.

    ``Doc 1(Title: …) …`` as Search-R1 and verl write it, ``Doc 1: …`` and ``[1] …``, within
    ``<information>`` or ``<tool_response>`` or alone; lists of objects with a title and a text;
    the same inside the JSON object ``{"result": …}`` of verl's and SkyRL's tools.

    Args:
        observation: What came back after a search.

    Returns:
        Titles and texts in order. An observation in another form is one passage without a
        title; one without text is none.
    """
    blocks = [first or second for first, second in _BLOCK.findall(observation)] or [observation]
    return [passage for block in blocks for passage in _of_block(block.strip())]


def _of_block(block: str) -> list[Passage]:
    if block[:1] in ("{", "["):
        try:
            return _of_value(json.loads(block))
        except (ValueError, RecursionError):
            pass
    starts = _numbered(block)
    if not starts:
        return [("", block)] if block else []
    ends = [*(start for start, _ in starts[1:]), len(block)]
    return [_titled(block[begin:end].strip()) for (_, begin), end in zip(starts, ends, strict=True)]


def _numbered(block: str) -> list[tuple[int, int]]:
    """Where the passages 1, 2, … begin: before their number and behind it."""
    starts: list[tuple[int, int]] = []
    for found in _DOC.finditer(block):
        if int(found.group(1)[:9]) == len(starts) + 1:
            starts.append(found.span())
    return starts


def _titled(part: str) -> Passage:
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


def _of_value(value: Any) -> list[Passage]:
    """Passages of a tool's result in JSON."""
    if isinstance(value, str):
        return _of_block(value.strip())
    if isinstance(value, Sequence):
        return [passage for each in value for passage in _of_value(each)]
    if not isinstance(value, Mapping):
        return []
    for key in ("result", "results", "passages", "documents", "output"):
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


def passage_id(passage: Passage) -> str:
    """A name for a passage: the first 16 digits of the SHA-256 of its title and text.

    White space does not count.
    """
    title, text = (" ".join(part.split()) for part in passage)
    return hashlib.sha256(f"{title}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def name_passages(observations: Iterable[Sequence[Passage]]) -> list[tuple[str, ...]]:
    """Names the passages of a group, so that one that was cut off has the name of the whole.

    A log may cut an observation at a number of tokens, so its last passage may end early. It is
    taken for the longest passage of the same title that begins with its text.

    Args:
        observations: The passages of every turn of the group.

    Returns:
        The ids of each turn's passages, in order.
    """
    turns = [list(passages) for passages in observations]
    by_title: dict[str, set[str]] = {}
    for passages in turns:
        for title, text in passages:
            by_title.setdefault(title, set()).add(text)
    whole = {
        title: sorted(texts, key=lambda text: (len(text), text))
        for title, texts in by_title.items()
    }
    named = []
    for passages in turns:
        if passages:
            passages[-1] = _completed(passages[-1], whole[passages[-1][0]])
        named.append(tuple(passage_id(passage) for passage in passages))
    return named


def _completed(passage: Passage, texts: Sequence[str]) -> Passage:
    title, text = passage
    start = text.rstrip("\ufffd").rstrip()
    if len(start) < MIN_CUT_CHARS:
        return passage
    longer = [other for other in texts if len(other) > len(text) and other.startswith(start)]
    return (title, longer[-1]) if longer else passage
