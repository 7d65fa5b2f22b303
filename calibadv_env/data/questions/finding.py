"""The question of a record, wherever it stands. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from calibadv_env.common.records.headerless import is_numbered
from calibadv_env.common.records.keys import QUESTION, at_path, find_key, is_blank, keys_of
from calibadv_env.common.records.values import parsed_literal
from calibadv_env.data.questions.answers import TALKS

_MARK: Final = "Question:"
_CIPHER: Final = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def find_question(record: Mapping[str, Any], column: str | None) -> tuple[str, str]:
    """The question of a record, and the key that it was found under.

    Args:
        record: A record.
        column: Key, or path of keys, that the user names; None looks under the usual names.

    Raises:
        ValueError: if there is none, naming the keys; or if it is encrypted.
    """
    key, value = (column, at_path(record, column)) if column else _found(record)
    if isinstance(value, Mapping):
        inner = find_key(value, (*QUESTION, "text", "stem"))
        key, value = f"{key}.{inner}", value.get(inner) if inner else None
    if isinstance(value, (list, tuple)):
        value = last_message(value)
    if key is None or not isinstance(value, str) or is_blank(value):
        numbers = (
            "; the first line is no header, so columns are called by their numbers from 0, such as "
            "--columns question=1,answers=2"
        )
        raise ValueError(
            f"key 'question' is missing: no question was found among the keys "
            f"{keys_of(record)}; --columns question=KEY,answers=KEY (in Python columns="
            "{'question': KEY, 'answers': KEY}) says which keys hold what"
            + (numbers if is_numbered(record) else "")
        )
    if record.get("canary") and _CIPHER.fullmatch(value.strip()) and _is_cipher(value):
        raise ValueError(
            f"{key} is encrypted (the record has a canary); decrypt the file first, as its "
            "publishers describe, and name the decrypted one"
        )
    return key, value


def _found(record: Mapping[str, Any]) -> tuple[str | None, Any]:
    """Key and value of what may be the question."""
    if is_headerless(record):
        return "0", record["0"]
    own = find_key(record, QUESTION)
    extra = record.get("extra_info")
    is_prompt = own is not None and not isinstance(record[own], (str, Mapping))
    if (own is None or is_prompt) and isinstance(extra, Mapping):
        inner = find_key(extra, QUESTION)
        if inner is not None and isinstance(extra[inner], str):
            return f"extra_info.{inner}", extra[inner]
    if own is None:
        own = next((k for k in TALKS if isinstance(record.get(k), (list, tuple))), None)
    return own, None if own is None else record[own]


def is_headerless(record: Mapping[str, Any]) -> bool:
    """True for a row of question and answers in a table without a header, as DPR's are.

    A row of number and text is a passage, as MS MARCO has them.
    """
    if set(record) != {"0", "1"}:
        return False
    first, last = record["0"], record["1"]
    is_text = isinstance(first, str) and not first.strip().isdigit() and " " in first.strip()
    return is_text or (isinstance(last, str) and bool(parsed_literal(last)))


def last_message(messages: Iterable[Any]) -> str:
    """The question in a prompt of messages: what follows "Question:" in the last of the user's."""
    contents: list[str] = []
    for message in messages:
        if isinstance(message, Mapping):
            said = message.get("content", message.get("value"))
            speaker = message.get("role", message.get("from", "user"))
            if isinstance(said, str) and speaker in ("user", "human"):
                contents.append(said)
    if not contents:
        return ""
    _, mark, question = contents[-1].rpartition(_MARK)
    return question.strip() if mark and question.strip() else contents[-1].strip()


def is_encrypted(text: str) -> bool:
    """True for base64 of what is no text, long or padded, as no question or answer is written.

    It has letters of both cases beside figures or marks, so that a long word is none.
    """
    found = text.strip()
    is_base64 = len(found) % 4 == 0 and _BASE64.fullmatch(found) is not None
    is_mixed = any(map(str.islower, found)) + any(map(str.isupper, found)) == 2
    is_marked = any(not sign.isalpha() for sign in found)
    is_long = len(found) >= 24 and is_mixed and is_marked
    return is_base64 and (is_long or found.endswith("=")) and _is_cipher(found)


def _is_cipher(text: str) -> bool:
    """True for base64 of what is no text."""
    try:
        base64.b64decode(text.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return True
    return False
