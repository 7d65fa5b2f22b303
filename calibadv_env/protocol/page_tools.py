"""Calls of the tools on pages, put into the tags that the environments of pages read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge

from calibadv_env.info import PAGE_STOP_STRINGS
from calibadv_env.protocol.page_actions import PAGE_TAG
from calibadv_env.protocol.prompts import INVALID_PAGE_TEXT
from calibadv_env.protocol.toolcalls import (
    ToolGrammar,
    function_tool,
    name_and_arguments,
    without_tags,
)

PAGE_TOOLS: Final[tuple[dict[str, Any], ...]] = (
    function_tool("search", "List sections of pages that match.", "query", "What to search for."),
    function_tool("open", "Read a page.", "page", "Its name, or page#section, as it was shown."),
    function_tool("find", "Find sentences in the page opened last.", "words", "What to look for."),
    function_tool("answer", "Give the final answer.", "answer", "The answer, short."),
)
"""The four tools, for the ``tools`` argument of a chat template or a request."""

PAGE_TOOL_PROMPT: Final = (
    "Find the answer to the question below in a collection of pages. Think before every step. The "
    "tool `search` lists sections of pages that match a query; `open` reads a page, or one section "
    "of it as `page#section`; `find` looks for words in the page that you opened last. When you "
    "know enough, call the tool `answer` with a short answer and no explanation: a number with its "
    "unit, several names with commas between them, and unanswerable if the pages do not say. A "
    "call looks like this:\n"
    '<tool_call>\n{"name": "open", "arguments": {"page": "norway#area"}}\n</tool_call>\n'
    "Question: {question}\n"
)
"""A template for the argument ``prompt`` of the environments of pages that teaches the calls."""

INVALID_PAGE_CALL_TEXT: Final = (
    "\nMy previous action is invalid. I have to call one of the tools `search`, `open` and `find`, "
    "or the tool `answer` with the answer. I will try again.\n"
)
"""Observation after a malformed call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageToolGrammar(ToolGrammar):
    """How calls of the tools on pages are read.

    Attributes:
        open_tools: Names of the tools that open.
        find_tools: Names of the tools that find.
        open_arguments: Names of the argument with the place.
        find_arguments: Names of the argument with the words.
        max_calls: Calls of a turn that are read, as the environment has it; whatever else is
            called stands behind them, where it makes the turn ill-formed.
    """

    stop_strings: ClassVar[tuple[str, ...]] = PAGE_STOP_STRINGS

    open_tools: tuple[str, ...] = ("open", "visit", "open_page")
    find_tools: tuple[str, ...] = ("find", "find_in_page")
    open_arguments: tuple[str, ...] = ("page", "id", "url", "section")
    find_arguments: tuple[str, ...] = ("words", "pattern", "text", "query")
    max_calls: Annotated[int, Ge(1)] = 1

    @property
    def tools(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        """For each kind of action the names of its tools and of their argument."""
        return (
            ("search", self.search_tools, self.query_arguments),
            ("open", self.open_tools, self.open_arguments),
            ("find", self.find_tools, self.find_arguments),
            ("answer", self.answer_tools, self.answer_arguments),
        )

    def clean(self, text: str) -> str:
        """Text without the tags of the actions."""
        return without_tags(text, PAGE_TAG)

    def corrected(self, observation: str) -> str:
        """An observation whose corrective sentence speaks of calls."""
        return observation.replace(INVALID_PAGE_TEXT, INVALID_PAGE_CALL_TEXT)

    def calls_to_tags(self, thought: str, calls: Sequence[Any], tail: str, written: str) -> str:
        """Writes the calls of a turn as blocks, one after the other.

        A turn with a malformed call among those that are read is malformed as a whole: which of
        its results belongs to which call could not be told.
        """
        parts = [part for call in calls for part in self._blocks(call)]
        kept = parts[: 1 if parts[0][0] == "answer" else self.max_calls]
        if (
            any(kind in ("malformed", "answer") for kind, _ in kept[1:])
            or kept[0][0] == "malformed"
        ):
            return self.clean(written)
        blocks = "".join(f"<{kind}>{value}</{kind}>" for kind, value in kept)
        rest = self.clean(tail).strip() + " (another call)" * (len(parts) - len(kept))
        return f"<think>{thought}</think>{blocks}{rest}"

    def _blocks(self, call: Any) -> list[tuple[str, str]]:
        """Kind and content of a call; one for each query where a search has a list of them."""
        name, arguments = name_and_arguments(call)
        given = next((arguments[key] for key in self.query_arguments if key in arguments), None)
        queries = given if isinstance(given, list) and name in self.search_tools else []
        if len(queries) < 2 or not all(isinstance(query, str) for query in queries):
            return [self.block(call)]
        return [("search", self.clean(query).strip()) for query in queries]
