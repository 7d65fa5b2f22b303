"""Text of the World Factbook made plain: no marks, one line a field. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

_BREAK: Final = re.compile(r"(?:\s*<(?:br|p|/p)\b[^>]*>\s*)+")
_TAG: Final = re.compile(r"</?(?:strong|em|b|small|p)\b[^>]*>|<!--.*?-->")
_STRAY: Final = re.compile(r"[<>]")
_NOT_SLUG: Final = re.compile(r"[^a-z0-9]+")
_IN_PARENTHESES: Final = re.compile(r"\s*\([^()]*\)")


def plain(text: str) -> str:
    """A value on one line, without marks; what stood on lines of its own follows a blank."""
    if "<" not in text and "&" not in text and "](" not in text:
        return " ".join(text.split())
    text = html.unescape(text)
    text = _TAG.sub("", _BREAK.sub(" ", text))
    # Angle brackets are left for the grammar of actions; square ones with round ones mark links.
    text = _STRAY.sub("", text).replace("](", "] (")
    return " ".join(text.split())


@cache
def slug(name: str) -> str:
    """A name in an id: lower-case letters and digits, with hyphens between words."""
    folded = unicodedata.normalize("NFKD", _IN_PARENTHESES.sub("", name))
    kept = "".join(char for char in folded if not unicodedata.combining(char)).lower()
    return _NOT_SLUG.sub("-", kept.replace("'", "").replace("’", "")).strip("-")


def parts_of(field: Any) -> dict[str, str]:
    """The parts of a field by name, "" for a value without one; parts without text are left out."""
    if isinstance(field, str):
        field = {"text": field}
    if not isinstance(field, Mapping):
        return {}
    parts: dict[str, str] = {}
    for name, value in field.items():
        text = value.get("text") if isinstance(value, Mapping) else value
        words = plain(text) if isinstance(text, str) else ""
        if words:
            parts["" if name == "text" else label(name)] = words
    return parts


@cache
def label(name: str) -> str:
    """The name of a part: only the last of the levels that it repeats."""
    levels = [level.strip() for level in name.split(":")]
    return plain(next((level for level in reversed(levels) if level), ""))


def joined(parts: Mapping[str, str], title: str = "") -> str:
    """A field on one line: ``name: value; name: value``.

    Args:
        parts: The parts by name.
        title: The title of the field, which names of parts need not repeat.
    """
    texts = []
    for full, value in parts.items():
        name = full.removeprefix(title).strip() if title else full
        bare = not name or value.lower().startswith(("note:", "note 1:", f"{name.lower()}:"))
        texts.append(value if bare else f"{name}: {value}")
    return "; ".join(text.rstrip(";") for text in texts)
