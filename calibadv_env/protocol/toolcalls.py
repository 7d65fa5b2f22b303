"""Actions written as tool calls, put into the tags that the environments read. Pure and total."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from calibadv_env.common.checks import Checked
from calibadv_env.info import STOP_STRINGS
from calibadv_env.protocol.actions import TAG
from calibadv_env.protocol.prompts import INVALID_ACTION_TEXT

CALL_OPEN: Final = "<tool_call>"
"""Opening of a call in the text of Hermes and Qwen models."""

CALL_CLOSE: Final = "</tool_call>"
"""Closing of a call; a stop string for generation."""

PlainText = Literal["answer", "malformed"]
"""Meaning of a turn without a call or tag: the final answer, as in chat protocols, or a mistake."""

Several = Literal["first", "join"]
"""Meaning of several searches in a turn: the first one alone, or one with their queries joined."""

ToolAction = str | Mapping[str, Any]
"""One turn: text with ``<tool_call>{json}</tool_call>``, or an OpenAI assistant message."""

TOOL_PROMPT: Final = (
    "Find the answer to the question below. Think before every step. To look something up, call "
    "the tool `search` with a query; its result is given to you and you can call it again. Make "
    "one call at a time. When you know enough, call the tool `answer` with a short answer and no "
    "explanation. A call looks like this:\n"
    '<tool_call>\n{"name": "search", "arguments": {"query": "capital of Norway"}}\n</tool_call>\n'
    "Question: {question}\n"
)
"""A template for the argument ``prompt`` of the environments that teaches the calls."""

INVALID_CALL_TEXT: Final = (
    "\nMy previous action is invalid. To search, I have to call the tool `search` with a query. "
    "To finish, I have to call the tool `answer` with the answer. I will try again.\n"
)
"""Observation after a malformed call."""

_THINK_CLOSE: Final = "</think>"


def function_tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    """Describes a tool with one text argument as chat templates and OpenAI's API want it."""
    properties = {argument: {"type": "string", "description": meaning}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS: Final[tuple[dict[str, Any], ...]] = (
    function_tool("search", "Search the corpus for passages.", "query", "What to search for."),
    function_tool("answer", "Give the final answer.", "answer", "The answer, short."),
)
"""The two tools, for the ``tools`` argument of a chat template or a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGrammar(Checked):
    """How tool calls are read as actions.

    Attributes:
        search_tools: Names of the tools that search.
        answer_tools: Names of the tools that answer.
        query_arguments: Names of the argument with the query; a list of one query is taken too.
        answer_arguments: Names of the argument with the answer.
        plain_text: What a turn without a call and without tags is.
        several: What a turn with several searches, or a search with a list of queries, is. The
            environments carry out one query a turn, so there it is the first one; logs of systems
            that search in parallel are read with ``join``.
    """

    stop_strings: ClassVar[tuple[str, ...]] = STOP_STRINGS

    search_tools: tuple[str, ...] = ("search",)
    answer_tools: tuple[str, ...] = ("answer",)
    query_arguments: tuple[str, ...] = ("query", "queries", "query_list")
    answer_arguments: tuple[str, ...] = ("answer",)
    plain_text: PlainText = "answer"
    several: Several = "first"

    def __post_init__(self) -> None:
        """Checks the choices, and that a search is no answer."""
        Checked.__post_init__(self)
        both = sorted(set(self.search_tools) & set(self.answer_tools))
        if both:
            raise ValueError(f"search_tools and answer_tools must differ, got {both} in both")

    def to_tags(self, action: ToolAction) -> str:
        """Writes a turn in the tags of ``calibadv_env.protocol.actions``.

        The first call counts, as the first closing tag does in the grammar of tags. Whatever
        else stands behind it is kept behind the closing tag, where it makes the turn ill-formed.
        The text before the call is the thought, with or without think tags. Text that holds no
        call but one of the stop strings is left as it is, so both grammars may be mixed. Tags
        inside arguments are dropped: a query cannot close its own block.

        Args:
            action: Any text, or any mapping.

        Returns:
            A search or an answer in tags. A call with broken JSON, of an unknown tool or without
            its argument is text without search and answer tags, which is a malformed action.
            Never raises.
        """
        if isinstance(action, Mapping):
            return self._message_to_tags(action)
        head, opening, rest = action.partition(CALL_OPEN)
        if opening:
            bodies = [part.partition(CALL_CLOSE) for part in rest.split(CALL_OPEN)]
            calls = [_loads(body) for body, _, _ in bodies]
            tails = "".join(tail for _, _, tail in bodies)
            return self.calls_to_tags(self.clean(head).strip(), calls, tails, action)
        if any(stop in action for stop in self.stop_strings):
            return action
        return self._plain_to_tags(action)

    def _message_to_tags(self, message: Mapping[str, Any]) -> str:
        content = text_of(message.get("content"))
        calls = message.get("tool_calls")
        reasoning = text_of(message.get("reasoning_content") or message.get("reasoning"))
        if not isinstance(calls, Sequence) or isinstance(calls, str) or not calls:
            is_bare = bool(reasoning) and _THINK_CLOSE not in content
            thought = f"<think>{self.clean(reasoning).strip()}</think>"
            return self.to_tags(f"{thought}{content}" if is_bare else content)
        parts = (reasoning.strip(), self.clean(content).strip())
        thought = "\n".join(part for part in parts if part)
        return self.calls_to_tags(thought, calls, "", f"{content}\n{list(calls)!r}")

    def calls_to_tags(self, thought: str, calls: Sequence[Any], tail: str, written: str) -> str:
        """Writes the calls of a turn as one block; ``tail`` is text that stood behind a call."""
        parts = [self.block(call) for call in calls]
        kind, value = parts[0]
        if self.several == "join" and {each for each, _ in parts} == {"search"}:
            value, parts = "; ".join(query for _, query in parts), parts[:1]
        if kind == "malformed":
            return self.clean(written)
        rest = self.clean(tail).strip() + "".join(" (another call)" for _ in parts[1:])
        return f"<think>{thought}</think><{kind}>{value}</{kind}>{rest}"

    @property
    def tools(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        """For each kind of action the names of its tools and of their argument."""
        return (
            ("search", self.search_tools, self.query_arguments),
            ("answer", self.answer_tools, self.answer_arguments),
        )

    def clean(self, text: str) -> str:
        """Text without the tags of the actions."""
        return without_tags(text)

    def corrected(self, observation: str) -> str:
        """An observation whose corrective sentence speaks of calls."""
        return observation.replace(INVALID_ACTION_TEXT, INVALID_CALL_TEXT)

    def block(self, call: Any) -> tuple[str, str]:
        """Kind and content of one call; "malformed" for one that is none."""
        name, arguments = name_and_arguments(call)
        for kind, names, keys in self.tools:
            value = self._argument(arguments, keys) if name in names else None
            if value is not None:
                return kind, self.clean(value)
        return "malformed", ""

    def _argument(self, arguments: Mapping[str, Any], keys: Sequence[str]) -> str | None:
        for key in keys:
            value = arguments.get(key)
            values = value if isinstance(value, list) else [value]
            texts = [one for one in values if isinstance(one, str)]
            is_single = len(texts) == 1 or self.several == "join"
            if texts and is_single and len(texts) == len(values):
                return "; ".join(texts).strip()
        return None

    def _plain_to_tags(self, text: str) -> str:
        head, closing, rest = text.rpartition(_THINK_CLOSE)
        answer = self.clean(rest).strip()
        if self.plain_text == "malformed" or not answer:
            return text
        thought = self.clean(head).strip() if closing else ""
        return f"<think>{thought}</think><answer>{answer}</answer>"


def thought_of(head: str) -> str:
    """The text before a call as a thought: without any tags, stripped."""
    return without_tags(head).strip()


def without_tags(text: str, tag: re.Pattern[str] = TAG) -> str:
    """Text without the tags of the action grammar, also such as removing others would make."""
    while True:
        shorter = tag.sub("", text)
        if shorter == text:
            return text
        text = shorter


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts with text.

    Returns:
        "" for None and for anything else.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def name_and_arguments(call: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of a call: OpenAI's, nested in ``function``, or flat; or their JSON."""
    if isinstance(call, str):
        call = _loads(call)
    if not isinstance(call, Mapping):
        return "", {}
    inner = call.get("function")
    if isinstance(inner, Mapping):
        call = inner
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    name = call.get("name")
    is_sound = isinstance(name, str) and isinstance(arguments, Mapping)
    return (str(name), arguments) if is_sound else ("", {})


def _loads(text: str) -> Any:
    """JSON, or None where it is broken or nested beyond reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
