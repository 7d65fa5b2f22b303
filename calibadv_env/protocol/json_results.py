"""Passages in the JSON of other systems' search tools: found at any depth, by the names of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple


class FoundPassage(NamedTuple):
    """One passage of a result; title and link are "" where the result does not tell them."""

    title: str
    text: str
    link: str = ""


_LISTS: Final = (
    "result", "results", "organic", "organic_results", "items", "search_results", "searchResults",
    "webPages", "value", "web", "hits", "passages", "documents", "docs", "retrieved_documents",
    "data", "output", "records", "matches", "chunks", "references", "sources", "response",
    "content", "text",
)  # fmt: skip
TITLES: Final = ("title", "name", "page_title", "heading", "header", "document_title")
TEXTS: Final = (
    "text", "contents", "content", "snippet", "page_content", "pageContent", "passage",
    "passage_text", "paragraph", "paragraph_text", "document", "body", "description", "summary",
    "abstract", "chunk", "chunk_text", "raw_content", "markdown", "context",
)  # fmt: skip
_TEXT_LISTS: Final = ("snippets", "highlights", "excerpts", "sentences", "chunks")
LINKS: Final = ("url", "link", "href", "source_url", "docid", "doc_id", "id", "_id", "source")
_INNER: Final = ("document", "_source", "metadata", "meta", "node", "payload", "fields", "entity")

_MAX_DEPTH: Final = 12


def passages_in(
    value: Any, split: Callable[[str], Iterable[FoundPassage]], depth: int = 0
) -> list[FoundPassage]:
    """The passages in a value of JSON.

    Args:
        value: The value.
        split: Splits a text that holds passages itself, such as JSON inside of JSON.
        depth: How many values hold it.
    """
    if depth > _MAX_DEPTH:
        return []
    if isinstance(value, str):
        return list(split(value.strip()))
    if isinstance(value, Sequence):
        found = [passage for each in value for passage in passages_in(each, split, depth + 1)]
        return found or rows_of(value)
    if not isinstance(value, Mapping):
        return []
    found = _columns(value)
    if found:
        return found
    single = passage_of(value)
    if single is not None:
        return [single]
    for key in _LISTS:
        inner = value.get(key)
        if isinstance(inner, str | list | Mapping):
            passages = passages_in(inner, split, depth + 1)
            if passages:
                return passages
    rest = [each for key, each in value.items() if key not in _LISTS and _may_hold(each)]
    return [passage for each in rest for passage in passages_in(each, split, depth + 1)]


def _may_hold(value: Any) -> bool:
    """True for what may hold passages under any key: lists, objects, JSON in a text, or lines."""
    if isinstance(value, str):
        return value.lstrip()[:1] in ("{", "[") or "\n" in value.strip()
    return isinstance(value, list | Mapping)


def rows_of(value: Sequence[Any]) -> list[FoundPassage]:
    """A list of objects without a text, such as rows of a database, each as one passage."""
    rows = [each for each in value if isinstance(each, Mapping) and len(each) > 1]
    if len(rows) < len(value):
        return []
    texts = [
        "; ".join(f"{k}: {v}" for k, v in row.items() if isinstance(v, str | int | float))
        for row in rows
    ]
    return [
        FoundPassage("", text, text_at(row, LINKS))
        for row, text in zip(rows, texts, strict=True)
        if text
    ]


def passage_of(value: Mapping[str, Any]) -> FoundPassage | None:
    """An object that is one passage: with a text, and a title, a link or a score beside it."""
    inner = next((value[key] for key in _INNER if isinstance(value.get(key), Mapping)), None)
    flat = {**inner, **value} if inner is not None else value
    title = text_at(flat, TITLES)
    text = text_at(flat, TEXTS) or _joined(flat)
    link = text_at(flat, LINKS)
    is_result = any(isinstance(value.get(key), list | Mapping) for key in _LISTS[:16])
    if is_result and not (title and text):
        return None
    if not text:
        # A title by itself is a hit without a snippet if it has a link, else just any object.
        return FoundPassage(title, "", link) if title and link else None
    if not title and not link and "score" not in flat:
        return None
    if not title:
        title, text = quoted_title(text)
    return FoundPassage(title, text, link)


def _columns(value: Mapping[str, Any]) -> list[FoundPassage]:
    """Parallel lists, such as ``{"titles": [...], "texts": [...]}`` or Chroma's answer."""
    texts = next((value[key] for key in ("documents", "texts", "contents", "snippets", "passages")
                  if isinstance(value.get(key), list)), None)  # fmt: skip
    while isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], list):
        texts = texts[0]
    if not texts or not all(isinstance(each, str) for each in texts):
        return []
    given = value.get("titles")
    titles: list[Any] = given if isinstance(given, list) else []
    return [
        FoundPassage(title if isinstance(title, str) else "", text)
        for title, text in zip([*titles, *[""] * len(texts)], texts, strict=False)
    ]


def text_at(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of several keys whose value is a text or a number, as text; "" for none."""
    found = (value[key] for key in keys if isinstance(value.get(key), str | int))
    return next((str(each).strip() for each in found if str(each).strip()), "")


def _joined(value: Mapping[str, Any]) -> str:
    for key in _TEXT_LISTS:
        parts = value.get(key)
        if isinstance(parts, list) and parts and all(isinstance(each, str) for each in parts):
            return "\n".join(parts)
    return ""


def quoted_title(text: str) -> tuple[str, str]:
    """Title and text of a passage whose first line is its title in quotation marks."""
    head, newline, tail = text.partition("\n")
    if newline and len(head) > 1 and head[0] == head[-1] == '"':
        return head.strip('"').strip(), tail.strip()
    return "", text
