"""Accepted answers from whatever a record keeps them in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from calibadv_env.common.records.keys import (
    ALIASES,
    ANSWERS,
    RIVALS,
    SAID,
    at_path,
    find_key,
    is_blank,
    is_missing,
    keys_of,
    number_text,
    squashed,
)
from calibadv_env.common.records.values import UNREADABLE, parsed_literal
from calibadv_env.data.questions.annotations import annotated
from calibadv_env.data.questions.choices import LETTERS, choice_of

_SQUASHED_ALIASES: Final = frozenset(map(squashed, ALIASES))
_CERTAIN: Final = tuple(
    name for name in ANSWERS if name not in ("label", "reference", "references", "output", "a")
)
_RIVALS: Final = frozenset(map(squashed, RIVALS))
HOLDERS: Final = ("reward_model", "reward_spec", "extra_info", "metadata")
"""Objects of verl, SkyRL and others in which the answers may stand."""
_MANY: Final = ("answers", "possibleanswers", "golds", "targets", "references")
_NUMBERED: Final = re.compile(r"(?:gold(?:en)?_?)?answers?_?\d+", re.I)
_REASONED: Final = re.compile(r"\n####[ \t]*(\S[^\n]*?)\s*$")
"""GSM8K's answer behind its reasoning."""
_BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_PARTS: Final = (
    "text",
    "value",
    "target",
    "ground_truth",
    "golden_answers",
    "answers",
    "answer",
    "spans",
    "number",
    "span",
    "name",
    "label",
    "entity_name",
    "wikidata_label",
    "answer_argument",
    "answer_spans",
    "answer_value",
)
_OTHERS: Final = ("aliases", "Aliases", "answer_aliases", "HumanAnswers")
_MARKER: Final = re.compile(r"<\|[A-Za-z_]+\|>")
"""A sign made for parting texts, such as DeepResearcher's ``<|answer_split|>``."""


def find_answers(
    record: Mapping[str, Any], column: str | None, separator: str
) -> tuple[str, list[str]]:
    """The accepted answers of a record, and the key that they were found under.

    Args:
        record: A record.
        column: Key, or path of keys, that the user names; None looks under the usual names.
        separator: Stands between answers in one text; "" where a text is one answer.

    Returns:
        Key and answers, which are blank or none where the record has none.

    Raises:
        ValueError: if what stands there cannot be understood.
    """
    if column is not None:
        return column, texts_of(at_path(record, column), column, separator)
    key = find_key(record, ANSWERS)
    if key is None:
        letter = find_key(record, LETTERS)
        choice = choice_of(record, record[letter]) if letter else ""
        if letter and choice:
            return letter, [choice]
        held = _held_answers(record, separator)
        return held if held[1] else _other_answers(record, separator)
    answers = _answers_under(record, key, separator)
    if all(map(is_hidden, answers)):
        found = _beside(record, key, separator)
        return found if found[1] else (key, answers)
    return key, answers


def is_hidden(answer: str) -> bool:
    """True for an answer that shows nothing, or a question mark in its place, as GAIA's tests."""
    return is_blank(answer) or answer.strip() == "?"


def _answers_under(record: Mapping[str, Any], key: str, separator: str) -> list[str]:
    """What one of the usual keys holds, with the aliases beside it."""
    choice = choice_of(record, record[key])
    if choice:
        return [choice]
    answers = texts_of(record[key], key, separator)
    if key.lower().endswith(("answers", "answer")) and isinstance(record[key], str):
        answers = merged(answers, _said(record[key]))
    if answers:
        aliases = [k for k in record if squashed(str(k)) in _SQUASHED_ALIASES]
        answers = merged(answers, *(texts_of(record[k], k, separator) for k in aliases))
    return answers


