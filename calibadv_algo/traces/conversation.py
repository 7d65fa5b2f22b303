"""Conversations: messages in any dialect, put into one form and cut into turns."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal

from calibadv_algo.traces.base import Call, LoggedTurn
from calibadv_algo.traces.calls import expanded
from calibadv_algo.traces.tagged import results_in, split_response
from calibadv_env.protocol.toolcalls import PlainText

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, whatever dialect it was written in.

    Attributes:
        role: Who says it.
        text: What it says.
        reasoning: The thought that stands beside the text.
        calls: Calls of tools.
        call_id: The call that a tool's message is the result of.
        continues: True if the message goes on with the one before, of the same role.
    """

    role: Role
    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    continues: bool = False


class Dialect:
    """A way to write messages.

    A module in ``calibadv_algo/traces/dialects`` declares its dialects in a tuple ``DIALECTS``.

    Attributes:
        name: Its name.
        rank: Dialects are asked in the order of their ranks, the most particular first.
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 0

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for a message in this dialect."""
        raise NotImplementedError

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """The message in our form; one message may be several."""
        raise NotImplementedError


@cache
def dialects() -> tuple[Dialect, ...]:
    """All dialects, in the order in which they are asked."""
    package = importlib.import_module("calibadv_algo.traces.dialects")
    found: list[Dialect] = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        found += getattr(importlib.import_module(module.name), "DIALECTS", ())
    return tuple(sorted(found, key=lambda dialect: (dialect.rank, dialect.name)))


def dialect_of(message: Any) -> Dialect | None:
    """The dialect of a message; None if it is in none."""
    if not isinstance(message, Mapping):
        return None
    return next((dialect for dialect in dialects() if dialect.speaks(message)), None)


def is_conversation(value: Any) -> bool:
    """True for a list of messages, all in some dialect."""
    return isinstance(value, list) and bool(value) and all(map(dialect_of, value))


def read_messages(value: Sequence[Any]) -> tuple[list[Message], str]:
    """Messages in our form, and the dialects that they were in; all must be in one."""
    messages: list[Message] = []
    names: dict[str, None] = {}
    for each in value:
        dialect = dialect_of(each)
        if dialect is not None:
            names.setdefault(dialect.name)
            messages += dialect.read(each)
    return messages, " and ".join(names)


# ---- Turns ---------------------------------------------------------------------------------------


def turns_of(messages: Sequence[Message]) -> tuple[LoggedTurn, ...]:
    """Turns of the messages after the prompt: what the assistant says, and what follows it.

    An assistant message that holds a whole rollout with its passages is taken apart.
    """
    turns: list[LoggedTurn] = []
    replies: list[Message] = []
    for message in _joined(messages):
        if message.role == "assistant":
            _answered(turns, replies)
            replies = []
            turns += turns_of_message(message)
        elif turns:
            replies.append(message)
    _answered(turns, replies)
    return tuple(turns)


def _joined(messages: Iterable[Message]) -> list[Message]:
    """Messages of which those that go on with the one before are one with it."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if message.continues and last is not None and last.role == message.role == "assistant":
            joined[-1] = replace(
                last,
                text="\n".join(part for part in (last.text, message.text) if part),
                reasoning="\n".join(part for part in (last.reasoning, message.reasoning) if part),
                calls=(*last.calls, *message.calls),
            )
        else:
            joined.append(message)
    return joined


def _answered(turns: list[LoggedTurn], replies: Sequence[Message]) -> None:
    """Puts what came back into the last turn, and each result to its call where that is told."""
    if not turns or not replies:
        return
    last = turns[-1]
    parts = [part for part in (last.observation, *(each.text for each in replies)) if part]
    turns[-1] = replace(
        last, observation="\n".join(parts), calls=_with_results(last.calls, replies)
    )


def _with_results(calls: tuple[Call, ...], replies: Sequence[Message]) -> tuple[Call, ...]:
    if not calls:
        return calls
    results = [(each.call_id, each.text) for each in replies if each.role == "tool"]
    if not results:
        blocks = results_in("\n".join(each.text for each in replies))
        results = [("", block) for block in blocks]
    by_id = {name: text for name, text in results if name}
    if (
        by_id
        and all(call.id in by_id for call in calls)
        and len({c.id for c in calls}) == len(calls)
    ):
        return tuple(replace(call, result=by_id[call.id]) for call in calls)
    if len(results) == len(calls):
        return tuple(
            replace(call, result=text) for call, (_, text) in zip(calls, results, strict=True)
        )
    return calls


def turns_of_message(message: Message) -> tuple[LoggedTurn, ...]:
    """Turns of one assistant message: one, unless its text holds several."""
    calls = expanded(message.calls)
    if calls:
        thought = "\n".join(part for part in (message.reasoning.strip(), message.text) if part)
        return (LoggedTurn(action="", text=written(message), calls=calls, thought=thought),)
    return split_response(written(message))


def plain_text_of(turns: Sequence[LoggedTurn], *, has_tools: bool) -> PlainText:
    """Reading of plain text at the end: an answer in conversations with tools, else malformed."""
    return "answer" if has_tools or any(turn.calls for turn in turns) else "malformed"


def written(message: Message) -> str:
    """An assistant message as the text that a model writes for it (in the form of Hermes)."""
    text = message.text
    if message.reasoning and "</think>" not in text:
        text = f"<think>{message.reasoning}</think>{text}"
    for call in message.calls:
        body = json.dumps(
            {"name": call.name, "arguments": call.arguments}, ensure_ascii=False, default=str
        )
        text += f"\n<tool_call>\n{body}\n</tool_call>"
    return text.lstrip("\n")


def text_of_parts(content: Any) -> str:
    """The text of a message: a string, or parts of which some have text."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        inner = content.get("text", content.get("content"))
        return (
            inner
            if isinstance(inner, str)
            else json.dumps(content, ensure_ascii=False, default=str)
        )
    if not isinstance(content, Sequence):
        return ""
    parts = [_part_text(part) for part in content]
    return "".join(part for part in parts if part)


def text_of_result(content: Any) -> str:
    """The text of a tool's result; several parts stand apart, as each may be a passage."""
    if not isinstance(content, list):
        return text_of_parts(content)
    parts = [_part_text(part).strip() for part in content]
    return "\n\n".join(part for part in parts if part)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type") in ("thinking", "reasoning"):
        return ""
    text = part.get("text", part.get("value"))
    return text if isinstance(text, str) else ""
