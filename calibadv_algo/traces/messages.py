"""Conversations in OpenAI's form: assistant turns as text or tool calls, and the replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from calibadv_algo.traces.base import (
    ANSWER_KEYS,
    QUESTION_KEYS,
    SCORE_KEYS,
    LoggedEpisode,
    LoggedTurn,
    TraceError,
    first_of,
    group_fields,
    number_of,
    question_of,
    step_of,
    texts_of,
)
from calibadv_algo.traces.tagged import split_response
from calibadv_env.protocol.toolcalls import PlainText

MESSAGE_KEYS: Final = ("messages", "conversation", "conversations", "trajectory")


def is_messages(record: Mapping[str, Any]) -> bool:
    """True if a record holds a conversation."""
    value = first_of(record, MESSAGE_KEYS)
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)


def read_messages(
    record: Mapping[str, Any], where: str, step: int, group_by: str | None = None
) -> list[LoggedEpisode]:
    """The rollout of one line.

    The messages before the first assistant message are the prompt. Where a conversation calls
    tools, or is offered some, its last message without a call is the answer.

    Args:
        record: With ``messages``, and where there are any a score, answers, a step and fields
            that name the group.
        where: File and line, for messages.
        step: The step, where the record has none.
        group_by: A further field that may name the group.

    Raises:
        TraceError: if there is no assistant message, a message has no role, or the score is no
            number.
    """
    messages = checked_messages(first_of(record, MESSAGE_KEYS), where)
    begin = next((i for i, each in enumerate(messages) if each["role"] == "assistant"), None)
    if begin is None:
        raise TraceError(f"{where}: needs an assistant message")
    has_tools = bool(record.get("tools") or record.get("tool_defs"))
    return [conversation(record, messages, begin, where, step, group_by, has_tools=has_tools)]


def conversation(
    record: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    begin: int,
    where: str,
    step: int,
    group_by: str | None,
    *,
    has_tools: bool,
) -> LoggedEpisode:
    """A rollout of messages, of which those from ``begin`` on are the policy's and the replies."""
    prompt = "\n".join(content_of(each) for each in messages[:begin])
    question = first_of(record, QUESTION_KEYS)
    turns = conversation_turns(messages[begin:])
    return LoggedEpisode(
        where=where,
        prompt=prompt,
        question=question if isinstance(question, str) else _last_question(messages[:begin]),
        answers=texts_of(first_of(record, ANSWER_KEYS)),
        turns=turns,
        reward=number_of(first_of(record, SCORE_KEYS), "the score", where),
        step=step_of(record, step),
        fields=group_fields(record, group_by),
        plain_text=plain_text_of(turns, has_tools=has_tools),
    )


def conversation_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[LoggedTurn, ...]:
    """Turns of the messages after the prompt: each assistant message and what follows it.

    An assistant message that holds a whole rollout with its passages is taken apart.
    """
    turns: list[LoggedTurn] = []
    for message in messages:
        if message["role"] == "assistant":
            turns += turns_of_message(message)
        elif turns:
            last = turns[-1]
            joined = "\n".join(part for part in (last.observation, content_of(message)) if part)
            turns[-1] = replace(last, observation=joined)
    return tuple(turns)


def turns_of_message(message: Mapping[str, Any]) -> tuple[LoggedTurn, ...]:
    """Turns of one assistant message: one, unless its text holds several."""
    if message.get("tool_calls"):
        return (LoggedTurn(action=message, text=written(message)),)
    return split_response(written(message))


def plain_text_of(turns: Sequence[LoggedTurn], *, has_tools: bool) -> PlainText:
    """Reading of plain text at the end: an answer in conversations with tools, else malformed."""
    is_calling = any(
        isinstance(turn.action, Mapping) or "<tool_call>" in turn.text for turn in turns
    )
    return "answer" if has_tools or is_calling else "malformed"


def written(message: Mapping[str, Any]) -> str:
    """An assistant message as the text that a model writes for it (in the form of Hermes)."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    content = content_of(message)
    text = content
    if isinstance(reasoning, str) and reasoning and "</think>" not in content:
        text = f"<think>{reasoning}</think>{content}"
    for call in message.get("tool_calls") or ():
        body = call.get("function", call) if isinstance(call, Mapping) else call
        if isinstance(body, Mapping):
            body = json.dumps(
                {"name": body.get("name"), "arguments": body.get("arguments")}, ensure_ascii=False
            )
        text += f"\n<tool_call>\n{body}\n</tool_call>"
    return text.lstrip("\n")


def content_of(message: Mapping[str, Any]) -> str:
    """The text of a message: a string, or parts of which some have text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def checked_messages(value: Any, where: str) -> list[Mapping[str, Any]]:
    """Messages that all have a role.

    Raises:
        TraceError: if that is not what they are.
    """
    if not isinstance(value, list):
        raise TraceError(f"{where}: needs a list of messages, got {type(value).__name__}")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TraceError(f"{where}: message {number} must be an object with a role")
    return value


def _last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    asked = [content_of(each) for each in messages if each["role"] == "user"]
    return question_of(asked[-1]) if asked else ""
