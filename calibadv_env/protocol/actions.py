"""What a policy wrote, read as an action. Pure, total and linear in the length of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from calibadv_env.info import (
    MARKER_STOP_STRINGS,
    QUERY_CLOSE,
    QUERY_OPEN,
    STOP_STRINGS,
    THINK_OPEN,
    ActionKind,
    Grammar,
)

_THINK_CLOSE: Final = "</think>"
_OPEN_TAGS: Final = {
    "</search>": "<search>",
    "</answer>": "<answer>",
    QUERY_CLOSE: QUERY_OPEN,
}
_STOP_STRINGS: Final[dict[Grammar, tuple[str, ...]]] = {
    "tags": STOP_STRINGS,
    "markers": MARKER_STOP_STRINGS,
}


@dataclass(frozen=True, slots=True)
class Search:
    """A request for passages.

    Attributes:
        think: The thought before it, stripped; "" if there is none.
        query: What to search for, stripped; may be empty.
    """

    kind: ClassVar[ActionKind] = "search"
    think: str
    query: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer.

    Attributes:
        think: The thought before it, stripped; "" if there is none.
        answer: The answer, stripped; may be empty.
    """

    kind: ClassVar[ActionKind] = "answer"
    think: str
    answer: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A turn with neither a search nor an answer.

    Attributes:
        think: Its thought, stripped; "" if there is none.
    """

    kind: ClassVar[ActionKind] = "malformed"
    think: str


Action = Search | Answer | Malformed


def parse_action(text: str, grammar: Grammar = "tags") -> Action:
    """Reads one turn.

    Only the text up to and including the first stop string counts, because that is where
    generation ends. The block that this stop string closes is the action; it begins at the first
    opening tag of its kind. Text that holds no such block is malformed. Nothing here judges the
    format: ``rewards.is_turn_well_formed`` does.

    **Source:** the environment loop of Search-R1 and CalibAdv.

    **Differs:** the references cut at the first ``</search>`` even where a ``</answer>`` comes
    before it; here whichever comes first ends the turn, so that text which a generation with
    stop strings can never contain is never acted upon.

    Args:
        text: Whatever the policy wrote, with an opening think tag that was given to it put back.
        grammar: How actions are written. With ``markers`` the thought of a search is all text
            before the query, quotation marks round the query are dropped, and a query of which
            nothing is left is malformed, as in R1-Searcher.

    Returns:
        The action. The thought is the text between the first ``<think>`` (the beginning, if only
        the closing tag is there) and the next ``</think>``; an unclosed thought ends where the
        action begins.
    """
    end, closing = _first_stop(text, _STOP_STRINGS[grammar])
    if closing is None:
        return Malformed(_think(text))
    opening = _OPEN_TAGS[closing]
    start = text.find(opening, 0, end)
    if start < 0:
        return Malformed(_think(text[:end]))
    content = text[start + len(opening) : end].strip()
    if closing == QUERY_CLOSE:
        return _marked_search(text[:start], content)
    think = _think(text[:start])
    return Search(think, content) if closing == "</search>" else Answer(think, content)


def _marked_search(head: str, content: str) -> Action:
    """A query between markers, with the text before it as its thought."""
    query = content.strip("\"'“”‘’").strip()
    return Search(head.strip(), query) if query else Malformed(head.strip())


def _first_stop(text: str, stop_strings: tuple[str, ...]) -> tuple[int, str | None]:
    """Position and name of the first stop string."""
    end, closing = len(text), None
    for stop in stop_strings:
        position = text.find(stop, 0, end)
        if position >= 0:
            end, closing = position, stop
    return end, closing


def _think(head: str) -> str:
    """The thought in the text that precedes an action."""
    start = head.find(THINK_OPEN)
    if start < 0:
        end = head.find(_THINK_CLOSE)
        return head[:end].strip() if end >= 0 else ""
    start += len(THINK_OPEN)
    end = head.find(_THINK_CLOSE, start)
    return (head[start:] if end < 0 else head[start:end]).strip()
