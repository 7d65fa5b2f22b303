"""Records of questions that have no answer: those that say so, and those that lack one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from calibadv_env.common.records.keys import (
    ANSWERS,
    SAID,
    at_path,
    find_key,
    is_missing,
    keys_of,
    squashed,
)
from calibadv_env.common.records.values import parsed_literal
from calibadv_env.data.questions.answers import (
    HOLDERS,
    TALKS,
    find_answers,
    is_hidden,
    is_numbered,
    texts_of,
)
from calibadv_env.data.questions.choices import LETTERS

NO_ANSWER: Final = "questions without an answer (blank, null, NaN or an empty list) left out"
"""What is counted of them, in words."""

_LISTS: Final = frozenset(map(squashed, ANSWERS[: ANSWERS.index("answer") + 1]))
_SQUASHED: Final = frozenset(map(squashed, (*ANSWERS, *LETTERS)))


class NoAnswerError(ValueError):
    """A record of a question has no answer.

    Attributes:
        is_blank: True if it has a place for one, and nothing stands there: null, NaN, a blank
            text, an empty list or object.
    """

    def __init__(self, message: str, *, is_blank: bool) -> None:
        super().__init__(message)
        self.is_blank = is_blank


def is_unanswerable(record: Mapping[str, Any]) -> bool:
    """True where the record says so: MuSiQue, SQuAD 2.0; or SQuAD's empty lists of answers."""
    for key, bad in (("answerable", False), ("is_impossible", True), ("is_answerable", False)):
        value = record.get(key)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            value = value.strip().lower() == "true"
        if value is bad:
            return True
    answer = record.get("answer")
    if isinstance(answer, Mapping) and answer.get("type") == "none":  # IIRC
        return True
    answers = record.get("answers")
    if isinstance(answers, list) and answers and all(map(_says_none, answers)):
        return True
    if not isinstance(answers, Mapping) or "answer_start" not in answers:
        return False
    return not texts_of(answers.get("text"), "answers.text")


def _says_none(answer: Any) -> bool:
    """True for an answer that says that there is none, as MKQA and QuAC have them."""
    return isinstance(answer, Mapping) and (
        answer.get("type") == "unanswerable" or answer.get("text") == "CANNOTANSWER"
    )


def has_empty_list(record: Mapping[str, Any], column: str | None) -> bool:
    """True where the answers are a list without any, which says that there is none.

    An answer under another key counts for more than the empty list; a column that the user names
    is looked at alone.

    Raises:
        ValueError: if what stands under another key cannot be understood.
    """
    keys = [column] if column else [key for key in record if squashed(str(key)) in _LISTS]
    if not any(_is_empty_list(at_path(record, key)) for key in keys):
        return False
    return column is not None or all(map(is_hidden, find_answers(record, None, "")[1]))


def _is_empty_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_missing, value))


def has_blank(record: Mapping[str, Any], column: str | None = None) -> bool:
    """True where the place of the answers is there, and nothing stands in it.

    Args:
        record: A record in which no answer was found.
        column: Key, or path of keys, that the user names; None looks at the usual places.
    """
    return column is not None or any(is_empty(value) for value in _places(record))


def _places(record: Mapping[str, Any]) -> Iterator[Any]:
    """What stands under the usual names of answers, also in the objects of verl and others."""
    for layer in (record, *map(record.get, HOLDERS)):
        if isinstance(layer, str):
            layer = parsed_literal(layer)
        if isinstance(layer, Mapping):
            yield from (value for key, value in layer.items() if squashed(str(key)) in _SQUASHED)


def is_empty(value: Any) -> bool:
    """True for a value that holds no answer, whatever it is made of."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return is_missing(value) or (isinstance(value, str) and is_hidden(value))


def no_answer(record: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> NoAnswerError:
    """The error on a record without an answer.

    Args:
        record: The record.
        key: Where its answer was looked for; "" if there is no such place.
        columns: Keys that the user names.
    """
    is_blank = has_blank(record, columns.get("answers"))
    if key:
        where = f"the key {key!r}" if key not in columns.values() else f"the column {key!r}"
        return NoAnswerError(
            f"golden_answers must not be empty, and {where} holds no answer; a row must have an "
            "answer in the column answer or answers",
            is_blank=True,
        )
    what = "a row must have an answer in the column answer or answers"
    blank = next((key for key in record if squashed(key) in _LISTS), None)
    if blank is not None:
        return NoAnswerError(
            f"{what}, and {blank!r} is blank; where a file hides its answers, take the full one",
            is_blank=is_blank,
        )
    if any(isinstance(record.get(name), list) for name in TALKS):
        return NoAnswerError(
            f"{what}, and the conversation does not end with what the assistant answered; a log of "
            "rollouts is read by `calibadv trace import` and `calibadv diagnose`",
            is_blank=False,
        )
    if "id" in record:
        what = f"key 'golden_answers' is missing: {what}"
    return NoAnswerError(
        f"{what}, and none was found among the keys {keys_of(record)}; --columns answers=KEY (in "
        "Python columns={'answers': KEY}) says which key holds it",
        is_blank=is_blank,
    )


def may_answer(record: Mapping[str, Any]) -> bool:
    """True for a record with a key under which an answer may stand."""
    holders = ("reward_model", "reward_spec", "extra_info", "metadata", "annotations", "solution")
    if find_key(record, (*ANSWERS, *LETTERS, *SAID)) is not None:
        return True
    return any(name in record for name in (*holders, *TALKS)) or any(map(is_numbered, record))
