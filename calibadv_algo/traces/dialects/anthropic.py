"""Messages of Anthropic's API: blocks of text, thoughts, calls and results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import Call
from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message, text_of_parts, text_of_result
from calibadv_algo.traces.dialects.openai import ROLES

_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


def _is_result(block: Mapping[str, Any]) -> bool:
    return str(block.get("type")).endswith("tool_result")


class Anthropic(Dialect):
    """Messages whose content has blocks of type ``tool_use`` or ``tool_result``."""

    name: ClassVar[str] = "anthropic"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True if a block of the content is a call or a result."""
        content = message.get("content")
        return isinstance(message.get("role"), str) and isinstance(content, list) and any(
            isinstance(block, Mapping) and (block.get("type") in _CALLS or _is_result(block))
            for block in content
        )  # fmt: skip

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """The blocks in order; a result in between ends what the assistant said before."""
        role = ROLES.get(message["role"].lower(), "user")
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Call] = []

        def said() -> Iterator[Message]:
            if texts or thoughts or calls:
                yield Message(
                    role=role,
                    text="\n".join(texts),
                    reasoning="\n".join(thoughts),
                    calls=tuple(calls),
                )
            for each in (texts, thoughts, calls):
                each.clear()

        for block in message["content"]:
            if not isinstance(block, Mapping):
                texts.append(text_of_parts(block))
            elif block.get("type") in _CALLS:
                calls.append(read_call(block))
            elif _is_result(block):
                yield from said()
                call_id = block.get("tool_use_id")
                yield Message(
                    role="tool",
                    text=_result(block.get("content")),
                    call_id=call_id if isinstance(call_id, str) else "",
                )
            elif block.get("type") == "thinking":
                thoughts.append(text_of_parts(block.get("thinking")))
            else:
                texts.append(text_of_parts([block]))
        yield from said()


def _result(content: Any) -> str:
    """A result as text: its parts of text, or as JSON the hits of Anthropic's own search."""
    blocks = content if isinstance(content, list) else []
    hits = [
        {"title": each.get("title") or "", "url": each.get("source", ""), "content": inner}
        for each in blocks
        if isinstance(each, Mapping) and each.get("type") in ("search_result", "document")
        if (inner := text_of_parts(each.get("content")))
    ]
    if hits:
        return json.dumps(hits, ensure_ascii=False, default=str)
    if isinstance(content, list) and any(
        isinstance(each, Mapping) and isinstance(each.get("url"), str) for each in content
    ):
        return json.dumps(content, ensure_ascii=False)
    return text_of_result(content)


DIALECTS = (Anthropic(),)
