"""Files with a message on every line, which are one rollout each.

So write Claude Code (``type`` and ``message``), Codex (``response_item`` and ``payload``), and many
loggers that append every message as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from calibadv_algo.traces.conversation import dialect_of, read_messages
from calibadv_algo.traces.fields import (
    ANSWER_KEYS,
    GROUP_KEYS,
    OTHER_SCORE_KEYS,
    PREDICTION_KEYS,
    QUESTION_KEYS,
    SCORE_KEYS,
)

_FACTS: Final = frozenset(
    (*SCORE_KEYS, *OTHER_SCORE_KEYS, *ANSWER_KEYS, *QUESTION_KEYS, *PREDICTION_KEYS, *GROUP_KEYS)
) - {"id", "uid", "index"}
"""Fields of the lines between messages that say something of the rollout."""


def are_messages(records: Sequence[Mapping[str, Any]]) -> bool:
    """True if the first lines of a file are the messages of one conversation."""
    messages = [message for record in records if (message := _message(record)) is not None]
    if len(messages) < 2:
        return False
    said = read_messages(messages)[0]
    return {"user", "assistant"} <= {each.role for each in said}


def as_record(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the rollout whose messages stand on the lines of a file."""
    facts: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    for record in records:
        message = _message(record)
        if message is None:
            facts |= {key: value for key, value in record.items() if key in _FACTS}
        elif record.get("isSidechain") is not True:  # what an agent below it said is not its own
            _append(messages, dict(message))
    return {**facts, "messages": messages}


def _append(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Adds a message; the blocks of one that is logged block by block become one again."""
    last = messages[-1] if messages else {}
    is_more = message.get("id") is not None and message["id"] == last.get("id")
    if is_more and isinstance(last.get("content"), list) and isinstance(message["content"], list):
        last["content"] = [*last["content"], *message["content"]]
    else:
        messages.append(message)


def _message(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The message of a line; None if it holds something else."""
    kind = record.get("type")
    if kind == "response_item":
        inner = record.get("payload")
    elif kind in ("user", "assistant") and isinstance(record.get("message"), Mapping):
        inner = {"role": kind, **record["message"]}
    else:
        inner = record if isinstance(record.get("role"), str) else None
    return inner if isinstance(inner, Mapping) and dialect_of(inner) is not None else None