def _beside(record: Mapping[str, Any], empty: str, separator: str) -> tuple[str, list[str]]:
    """Answers under another key than one that holds none; only where they can be nothing else.

    A label, an output or what a model said is not taken: beside an empty list of answers, which
    says that there is none, these are often something else.
    """
    rest = {key: value for key, value in record.items() if key != empty}
    while (key := find_key(rest, _CERTAIN)) is not None:
        answers = _answers_under(rest, key, separator)
        if not all(map(is_hidden, answers)):
            return key, answers
        del rest[key]
    letter = find_key(rest, LETTERS)
    choice = choice_of(rest, rest[letter]) if letter else ""
    if letter and choice:
        return letter, [choice]
    held = {name: value for name, value in rest.items() if name in HOLDERS}
    return _held_answers(held, separator)


def _other_answers(record: Mapping[str, Any], separator: str) -> tuple[str, list[str]]:
    """Answers under numbered keys, in the box of a solution, or in what an assistant said."""
    numbered = [key for key in record if is_numbered(key)]
    lists = [texts_of(record[key], key, separator) for key in numbered]
    if any(lists):
        return ", ".join(key for key, found in zip(numbered, lists, strict=True) if found), merged(
            *lists
        )
    solution = record.get("solution")
    boxed = _BOXED.findall(solution) if isinstance(solution, str) else []
    if boxed:
        return "solution", [boxed[-1].strip()]
    said = find_key(record, SAID)
    if said is not None and isinstance(record[said], str):
        return said, [record[said].strip()]
    if said is None:
        said = next((k for k in TALKS if isinstance(record.get(k), (list, tuple))), None)
    text = last_said(record[said], ASSISTANTS) if said is not None else ""
    return (said or "", [text]) if text else ("", [])


TALKS: Final = ("messages", "conversations", "conversation")
"""Keys of a conversation."""
SAID_KEYS: Final = (*SAID, *TALKS)
"""Keys of answers that may be a model's own."""
ASSISTANTS: Final = ("assistant", "gpt", "model", "bot")
_TOOLS: Final = ("tool", "function", "observation", "function_call", "ipython")


def last_said(messages: Any, speakers: Sequence[str]) -> str:
    """The last message of a conversation, if it is of one of these speakers; else ""."""
    last = messages[-1] if isinstance(messages, (list, tuple)) and messages else None
    if not isinstance(last, Mapping) or last.get("role", last.get("from")) not in speakers:
        return ""
    if any(_calls(message) for message in messages):
        return ""
    said = last.get("content", last.get("value"))
    return said.strip() if isinstance(said, str) else ""


def _calls(message: Any) -> bool:
    """True for a message that calls a tool or is its result."""
    return isinstance(message, Mapping) and (
        bool(message.get("tool_calls")) or message.get("role", message.get("from")) in _TOOLS
    )


def has_rival(record: Mapping[str, Any], key: str, answers: Sequence[str]) -> bool:
    """True if another key of answers says something else than the one that was taken.

    Ragas has the model's own answer under ``answer`` and the right one under ``ground_truth``.
    """
    held = {answer.strip().lower() for answer in answers}
    for name, value in record.items():
        if name == key or squashed(str(name)) not in _RIVALS or is_missing(value):
            continue
        try:
            found = (
                [choice_of(record, value)] if choice_of(record, value) else texts_of(value, name)
            )
        except ValueError:
            continue
        if found and not held & {text.strip().lower() for text in found}:
            return True
    return False


def is_numbered(key: Any) -> bool:
    """True for a key such as ``answer_0``."""
    return bool(_NUMBERED.fullmatch(str(key)))


def _said(answer: str) -> list[str]:
    """What else accepts a true or false that a table or Python wrote down: yes, no."""
    return {"True": ["yes"], "False": ["no"], "TRUE": ["yes"], "FALSE": ["no"]}.get(
        answer.strip(), []
    )


def merged(*lists: Sequence[str]) -> list[str]:
    """Several lists as one, each text once."""
    return list(dict.fromkeys(text for texts in lists for text in texts))


