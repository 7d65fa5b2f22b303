"""Paragraphs that a record of a question carries, and which of them it names as evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from calibadv_env.common.records.keys import is_blank, is_missing
from calibadv_env.common.records.values import parsed_literal
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.passage_records import content_id, parse_record

PARAGRAPH_KEYS: Final = (
    "context",
    "contexts",
    "paragraphs",
    "ctxs",
    "passages",
    "documents",
    "docs",
    "positive_ctxs",
    "negative_ctxs",
    "hard_negative_ctxs",
    "gold_docs",
    "evidence_docs",
    "negative_docs",
    "entity_pages",
    "search_results",
)
"""Keys under which a record keeps paragraphs or whole documents."""

_SUPPORTING: Final = ("is_supporting", "is_gold", "is_selected", "isSupporting")
_TEXTS: Final = ("wiki_context", "search_context", "passage_text", "context")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of a record.

    Attributes:
        passage: It as a passage; its id is the document's own where ``docid`` gives one, else
            depends on title and text alone.
        sentences: Its sentences, where the record has them apart.
        index: What the record calls it, such as MuSiQue's ``idx``; else its place.
        is_supporting: What the record says of it; None if nothing.
        key: The key that it stood under.
    """

    passage: Passage
    sentences: tuple[str, ...]
    index: int
    is_supporting: bool | None
    key: str


def paragraphs_of(record: Mapping[str, Any]) -> list[Paragraph]:
    """The paragraphs of a record, in order; what is no paragraph is passed over."""
    found: list[Paragraph] = []
    for key in PARAGRAPH_KEYS:
        value = record.get(key)
        if isinstance(value, str):
            parsed = parsed_literal(value)
            if isinstance(parsed, (list, dict)):
                value = parsed
            elif key == "context" and not is_blank(value):
                title = record.get("title")
                title = title if isinstance(title, str) else ""
                found.append(_paragraph(key, 0, title, value.strip()))
                continue
        if isinstance(value, Mapping):
            found += _from_columns(key, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found += (p for i, item in enumerate(value) if (p := _from_item(key, i, item)))
    return found


def passage_of(title: str, text: str) -> Passage:
    """A passage whose id depends on title and text alone."""
    return Passage(content_id(title, text), title, text)


def _paragraph(
    key: str,
    index: int,
    title: str,
    text: str,
    sentences: Sequence[str] = (),
    is_supporting: bool | None = None,
) -> Paragraph:
    return Paragraph(passage_of(title, text), tuple(sentences), index, is_supporting, key)


def _from_columns(key: str, value: Mapping[str, Any]) -> Iterator[Paragraph]:
    """Columns: HotpotQA's on the hub, MS MARCO's, TriviaQA's pages."""
    sentences = value.get("sentences", value.get("content"))
    titles = value.get("title")
    if isinstance(titles, list) and isinstance(sentences, list):
        for index, (title, body) in enumerate(zip(titles, sentences, strict=False)):
            article = _from_item(key, index, [title, body])
            if article:
                yield article
        return
    if isinstance(value.get("contexts"), list):  # PubMedQA's
        for index, text in enumerate(value["contexts"]):
            if isinstance(text, str) and not is_blank(text):
                yield _paragraph(key, index, "", text.strip())
        return
    texts = next((value[k] for k in _TEXTS if isinstance(value.get(k), list)), None)
    if texts is None:
        return
    chosen = value.get("is_selected")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or is_blank(text):
            continue
        title = titles[index] if isinstance(titles, list) and index < len(titles) else ""
        marked = None
        if isinstance(chosen, list) and index < len(chosen):
            marked = bool(chosen[index])
        yield _paragraph(
            key, index, title if isinstance(title, str) else "", text.strip(), (), marked
        )


def _from_item(key: str, index: int, item: Any) -> Paragraph | None:
    """One paragraph: a pair of title and sentences, a text, or an object."""
    if isinstance(item, str):
        # A name without a blank is the id of a document, not its text.
        return _paragraph(key, index, "", item.strip()) if " " in item.strip() else None
    if isinstance(item, (list, tuple)):
        if len(item) != 2 or not isinstance(item[0], str):
            return None
        title, body = item
        sentences = [body] if isinstance(body, str) else body
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            return None
        text = joined(sentences)
        return _paragraph(key, index, title, text, sentences) if text else None
    if not isinstance(item, Mapping) or "qas" in item:
        return None
    marks = [item[name] for name in _SUPPORTING if not is_missing(item.get(name))]
    marked = bool(marks[0]) if marks else None
    number = item.get("idx", index)
    try:
        passage = parse_record(item)
    except ValueError:
        return None
    if is_blank(passage.text):
        return None
    sentences = item.get("sentences")
    sentences = sentences if isinstance(sentences, list) else []
    own = _document_id(item)
    text = passage.text.strip()
    passage = passage_of(passage.title, text) if own is None else Passage(own, passage.title, text)
    number = number if isinstance(number, int) else index
    return Paragraph(
        passage, tuple(s for s in sentences if isinstance(s, str)), number, marked, key
    )


def _document_id(item: Mapping[str, Any]) -> str | None:
    """The id of a document of a corpus; the ``id`` of a paragraph may count within its record."""
    for name in ("docid", "doc_id", "document_id", "passage_id", "psg_id"):
        value = item.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def joined(sentences: Sequence[str]) -> str:
    """Sentences as one text, each apart from the next by one blank."""
    return " ".join(sentence.strip() for sentence in sentences if not is_blank(sentence))
