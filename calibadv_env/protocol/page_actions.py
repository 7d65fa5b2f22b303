"""Actions on pages read from what a policy wrote, and the verdict on their format.

A turn makes calls, ``<search>words</search>``, ``<open>page#section</open>`` and
``<find>words</find>``, or gives the ``<answer>``. Pure, total and linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Final

from calibadv_env.info import PAGE_STOP_STRINGS, ActionKind
from calibadv_env.protocol.actions import END_OF_TEXT, Answer, Malformed, first_stop, thought_in

PAGE_TAG: Final = re.compile(r"</?(?:think|search|open|find|information|answer)>")
"""A tag of the grammar of actions and observations."""

SEVERAL_STOP_STRINGS: Final = ("</answer>", "<information>")
"""Strings that end a turn of several calls: such a turn ends where the model ends its text, or
where it begins to make up what comes back."""

_PLAIN_TURN: Final = re.compile(
    r"\s*<think>[^<]*</think>\s*<(search|open|find|answer)>[^<]*</\1>\s*"
)
"""The usual well-formed turn, one without any other ``<``: decides most cases at once."""
_NEXT_CALL: Final = re.compile(r"\s*<(search|open|find)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the corpus.

    Attributes:
        kind: "search", "open" or "find".
        argument: Words, or the place to open; stripped, may be empty.
    """

    kind: ActionKind
    argument: str


@dataclass(frozen=True, slots=True)
class Calls:
    """A turn with calls.

    Attributes:
        think: The thought before them, stripped; "" if there is none.
        calls: At least one, in order.
        num_over: Calls beyond the number that a turn may have; they are not read.
    """

    think: str
    calls: tuple[Call, ...]
    num_over: int = 0

    @property
    def kind(self) -> ActionKind:
        """Kind of the first call."""
        return self.calls[0].kind


PageAction = Calls | Answer | Malformed


def parse_page_action(text: str, max_calls: int = 1) -> PageAction:
    """Reads one turn.

    As in :func:`calibadv_env.protocol.actions.parse_action` the block that the first closing tag
    closes is the action, and it begins at the first opening tag of its kind. With ``max_calls``
    above 1 the calls that follow it, with only white space between, belong to the turn too.

    Args:
        text: Whatever the policy wrote, with an opening think tag that was given to it put back.
        max_calls: Calls that are read, at least 1.

    Returns:
        The action; calls beyond ``max_calls`` are counted, but not with one call a turn, where the
        turn ends with it.
    """
    end, closing = first_stop(text, PAGE_STOP_STRINGS)
    if closing is None:
        return Malformed(thought_in(text))
    opening = closing.replace("/", "")
    start = text.find(opening, 0, end)
    if start < 0:
        return Malformed(thought_in(text[:end]))
    think = thought_in(text[:start])
    content = text[start + len(opening) : end].strip()
    if closing == "</answer>":
        return Answer(think, content)
    calls = [Call(_kind(opening[1:-1]), content)]
    if max_calls > 1:
        calls += _further_calls(text, end + len(closing))
    return Calls(think, tuple(calls[:max_calls]), max(0, len(calls) - max_calls))


def _further_calls(text: str, position: int) -> list[Call]:
    """Calls that follow the first one directly."""
    calls: list[Call] = []
    while (found := _NEXT_CALL.match(text, position)) is not None:
        name = found.group(1)
        end = text.find(f"</{name}>", found.end())
        if end < 0:
            break
        calls.append(Call(_kind(name), text[found.end() : end].strip()))
        position = end + len(name) + 3
    return calls


def _kind(name: str) -> ActionKind:
    """The kind of a tag's name."""
    return "search" if name == "search" else "open" if name == "open" else "find"


def is_page_turn_well_formed(text: str, action: PageAction) -> bool:
    """Tells if a turn is exactly a thought and its calls, or a thought and an answer.

    Args:
        text: The action, with an opening think tag that was given to the policy put back.
        action: What it was read as.

    Returns:
        The verdict; a malformed action and one with too many calls are never well-formed.
    """
    if isinstance(action, Malformed) or (isinstance(action, Calls) and action.num_over):
        return False
    plain = _PLAIN_TURN.fullmatch(text)
    if plain is not None and (isinstance(action, Answer) or len(action.calls) == 1):
        return True
    names = ["answer"] if isinstance(action, Answer) else [call.kind for call in action.calls]
    expected = [f"<{slash}{name}>" for name in ("think", *names) for slash in ("", "/")]
    text = text.replace(END_OF_TEXT, "")
    tags = list(islice(PAGE_TAG.finditer(text), len(expected) + 1))
    if [tag.group() for tag in tags] != expected:
        return False
    bounds = [0, *(position for tag in tags for position in tag.span()), len(text)]
    # Between the blocks, before the first and behind the last: every second gap.
    gaps = (text[start:end] for start, end in zip(bounds[::4], bounds[1::4], strict=True))
    return not any(gap.strip() for gap in gaps)


def page_stop_strings(max_calls: int = 1) -> tuple[str, ...]:
    """Strings that end a turn of so many calls at most."""
    return PAGE_STOP_STRINGS if max_calls == 1 else SEVERAL_STOP_STRINGS
