"""Conversations: a list of messages in any dialect, with score and answers beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import LoggedEpisode, Place
from calibadv_algo.traces.conversation import Message, is_conversation, read_messages
from calibadv_algo.traces.fields import QUESTION_KEYS, first_of, lookup
from calibadv_algo.traces.reader import TraceReader
from calibadv_algo.traces.talks import begin_of, checked_messages, conversation, with_reply
from calibadv_env.protocol.literals import parse_literal

MESSAGE_KEYS: Final = ("messages", "conversation", "conversations", "trajectory")
"""Fields that must hold messages if they are there."""

OTHER_KEYS: Final = (
    "history", "chat_history", "chat", "dialog", "dialogue", "full_messages", "message_list",
    "message_history", "full_history", "intermediate_steps", "steps", "trace", "events", "rollout",
    "result", "output", "response", "completion", "memory", "agent_memory", "logs", "turns",
)  # fmt: skip
"""Fields that are taken if they hold messages."""


class Messages(TraceReader):
    """Messages of OpenAI, Anthropic, LangChain, ShareGPT, or steps of an agent."""

    name: ClassVar[str] = "messages"
    rank: ClassVar[int] = 5
    needs: ClassVar[str] = "messages"

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True if a field holds a conversation."""
        value = first_of(record, MESSAGE_KEYS)
        if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
            return True
        return bool(_field(record))

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollout of a record.

        The messages before the first assistant message are the prompt. Where a conversation
        calls tools, or is offered some, its last message without a call is the answer.

        Raises:
            TraceError: if there is no assistant message, a message has no role, or the score is
                no number.
        """
        name = place.fields.get("messages") or _field(record)
        value = _listed(lookup(record, name) if name else first_of(record, MESSAGE_KEYS))
        value = (
            [item for each in value for item in _pair(each)] if isinstance(value, list) else value
        )
        messages = _whole(record, checked_messages(value, place.where))
        if (name or "").endswith("steps") and messages[-1].role == "tool":
            said = first_of(record, ("output", "final_answer", "outputs.output", "answer_text"))
            if isinstance(said, str) and said.strip():
                messages.append(Message(role="assistant", text=said))
        inner = record.get((name or "").rpartition(".")[0])
        messages = with_reply(messages, record, inner if isinstance(inner, Mapping) else record)
        begin = begin_of(messages, place.where)
        has_tools = any(record.get(key) for key in ("tools", "tool_defs", "tool_call_counts"))
        prompt = _before(record) if begin == 0 else None
        return [
            conversation(
                record, messages, begin, place, format=self.name, has_tools=has_tools, prompt=prompt
            )
        ]


def _field(record: Mapping[str, Any]) -> str:
    """Name of the field that holds a conversation in which the assistant speaks; "" for none."""
    for key in (*MESSAGE_KEYS, *OTHER_KEYS, *record):
        value = lookup(record, key)
        if _is_talk(value):
            return key
        if isinstance(value, Mapping):
            inner = next((f"{key}.{name}" for name in value if _is_talk(value[name])), "")
            if inner and lookup(record, inner) is not None:
                return inner
    return ""


def _whole(record: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """Messages behind those of the prompt, where that holds calls and results of the rollout."""
    before = first_of(record, ("prompt", "input"))
    if not is_conversation(before):
        return messages
    said = read_messages(before)[0]
    is_rollout = any(each.calls or each.role == "tool" for each in said)
    return [*said, *messages] if is_rollout and said != messages[: len(said)] else messages


def _listed(value: Any) -> Any:
    """Messages that are written as one text, as a list."""
    if isinstance(value, str) and value[:2] in ("[{", "[ ", "[\n"):
        inner = parse_literal(value)
        return inner if isinstance(inner, list) else value
    return value


def _is_talk(value: Any) -> bool:
    value = _listed(value)
    if not isinstance(value, list) or not value:
        return False
    items = [item for each in value for item in _pair(each)]
    if not is_conversation(items):
        return False
    return any(message.role == "assistant" for message in read_messages(items)[0])


def _pair(item: Any) -> list[Any]:
    """A pair of LangChain's ``intermediate_steps``, action and observation, as one step."""
    is_pair = isinstance(item, list) and len(item) == 2 and isinstance(item[0], Mapping)
    return [{**item[0], "observation": item[1]}] if is_pair else [item]


def _before(record: Mapping[str, Any]) -> str | None:
    """The prompt of a conversation that begins with the assistant, where a field has it."""
    value = first_of(record, ("prompt", "input", "task", *QUESTION_KEYS))
    if is_conversation(value):
        return "\n".join(message.text for message in read_messages(value)[0])
    return value if isinstance(value, str) else None


READERS = (Messages(),)