def texts_of(value: Any, key: str, separator: str = "") -> list[str]:
    """The texts that a value amounts to: of a list all, of an object its value and aliases.

    Numbers become text, true and false "yes" and "no"; a list written as text is read.

    Raises:
        ValueError: if the value is an object of an unknown kind, or a text that begins like a
            list and is none.
    """
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if is_missing(value):
        return []
    if isinstance(value, (int, float)):
        return [number_text(value)]
    if isinstance(value, str):
        return _texts_in(value, key, separator)
    if isinstance(value, Mapping):
        return _texts_of_object(value, key)
    if isinstance(value, (list, tuple)):
        return merged(*(texts_of(item, key) for item in value))
    raise ValueError(f"{key} must be a text, a list or an object, got {type(value).__name__}")


def _texts_in(text: str, key: str, separator: str) -> list[str]:
    found = parsed_literal(text)
    if found is UNREADABLE:
        raise ValueError(f"{key} begins like a list, and cannot be read as one: {text!r:.80}")
    # "[1, 2]" may be an interval that is the answer; a list of texts is a list.
    is_many = "".join(c for c in key.lower() if c.isalpha()).endswith(_MANY)
    if isinstance(found, dict) and any(name in found for name in (*_PARTS, *_OTHERS)):
        return _texts_of_object(found, key)
    if isinstance(found, list) and (is_many or all(isinstance(v, (str, dict)) for v in found)):
        return merged(*(texts_of(item, f"{key} item") for item in found))
    if separator and separator in text:
        return [part.strip() for part in text.split(separator) if part.strip()]
    reasoned = _REASONED.search(text)
    if reasoned:
        return [reasoned.group(1)]
    if _MARKER.search(text):
        return [part.strip() for part in _MARKER.split(text) if part.strip()]
    return [text]


def _texts_of_object(value: Mapping[str, Any], key: str) -> list[str]:
    label = value.get("label")
    if isinstance(label, Mapping) and label:  # Mintaka's, by language
        return texts_of(label.get("en") or next(iter(label.values())), "label")
    name = find_key(value, _PARTS)
    others = [texts_of(value[k], k) for k in _OTHERS if k in value]
    if name is None and not any(others):
        if any(part in value for part in (*_PARTS, *_OTHERS)) or not value:
            return []
        if "provenance" in value or "date" in value:
            return _date(value)
        raise ValueError(
            f"{key} is an object with the keys {keys_of(value)}; none is known to hold an answer; "
            f"--columns answers={key}.KEY (in Python columns={{'answers': '{key}.KEY'}}) names one"
        )
    return merged([] if name is None else texts_of(value[name], name), *others)


def _date(value: Mapping[str, Any]) -> list[str]:
    """DROP's dates; nothing for KILT's outputs that name a page alone."""
    date = value.get("date")
    if not isinstance(date, Mapping):
        return []
    parts = [str(date.get(k, "")).strip() for k in ("day", "month", "year")]
    return [" ".join(part for part in parts if part)] if any(parts) else []


def _held_answers(record: Mapping[str, Any], separator: str) -> tuple[str, list[str]]:
    """Answers inside verl's objects.

    The truth there is sometimes all answers joined to one text, beside which ``extra_info`` keeps
    the list; then the list counts.
    """
    found: tuple[str, list[str]] = ("", [])
    for name in HOLDERS:
        held = record.get(name)
        if isinstance(held, str):
            held = parsed_literal(held)
        if not isinstance(held, Mapping):
            continue
        key = find_key(held, ANSWERS)
        answers = [] if key is None else texts_of(held[key], key, separator)
        if not answers:
            continue
        is_list = isinstance(held[key], (list, tuple))
        if not found[1] or (is_list and name == "extra_info" and len(found[1]) == 1):
            found = (f"{name}.{key}", answers)
    if not found[1] and isinstance(record.get("annotations"), (list, Mapping)):
        return "annotations", annotated(record, record["annotations"])
    return found
