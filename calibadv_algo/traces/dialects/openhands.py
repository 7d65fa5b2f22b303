"""Events of OpenHands: actions of the agent, and the observations that they cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message, text_of_parts

_SOURCES: Final = ("agent", "user", "environment")
_SAID: Final = ("message", "finish", "think", "system")
"""Actions that call no tool."""
_SILENT: Final = ("agent_state_changed", "null", "think", "recall")
"""Observations that the agent is not shown as a result."""


class OpenHands(Dialect):
    """Events with a source, and an action with its arguments or an observation."""

    name: ClassVar[str] = "openhands"
    rank: ClassVar[int] = 1

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for such an event."""
        is_event = isinstance(message.get("action"), str) and isinstance(message.get("args"), dict)
        is_seen = isinstance(message.get("observation"), str) and "content" in message
        return message.get("source") in _SOURCES and (is_event or is_seen)

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """What was said, called or seen."""
        if isinstance(message.get("observation"), str):
            if message["observation"] not in _SILENT:
                yield Message(role="tool", text=text_of_parts(message["content"]))
            return
        action, args = message["action"], message["args"]
        words = (args.get(k) for k in ("content", "final_thought", "thought"))
        said = next((each for each in words if isinstance(each, str) and each.strip()), "")
        said = said or text_of_parts(message.get("message"))
        if action == "system":
            yield Message(role="system", text=said)
        elif message["source"] != "agent":
            yield Message(role="user", text=said)
        elif action in _SAID:
            is_thought = action == "think"
            yield Message(
                role="assistant",
                text="" if is_thought else said,
                reasoning=said if is_thought else "",
                continues=is_thought,
            )
        else:
            yield Message(role="assistant", reasoning=_thought(args), calls=(_call(message),))


def _thought(args: Mapping[str, Any]) -> str:
    thought = args.get("thought")
    return thought if isinstance(thought, str) else ""


def _call(message: Mapping[str, Any]) -> Any:
    args = message["args"]
    metadata = message.get("tool_call_metadata")
    named = metadata.get("function_name") if isinstance(metadata, Mapping) else None
    name = named or args.get("name") or message["action"]
    given = args.get("arguments", {k: v for k, v in args.items() if k != "thought"})
    return read_call({"name": name, "arguments": given})


DIALECTS = (OpenHands(),)
