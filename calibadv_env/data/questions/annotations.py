"""Answers of annotators: AmbigNQ's readings of a question, Natural Questions' spans. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_YES_NO: Final = {0: "no", 1: "yes", "NO": "no", "YES": "yes"}


def annotated(record: Mapping[str, Any], annotations: Any) -> list[str]:
    """The answers of all annotators, each once; none where they gave only a long one."""
    notes = [annotations] if isinstance(annotations, Mapping) else annotations
    found = [text for note in notes if isinstance(note, Mapping) for text in _of(record, note)]
    return list(dict.fromkeys(found))


def _of(record: Mapping[str, Any], note: Mapping[str, Any]) -> Iterator[str]:
    yield from _texts(note.get("answer"))
    pairs = note.get("qaPairs") or ()
    for pair in [pairs] if isinstance(pairs, Mapping) else pairs:
        if isinstance(pair, Mapping):
            yield from _texts(pair.get("answer"))
    spans = note.get("short_answers") or ()
    for span in [spans] if isinstance(spans, Mapping) else spans:
        if not isinstance(span, Mapping):
            continue
        yield from _texts(span.get("text")) if span.get("text") else _tokens(record, span)
    said = note.get("yes_no_answer")
    for word in said if isinstance(said, list) else [said]:
        if isinstance(word, (str, int)) and word in _YES_NO:
            yield _YES_NO[word]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _tokens(record: Mapping[str, Any], span: Mapping[str, Any]) -> Iterator[str]:
    """A span by its tokens, as the simplified form of Natural Questions gives it."""
    text, begin, end = (record.get("document_text"), span.get("start_token"), span.get("end_token"))
    if isinstance(text, str) and isinstance(begin, int) and isinstance(end, int):
        words = [word for word in text.split(" ")[begin:end] if not word.startswith("<")]
        yield from _texts(" ".join(words))
