"""Messages of the Vercel AI SDK, Bedrock, PydanticAI and AutoGen, and ATIF's steps.

They say in other words what Anthropic's blocks and OpenAI's messages say, and are put into those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message, text_of_parts
from calibadv_algo.traces.dialects.anthropic import Anthropic


class Parts(Dialect):
    """Parts of type ``tool-call`` and ``tool-result`` (Vercel), ``toolUse`` (Bedrock)."""

    name: ClassVar[str] = "parts"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True if a part of the content is a call or a result."""
        content = message.get("content")
        return isinstance(message.get("role"), str) and isinstance(content, list) and any(
            isinstance(part, Mapping)
            and (part.get("type") in ("tool-call", "tool-result")
                 or isinstance(part.get("toolUse", part.get("toolResult")), Mapping))
            for part in content
        )  # fmt: skip

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """As Anthropic's."""
        blocks = [_block(part) for part in message["content"]]
        yield from Anthropic().read({**message, "content": blocks})


def _block(part: Any) -> Any:
    """A part as one of Anthropic's blocks."""
    if not isinstance(part, Mapping):
        return part
    for key in ("toolUse", "toolResult"):
        inner = part.get(key)
        if isinstance(inner, Mapping):
            kind = "tool_use" if key == "toolUse" else "tool_result"
            inner = {**inner, "type": kind, "id": inner.get("toolUseId")}
            return {**inner, "tool_use_id": inner["id"], "content": _said(inner.get("content"))}
    call_id = part.get("toolCallId")
    if part.get("type") == "tool-call":
        given = part.get("args", part.get("input"))
        return {"type": "tool_use", "id": call_id, "name": part.get("toolName"), "input": given}
    if part.get("type") == "tool-result":
        output = part.get("result", part.get("output"))
        if isinstance(output, Mapping) and "value" in output and "type" in output:
            output = output["value"]
        return {"type": "tool_result", "tool_use_id": call_id, "content": _said(output)}
    return part


def _said(value: Any) -> str:
    """A result as text: its parts of text, or else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(
        isinstance(each, Mapping) and isinstance(each.get("text"), str)
        and set(each) <= {"text", "type"} for each in value
    ):  # fmt: skip
        return text_of_parts(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("json", value)
    return json.dumps(value, ensure_ascii=False, default=str)


class Pydantic(Dialect):
    """PydanticAI's requests and responses, whose parts have a ``part_kind``."""

    name: ClassVar[str] = "pydantic-ai"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for either of them."""
        is_kind = message.get("kind") in ("request", "response")
        return is_kind and isinstance(message.get("parts"), list)

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """A message for every part."""
        for part in message["parts"]:
            if not isinstance(part, Mapping):
                continue
            kind, content = part.get("part_kind"), part.get("content")
            if kind == "tool-call":
                call = read_call({
                    "name": part.get("tool_name"), "arguments": part.get("args"),
                    "id": part.get("tool_call_id"),
                })  # fmt: skip
                yield Message(role="assistant", calls=(call,), continues=True)
            elif kind == "tool-return":
                call_id = part.get("tool_call_id")
                name = call_id if isinstance(call_id, str) else ""
                yield Message(role="tool", text=_said(content), call_id=name)
            elif kind == "thinking":
                thought = text_of_parts(content)
                yield Message(role="assistant", reasoning=thought, continues=True)
            elif kind == "text":
                yield Message(role="assistant", text=text_of_parts(content), continues=True)
            elif kind == "system-prompt":
                yield Message(role="system", text=text_of_parts(content))
            else:
                yield Message(role="user", text=text_of_parts(content))


class AutoGen(Dialect):
    """AutoGen's messages with a ``source`` and a type such as ``ToolCallRequestEvent``."""

    name: ClassVar[str] = "autogen"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for a message or an event with a source."""
        kind = message.get("type")
        is_named = isinstance(kind, str) and kind.endswith(("Message", "Event"))
        return is_named and isinstance(message.get("source"), str) and "content" in message

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """Calls, results, or what somebody says."""
        kind, content = message["type"], message["content"]
        items = [each for each in content if isinstance(each, Mapping)] if (
            isinstance(content, list)
        ) else []  # fmt: skip
        if kind == "ToolCallRequestEvent":
            yield Message(role="assistant", calls=tuple(map(read_call, items)))
        elif kind == "ToolCallExecutionEvent":
            for item in items:
                call_id = item.get("call_id")
                name = call_id if isinstance(call_id, str) else ""
                yield Message(role="tool", text=_said(item.get("content")), call_id=name)
        elif kind == "ThoughtEvent":
            yield Message(role="assistant", reasoning=text_of_parts(content), continues=True)
        elif kind != "ToolCallSummaryMessage":  # which says the results once more
            is_user = message["source"].lower() == "user"
            yield Message(role="user" if is_user else "assistant", text=text_of_parts(content))


class Atif(Dialect):
    """Steps of the agent trajectory interchange format, with a ``source`` and a ``message``."""

    name: ClassVar[str] = "atif"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for such a step."""
        is_source = message.get("source") in ("user", "agent", "system")
        return is_source and "step_id" in message

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """What was said and called, and the results."""
        said = text_of_parts(message.get("message"))
        if message["source"] != "agent":
            yield Message(role="system" if message["source"] == "system" else "user", text=said)
            return
        thought = message.get("reasoning_content")
        calls = [each for each in message.get("tool_calls") or () if isinstance(each, Mapping)]
        yield Message(
            role="assistant",
            text=said,
            reasoning=thought if isinstance(thought, str) else "",
            calls=tuple(
                read_call({"name": each.get("function_name"), "id": each.get("tool_call_id"),
                           "arguments": each.get("arguments")})
                for each in calls
            ),
        )  # fmt: skip
        observation = message.get("observation")
        results = observation.get("results") if isinstance(observation, Mapping) else None
        for result in results if isinstance(results, list) else ():
            if isinstance(result, Mapping):
                call_id = result.get("source_call_id")
                name = call_id if isinstance(call_id, str) else ""
                yield Message(role="tool", text=_said(result.get("content")), call_id=name)


DIALECTS = (Parts(), Pydantic(), AutoGen(), Atif())
