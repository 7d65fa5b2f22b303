"""Rollouts of conversations: what the shapes that hold messages have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.conversation import (
    Message,
    is_conversation,
    plain_text_of,
    read_messages,
    turns_of,
)
from calibadv_algo.traces.fields import facts_of, question_in, question_of
from calibadv_algo.traces.tagged import grammar_of


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
