"""Rollouts of conversations: what the shapes that hold messages have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.conversation import (
    Message,
    is_conversation,
    plain_text_of,
    read_messages,
    turns_of,
)
from calibadv_algo.traces.fields import (
    PREDICTION_KEYS,
    facts_of,
    first_of,
    question_in,
    question_of,
)
from calibadv_algo.traces.tagged import grammar_of

_REPLIES: Final = (
    "response", "choices", "output", "completion", "final_response", "reply", "generation",
    "final_output", "final_message", "outputs", "message", "result",
)  # fmt: skip
"""Fields that may hold the last reply, when it does not stand among the messages."""
_OBJECTS: Final = ("outputs", "message", "result")
"""Those of them in which a text may be a status such as "success"."""
_INNER: Final = ("body", "choices", "message", "output", "content", "text", "output_text", "answer")
_NOTHING_SAID: Final = frozenset({"", "none", "null", "no answer", "no answer found", "n/a"})


def checked_messages(value: Any, where: str) -> list[Message]:
    """Messages in our form.

    Raises:
        TraceError: if that is not what they are.
    """
    if not isinstance(value, list):
        raise TraceError(f"{where}: needs a list of messages, got {type(value).__name__}")
    for number, message in enumerate(value, start=1):
        if not is_conversation([message]):
            raise TraceError(
                f"{where}: message {number} must be an object with a role, or in another form that "
                "is known (LangChain, ShareGPT, Anthropic, Responses, steps of an agent)"
            )
    return read_messages(value)[0]


def begin_of(messages: Sequence[Message], where: str) -> int:
    """Where the prompt ends and the policy begins.

    Raises:
        TraceError: if it never does.
    """
    begin = next((i for i, each in enumerate(messages) if each.role == "assistant"), None)
    if begin is None:
        raise TraceError(f"{where}: needs an assistant message")
    return begin


def with_reply(
    messages: Sequence[Message], record: Mapping[str, Any], inner: Mapping[str, Any]
) -> list[Message]:
    """Messages with the last reply, where a log keeps it beside them.

    So do the batch API and proxies (request and response), tracing services (input and output),
    and logs with messages and a final answer. Messages that end with an answer stay as they are.

    Args:
        messages: All messages that stand together.
        record: The record.
        inner: The object of the record that holds the messages; the record itself, as a rule.
    """
    last = messages[-1] if messages else None
    if last is None or (last.role == "assistant" and not last.calls):
        return list(messages)
    for holder in (inner, record):
        for key in _REPLIES:
            value = holder.get(key)
            is_status = isinstance(value, str) and key in _OBJECTS
            found = [] if is_status else _reply_of(value)
            reply = [each for each in found if each not in messages]
            if reply:
                return [*messages, *reply]
    said = first_of(record, PREDICTION_KEYS)
    is_said = isinstance(said, str) and said.strip(" .").lower() not in _NOTHING_SAID
    if is_said and any(each.role == "assistant" for each in messages):
        return [*messages, Message(role="assistant", text=said.strip())]
    return list(messages)


def _reply_of(value: Any) -> list[Message]:
    """The reply in a text, a message, messages, or the body of an API's response."""
    if isinstance(value, str):
        return [Message(role="assistant", text=value)] if value.strip() else []
    if is_conversation(value):
        found = read_messages(value)[0]
        return found if found[-1].role == "assistant" else []
    if isinstance(value, list):
        return (
            _reply_of(value[0]) if len(value) == 1 and isinstance(value[0], Mapping | str) else []
        )
    if not isinstance(value, Mapping):
        return []
    if is_conversation([value]):
        return _reply_of([value])
    return next((found for key in _INNER if (found := _reply_of(value.get(key)))), [])


def conversation(
    record: Mapping[str, Any],
    messages: Sequence[Message],
    begin: int,
    place: Place,
    *,
    format: str,
    has_tools: bool = False,
    prompt: str | None = None,
    score_keys: Sequence[str] = (),
    answer_keys: Sequence[str] = (),
) -> LoggedEpisode:
    """A rollout of messages, of which those from ``begin`` on are the policy's and the replies.

    Args:
        record: What holds score, answers and the fields that name the group.
        messages: All messages.
        begin: Number of messages before the policy's first.
        place: Where the record stands.
        format: Name of its shape.
        has_tools: If true, the policy was offered tools, so plain text at the end is its answer.
        prompt: The prompt, where it does not stand in the messages.
        score_keys: Names of the score in this shape.
        answer_keys: Names of the accepted answers in this shape.
    """
    given = prompt or "\n".join(each.text for each in messages[:begin])
    asked = [each.text for each in messages[:begin] if each.role == "user"]
    turns, grammar = grammar_of(turns_of(messages[begin:]))
    question = question_in(record, place) or (
        question_of(asked[-1]) if asked else question_of(given)
    )
    return LoggedEpisode(
        format=format,
        prompt=given,
        question=question,
        turns=turns,
        grammar=grammar,
        plain_text=plain_text_of(turns, has_tools=has_tools),
        **facts_of(record, place, score_keys=score_keys, answer_keys=answer_keys),
    )
