"""Messages of OpenAI's chat API, and those that differ a little: of Inspect, verifiers, Gemini."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import Call
from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message, Role, text_of_parts, text_of_result
from calibadv_env.protocol.literals import parse_literal

ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "agent": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "environment": "tool",
    "tool_response": "tool",
    "tool-response": "tool",
}
"""Roles by the names that logs give them."""


class OpenAi(Dialect):
    """Messages with a role and a content; calls in ``tool_calls``, nested or flat."""

    name: ClassVar[str] = "openai"
    rank: ClassVar[int] = 9

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for any message with a role."""
        return isinstance(message.get("role"), str)

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """One message; Gemini's parts may be several."""
        name = message["role"].lower()
        content = message.get("content")
        extra = message.get("additional_kwargs")
        extra = extra if isinstance(extra, Mapping) else {}
        if content is None and isinstance(message.get("blocks"), list):  # LlamaIndex
            blocks = (each for each in message["blocks"] if isinstance(each, Mapping))
            content = [{"type": "text", "text": each.get("text", "")} for each in blocks]
        if name in ("tool-call", "tool_call"):
            yield _listed_calls(text_of_parts(content))
            return
        role = ROLES.get(name, "user")
        parts = message.get("parts")
        if content is None and isinstance(parts, list):
            yield from _gemini(role, parts)
            return
        reasoning = (
            message.get("reasoning_content") or message.get("reasoning") or _thought(content)
        )
        yield Message(
            role=role,
            text=_data(content) if role == "tool" else text_of_parts(content),
            reasoning=reasoning if isinstance(reasoning, str) else "",
            calls=calls_of(message) if role == "assistant" else (),
            call_id=_text(
                message.get("tool_call_id") or message.get("call_id") or extra.get("tool_call_id")
            ),
        )


def _data(content: Any) -> str:
    """What a tool gave back: text, parts of text, or the hits themselves, then as JSON."""
    if isinstance(content, list) and content and all(map(_is_document, content)):  # Cohere's
        documents = [each["document"] for each in content]
        content = [each.get("data", each) for each in documents]
    is_hits = (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(each, Mapping) and "type" not in each for each in content)
        and any(len(each) > 1 for each in content)
    )
    return json.dumps(content, ensure_ascii=False, default=str) if is_hits else (
        text_of_result(content)
    )  # fmt: skip


def _is_document(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("document"), Mapping)


def calls_of(message: Mapping[str, Any]) -> tuple[Call, ...]:
    """The calls of an assistant message, in ``tool_calls`` or the older ``function_call``."""
    calls = message.get("tool_calls")
    if isinstance(calls, Mapping):
        calls = [calls]
    if isinstance(calls, list) and calls:
        return tuple(read_call(call) for call in calls)
    extra = message.get("additional_kwargs")
    if isinstance(extra, Mapping) and (extra.get("tool_calls") or extra.get("function_call")):
        return calls_of(extra)
    older = message.get("function_call")
    return (read_call(older),) if isinstance(older, Mapping) else ()


def _listed_calls(text: str) -> Message:
    """A message of smolagents that lists the calls of the message before."""
    start = text.find("[")
    listed = parse_literal(text[start:]) if start >= 0 else None
    calls = listed if isinstance(listed, list) else []
    return Message(role="assistant", calls=tuple(map(read_call, calls)), continues=True)


def _thought(content: Any) -> str:
    """The reasoning among the parts of a content."""
    if not isinstance(content, list):
        return ""
    found = (
        part.get("thinking") or part.get("reasoning") or part.get("text")
        for part in content
        if isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning")
    )
    return "\n".join(each for each in found if isinstance(each, str))


def _gemini(role: Role, parts: list[Any]) -> Iterator[Message]:
    calls, texts = [], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        if not isinstance(part, Mapping):
            continue
        call = part.get("functionCall", part.get("function_call"))
        reply = part.get("functionResponse", part.get("function_response"))
        if isinstance(call, Mapping):
            calls.append(read_call(call))
        elif isinstance(reply, Mapping):
            inner = reply.get("response")
            yield Message(role="tool", text=text_of_result(inner), call_id=_text(reply.get("id")))
        else:
            texts.append(text_of_parts(part.get("text")))
    if calls or texts:
        yield Message(role=role, text="".join(texts), calls=tuple(calls))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


DIALECTS = (OpenAi(),)
