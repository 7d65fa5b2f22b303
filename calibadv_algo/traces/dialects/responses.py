"""Items of OpenAI's Responses API, as NeMo-Gym logs them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import Call
from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message, text_of_parts, text_of_result

_CALLS: Final = (
    "function_call",
    "custom_tool_call",
    "mcp_call",
    "web_search_call",
    "file_search_call",
)
_RESULTS: Final = ("function_call_output", "custom_tool_call_output")


class Responses(Dialect):
    """Items of type ``function_call``, ``function_call_output``, ``reasoning`` and their like."""

    name: ClassVar[str] = "responses"
    rank: ClassVar[int] = 2

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for such an item; its messages have a role and need no reading of their own."""
        kind = message.get("type")
        if kind == "reasoning":
            return "output" not in message
        is_said = kind == "message" and message.get("role") == "assistant"
        return is_said or kind in (*_CALLS, *_RESULTS)

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """One message, or a call with its result."""
        kind = message["type"]
        if kind in _RESULTS:
            output = message.get("output")
            text = output if isinstance(output, str) else text_of_result(output)
            call_id = message.get("call_id")
            yield Message(
                role="tool", text=text, call_id=call_id if isinstance(call_id, str) else ""
            )
        elif kind == "reasoning":
            parts = message.get("summary") or message.get("content") or []
            yield Message(role="assistant", reasoning=text_of_parts(parts), continues=True)
        elif kind == "message":
            text = text_of_parts(message.get("content"))
            yield Message(role="assistant", text=text, continues=True)
        else:
            yield from _call(message, kind)


def _call(message: Mapping[str, Any], kind: str) -> Iterator[Message]:
    action = message.get("action")
    if kind == "web_search_call":
        name = str(action.get("type", "search")) if isinstance(action, Mapping) else "search"
        call = Call(name=name, arguments=action or {})
    elif kind == "file_search_call":
        call = Call(name="search", arguments={"queries": message.get("queries")})
    else:
        # Results refer to call_id; the item has an id of its own.
        call = read_call({key: value for key, value in message.items() if key != "id"})
    yield Message(role="assistant", calls=(call,), continues=True)
    found = message.get("output", message.get("results"))
    if found is not None:
        text = (
            found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
        )
        yield Message(role="tool", text=text)


DIALECTS = (Responses(),)
