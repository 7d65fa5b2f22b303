"""Names for the passages of a log, which tells their titles and texts alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from calibadv_env.info import PassageText

MIN_CUT_CHARS: Final = 20
"""Least text of a passage that was cut off by which the whole one can be told."""


def passage_id(passage: PassageText) -> str:
    """A name for a passage: the first 16 digits of the SHA-256 of its title and text.

    White space does not count.
    """
    title, text = (" ".join(part.split()) for part in passage)
    return hashlib.sha256(f"{title}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def name_passages(observations: Iterable[Sequence[PassageText]]) -> list[tuple[str, ...]]:
    """Ids of each turn's passages in a group; one that was cut off has the name of the whole.

    A log may cut an observation at a number of tokens, so its last passage may end early. It is
    taken for the longest passage of the same title that begins with its text.
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


def _completed(passage: PassageText, texts: Sequence[str]) -> PassageText:
    title, text = passage
    start = text.rstrip("\ufffd").rstrip()
    if len(start) < MIN_CUT_CHARS:
        return passage
    longer = [other for other in texts if len(other) > len(text) and other.startswith(start)]
    return (title, longer[-1]) if longer else passage
