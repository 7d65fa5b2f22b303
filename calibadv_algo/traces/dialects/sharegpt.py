"""Messages of ShareGPT, with ``from`` and ``value``, as LLaMA-Factory and others train on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.calls import read_call
from calibadv_algo.traces.conversation import Dialect, Message
from calibadv_algo.traces.dialects.openai import ROLES


class ShareGpt(Dialect):
    """Messages with ``from`` and ``value``; ``function_call`` is a call of its own."""

    name: ClassVar[str] = "sharegpt"
    rank: ClassVar[int] = 2

    def speaks(self, message: Mapping[str, Any]) -> bool:
        """True for a message with both."""
        return isinstance(message.get("from"), str) and isinstance(message.get("value"), str)

    def read(self, message: Mapping[str, Any]) -> Iterator[Message]:
        """One message."""
        speaker = message["from"].lower()
        if speaker in ("function_call", "tool_call"):
            yield Message(role="assistant", calls=(read_call(message["value"]),), continues=True)
            return
        yield Message(role=ROLES.get(speaker, "user"), text=message["value"])


DIALECTS = (ShareGpt(),)
