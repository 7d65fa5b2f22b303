"""Actions read from what a policy wrote, and the verdict on their format.

Pure, total and linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Final, Literal

from calibadv_env.info import (
    DOCUMENTS_CLOSE,
    DOCUMENTS_OPEN,
    MARKER_STOP_STRINGS,
    QUERY_CLOSE,
    QUERY_OPEN,
    STOP_STRINGS,
    THINK_OPEN,
    ActionKind,
    Grammar,
)

TAG: Final = re.compile(r"</?(?:think|search|information|answer)>")
"""A tag of the grammar of actions and observations."""

END_OF_TEXT: Final = "<|endoftext|>"
"""Token with which models end a text; verdicts on the format pass over it."""

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
_PLAIN_TURN: Final = re.compile(r"\s*<think>[^<]*</think>\s*<(search|answer)>[^<]*</\1>\s*")
"""The usual well-formed turn, one without any other ``<``: decides most cases at once."""
_MARKERS: Final = re.compile(
    "|".join(
        [
            "</?(?:think|answer)>",
            *map(re.escape, (QUERY_OPEN, QUERY_CLOSE, DOCUMENTS_OPEN, DOCUMENTS_CLOSE)),
        ]
    )
)
_TURN_MARKERS: Final[dict[ActionKind, list[str]]] = {
    "search": [QUERY_OPEN, QUERY_CLOSE],
    "answer": ["</think>", "<answer>", "</answer>"],
}
_TURN_TAGS: Final[dict[ActionKind, list[str]]] = {
    "search": ["<think>", "</think>", "<search>", "</search>"],
    "answer": ["<think>", "</think>", "<answer>", "</answer>"],
}


@dataclass(frozen=True, slots=True)
class Search:
    """A request for passages.

    Attributes:
        think: The thought before it, stripped; "" if there is none.
        query: What to search for, stripped; may be empty.
    """

    kind: ClassVar[Literal["search"]] = "search"
    think: str
    query: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer.

    Attributes:
        think: The thought before it, stripped; "" if there is none.
        answer: The answer, stripped; may be empty.
    """

    kind: ClassVar[Literal["answer"]] = "answer"
    think: str
    answer: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A turn with neither a search nor an answer.

    Attributes:
        think: Its thought, stripped; "" if there is none.
    """

    kind: ClassVar[Literal["malformed"]] = "malformed"
    think: str


Action = Search | Answer | Malformed


def parse_action(text: str, grammar: Grammar = "tags") -> Action:
    """Reads one turn.

    Only the text up to and including the first stop string counts, because that is where
    generation ends. The block that this stop string closes is the action; it begins at the first
    opening tag of its kind. Text that holds no such block is malformed. Nothing here judges the
    format: :func:`is_turn_well_formed` does.

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
    end, closing = first_stop(text, _STOP_STRINGS[grammar])
    if closing is None:
        return Malformed(thought_in(text))
    opening = _OPEN_TAGS[closing]
    start = text.find(opening, 0, end)
    if start < 0:
        return Malformed(thought_in(text[:end]))
    content = text[start + len(opening) : end].strip()
    if closing == QUERY_CLOSE:
        return _marked_search(text[:start], content)
    think = thought_in(text[:start])
    return Search(think, content) if closing == "</search>" else Answer(think, content)


def _marked_search(head: str, content: str) -> Action:
    """A query between markers, with the text before it as its thought."""
    query = content.strip("\"'“”‘’").strip()
    return Search(head.strip(), query) if query else Malformed(head.strip())


def first_stop(text: str, stop_strings: tuple[str, ...]) -> tuple[int, str | None]:
    """Position and name of the first stop string in a text; its end and None without one."""
    end, closing = len(text), None
    for stop in stop_strings:
        position = text.find(stop, 0, end)
        if position >= 0:
            end, closing = position, stop
    return end, closing


def thought_in(head: str) -> str:
    """The thought in the text that precedes an action."""
    start = head.find(THINK_OPEN)
    if start < 0:
        end = head.find(_THINK_CLOSE)
        return head[:end].strip() if end >= 0 else ""
    start += len(THINK_OPEN)
    end = head.find(_THINK_CLOSE, start)
    return (head[start:] if end < 0 else head[start:end]).strip()


def is_turn_well_formed(text: str, kind: ActionKind, grammar: Grammar = "tags") -> bool:
    """Tells if one action is exactly a thought and a search, or a thought and an answer.

    The whole text as written is judged, also what stands behind the closing tag: the only tags
    are ``<think> </think>`` and the pair of the action, in this order, with nothing but white
    space outside the two blocks.

    **Source:** the format state machine of CalibAdv, cut at turn boundaries.

    **Differs:** the reference runs over the joined text of actions and observations, so that a
    tag in a retrieved passage invalidates a sound response, and a policy may write its own
    ``<information>`` block. Here passages are not looked at and such a block is an error.

    Args:
        text: The action, with an opening think tag that was given to the policy put back.
        kind: What the action was read as.
        grammar: How actions are written. With ``markers`` an episode is one thought that the
            prompt opens: a search is any text and one marked query, an answer closes the thought.

    Returns:
        The verdict; a malformed action is never well-formed.
    """
    if grammar == "markers":
        return _is_marked_turn_well_formed(text, kind)
    expected = _TURN_TAGS.get(kind)
    if expected is None:
        return False
    plain = _PLAIN_TURN.fullmatch(text)
    if plain is not None:
        return plain.group(1) == kind
    text = text.replace(END_OF_TEXT, "")
    tags = list(islice(TAG.finditer(text), 5))
    if [tag.group() for tag in tags] != expected:
        return False
    outside = (
        text[: tags[0].start()],
        text[tags[1].end() : tags[2].start()],
        text[tags[3].end() :],
    )
    return not any(gap.strip() for gap in outside)


def _is_marked_turn_well_formed(text: str, kind: ActionKind) -> bool:
    """The verdict under the markers of R1-Searcher."""
    text = text.replace(END_OF_TEXT, "")
    marks = list(islice(_MARKERS.finditer(text), 4))
    if [mark.group() for mark in marks] != _TURN_MARKERS.get(kind):
        return False
    gaps = [text[marks[-1].end() :]]
    if kind == "answer":
        gaps.append(text[marks[0].end() : marks[1].start()])
    return not any(gap.strip() for gap in gaps)
