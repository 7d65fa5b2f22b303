"""Messages of LangChain, also as ``messages_to_dict`` and ``dumps`` write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.conversation import Dialect, Message, Role, text_of_parts, text_of_result
from calibadv_algo.traces.dialects.openai import calls_of

_TYPES: Final[dict[str, Role]] = {
    "system": "system", "systemmessage": "system", "human": "user", "humanmessage": "user",
    "ai": "assistant", "aimessage": "assistant", "aimessagechunk": "assistant",
    "tool": "tool", "toolmessage": "tool", "function": "tool", "functionmessage": "tool",
}  # fmt: skip


class LangChain(Dialect):
    """Messages with a ``type`` such as human, ai or tool in place of a role."""

    name: ClassVar[str] = "langchain"
    rank: ClassVar[int] = 3

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True if the type is one of LangChain's, and there is a content."""
        return "role" not in message and _unpacked(message) is not None

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """One message."""
        found = _unpacked(message)
        if found is None:
            return
        role, body = found
        extra = body.get("additional_kwargs")
        reasoning = extra.get("reasoning_content") if isinstance(extra, Mapping) else None
        call_id = body.get("tool_call_id")
        yield Message(
            role=role,
            text=(text_of_result if role == "tool" else text_of_parts)(body.get("content")),
            reasoning=reasoning if isinstance(reasoning, str) else "",
            calls=calls_of(body) if role == "assistant" else (),
            call_id=call_id if isinstance(call_id, str) else "",
        )


def _unpacked(message: Mapping[str, Any]) -> tuple[Role, Mapping[str, Any]] | None:
    """Role and body of a message, which may lie in ``data`` or in ``kwargs``."""
    path = message.get("id")
    kind = message.get("type")
    if isinstance(path, list) and path and isinstance(message.get("kwargs"), Mapping):
        kind, message = path[-1], message["kwargs"]
    elif isinstance(message.get("data"), Mapping):
        message = message["data"]
    role = _TYPES.get(kind.lower()) if isinstance(kind, str) else None
    return (role, message) if role is not None and "content" in message else None


DIALECTS = (LangChain(),)
