"""Answers that name one of several choices, by number or by letter. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from calibadv_env.common.records.values import parsed_literal

LETTERS: Final = (
    "answer_key",
    "correct_option",
    "correct_choice",
    "cop",
    "answer_letter",
    "answer_index",
    "answer_idx",
)
"""Keys that hold nothing but the letter or number of a choice."""

_LETTER: Final = re.compile(r"\(?([A-J])[).]?")


def choice_of(record: Mapping[str, Any], answer: Any) -> str:
    """The text of the choice that a number or a letter names, as in MMLU, MedQA, ARC.

    Returns:
        The text; "" if the record has no choices, the answer names none, or is one itself.
    """
    texts, labels = choices_in(record)
    if not texts or isinstance(answer, bool):
        return ""
    if isinstance(answer, int):
        return texts[answer] if 0 <= answer < len(texts) else ""
    if not isinstance(answer, str) or answer.strip() in texts:
        return ""
    name = answer.strip()
    if name in labels:
        return texts[labels.index(name)]
    letter = _LETTER.fullmatch(name)
    place = ord(letter.group(1)) - ord("A") if letter and not labels else len(texts)
    return texts[place] if place < len(texts) else ""


def choices_in(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The texts of a record's choices and, where it names them, their labels."""
    question = record.get("question")
    holders = (record, question) if isinstance(question, Mapping) else (record,)
    value = next((h[k] for h in holders for k in ("choices", "options") if h.get(k)), None)
    if isinstance(value, str):
        value = parsed_literal(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = [
            {"label": label, "text": text}
            for label, text in zip(value.get("label") or (), value["text"], strict=False)
        ]
    elif isinstance(value, Mapping):
        value = [{"label": key, "text": text} for key, text in value.items()]
    if not isinstance(value, list) or not value:
        return [], []
    if all(isinstance(item, str) for item in value):
        return value, []
    pairs = [
        (str(item.get("label", item.get("key", ""))), item.get("text", item.get("value")))
        for item in value
        if isinstance(item, Mapping)
    ]
    if len(pairs) != len(value) or not all(isinstance(text, str) for _, text in pairs):
        return [], []
    return [text for _, text in pairs], [label for label, _ in pairs]
