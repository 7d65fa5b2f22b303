"""Pages: places in them, what opening and finding give, and the form in which it is read. Pure.

A page is the passages of a corpus whose ids begin alike: ``norway#area`` is the section ``area`` of
the page ``norway``, and so is ``report#3``, the third piece of a document that was cut. A passage
whose id has no ``#`` is a page of one section, or the beginning of the page of that name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from calibadv_env.protocol.passages import ScoredPassage

LINK: Final = re.compile(r"\[([^\[\]\n]+)\]\(([^()\s]+)\)")
"""A link in the text of a passage, ``[words](page)``, as in Markdown."""

NOT_CARRIED_OUT: Final = "Not carried out: no calls left. Give the answer."
"""Result of a call beyond the budget."""

NO_PAGE_OPEN: Final = "No page is open: open one before you look for words in it."
"""Result of a find before the first open."""

NO_HITS: Final = "Nothing found."
"""Result of a search that finds nothing."""

_LINKS: Final = "\nLinks: "
_MORE: Final = "\nMore at "
_PLACE: Final = re.compile(r"(?P<page>[^#]*?)(?:#(?P<section>.*?))?(?:@(?P<offset>\d{1,9}))?", re.S)
_WORD: Final = re.compile(r"\w+")
_NO_WORD: Final = re.compile(r"\W")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to open: ``page``, ``page#section``, or either with ``@characters`` to go on.

    Attributes:
        page: Name of the page.
        section: Name of the section; "" for the beginning of the page.
        offset: Characters of the section that were read before.
    """

    page: str
    section: str = ""
    offset: int = 0

    @property
    def section_id(self) -> str:
        """The id of the section, or of the page."""
        return f"{self.page}#{self.section}" if self.section else self.page


def parse_place(text: str) -> Place:
    """Reads a place, however odd the text is; blanks round it and a leading ``#`` go."""
    found = _PLACE.fullmatch(text.strip().lstrip("#"))
    if found is None:
        return Place(text.strip())
    page, section = found["page"].strip(), (found["section"] or "").strip()
    return Place(page, section, int(found["offset"] or 0))


def page_of(section_id: str) -> str:
    """The page of a section's id."""
    return section_id.partition("#")[0]


@dataclass(frozen=True, slots=True)
class Shown:
    """Text of one section, as it is shown.

    Attributes:
        id: Id of the section.
        title: Title of the page or section.
        text: Its text, or the part that is shown, without the marks of links.
        links: Words and place of each link in it.
    """

    id: str
    title: str
    text: str
    links: tuple[tuple[str, str], ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Places that it links to, each once."""
        return tuple(dict.fromkeys([target for _, target in self.links]))

    @property
    def head(self) -> str:
        """The line above it: id and title."""
        return f"{self.id} ({self.title})"

    def cut(self, max_chars: int) -> Shown:
        """The beginning of it, with the links whose words stand there."""
        if len(self.text) <= max_chars:
            return self
        text = cut_at_word(self.text, max_chars)
        kept = tuple([link for link in self.links if link[0] in text]) if self.links else ()
        return Shown(self.id, self.title, text, kept)


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening a place gives.

    Attributes:
        page: Name of the page; "" if there is no such page.
        sections: What is shown, in order; empty with a problem.
        more: Where it goes on, to be opened next; "" at the end of the page.
        problem: What is wrong with the place, as a sentence; "" if nothing is.
        start: Characters of the first section that lie before what is shown.
    """

    page: str
    sections: tuple[Shown, ...] = ()
    more: str = ""
    problem: str = ""
    start: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What finding words in a page gives.

    Attributes:
        page: Name of the page.
        sentences: The matching sentences with the sections that they stand in.
        problem: What is wrong, as a sentence; "" if nothing is.
    """

    page: str
    sentences: tuple[Shown, ...] = ()
    problem: str = ""


def cut_opened(opened: Opened, max_chars: int) -> Opened:
    """As much of what was opened as fits.

    The first section is cut at a word; further ones are shown only as they fit whole.

    Args:
        opened: What a place gives.
        max_chars: Most characters of the sections' texts.

    Returns:
        The part that fits, with ``more`` set to where it goes on.
    """
    if not opened.sections:
        return opened
    first, *others = opened.sections
    if len(first.text) > max_chars:
        part = first.cut(max_chars)
        more = f"{first.id}@{opened.start + len(part.text)}"
        return Opened(opened.page, (part,), more, opened.problem, opened.start)
    if not others:
        return opened
    kept, left = [first], max_chars - len(first.text)
    for section in others:
        left -= len(section.text) + len(section.head) + 2
        if left < 0:
            return replace(opened, sections=tuple(kept), more=section.id)
        kept.append(section)
    return replace(opened, sections=tuple(kept))


def cut_at_word(text: str, max_chars: int) -> str:
    """The beginning of a text, ended at a blank if there is one in its last half."""
    if len(text) <= max_chars:
        return text
    end = text.rfind(" ", max_chars // 2, max_chars + 1)
    return text[: end if end > 0 else max_chars]


def snippet(text: str, query: str, max_chars: int) -> str:
    """The part of a text round the words of a query.

    Args:
        text: Any text.
        query: Any words.
        max_chars: Most characters.

    Returns:
        The stretch from a little before the first word of the query on; the beginning where none
        stands in the text, or where all fits.
    """
    plain, words = _in_words(text)
    if len(plain) <= max_chars:
        return plain
    start = len(plain)
    for word in _words_of(query):
        # No further than to the earliest word so far: a later one does not count.
        place = words.find(word, 0, start + len(word) - 1)
        if place >= 0:
            start = place
    if start < max_chars // 2 or start == len(plain):
        return cut_at_word(plain, max_chars)
    begin = plain.rfind(" ", 0, max(1, start - max_chars // 8)) + 1
    return cut_at_word(plain[begin:], max_chars)


@lru_cache(maxsize=16_384)
def _in_words(text: str) -> tuple[str, str]:
    """A text without marks of links, and the same in lower case with blanks for all but letters.

    A blank stands before the latter, so that a place in it is one in the former.
    """
    plain = LINK.sub(r"\1", text)
    lowered = plain.lower()
    # A few letters become two in lower case; then places would not agree.
    lowered = lowered if len(lowered) == len(plain) else plain
    return plain, f" {_NO_WORD.sub(' ', lowered)} "


@lru_cache(maxsize=1024)
def _words_of(query: str) -> tuple[str, ...]:
    """The words of a query that are worth looking for, each between blanks."""
    return tuple({f" {word} ": None for word in _WORD.findall(query.lower()) if len(word) > 2})


def hits_within(
    hits: Sequence[ScoredPassage], query: str, max_chars: int
) -> tuple[tuple[Shown, ...], str]:
    """The hits of a search as a policy reads them: a line ``id (title) snippet`` each.

    Args:
        hits: In rank order.
        query: What was searched for.
        max_chars: Most characters of the text.

    Returns:
        Hits with their snippets, as many as have room, and the text. Snippets share the room
        that ids and titles leave.
    """
    heads: list[str] = []
    left = max_chars
    for hit in hits:
        head = f"{hit.passage.id} ({hit.passage.title})"
        if heads and left < len(head) + 2:
            break
        heads.append(head)
        left -= len(head) + 2
    share = max(0, left) // max(1, len(heads))
    passages = [hit.passage for hit in hits[: len(heads)]]
    shown = [Shown(each.id, each.title, snippet(each.text, query, share)) for each in passages]
    lines = [f"{head} {each.text}".rstrip() for head, each in zip(heads, shown, strict=True)]
    return tuple(shown), "\n".join(lines)[:max_chars] or NO_HITS


def opened_within(opened: Opened, max_chars: int) -> tuple[Opened, str]:
    """What was opened as a policy reads it: sections, links, and where it goes on.

    Args:
        opened: What a place gives.
        max_chars: Most characters of the text.

    Returns:
        The part that has room, and the text. Links that find no room are not named.
    """
    if not opened.sections:
        return opened, opened.problem[:max_chars]
    first = opened.sections[0]
    room = max_chars - len(_line(first)) - 1
    is_whole = len(opened.sections) == 1 and len(first.text) <= room
    room -= 0 if is_whole and not opened.more else len(_MORE) + len(first.id) + 8
    part = cut_opened(opened, max(room, max_chars // 4))
    body = "\n".join([f"{_line(each)}\n{each.text}" for each in part.sections])
    more = f"{_MORE}{part.more}" if part.more else ""
    links = ""
    for target in dict.fromkeys([link for each in part.sections for _, link in each.links]):
        longer = f"{links}, {target}" if links else f"{_LINKS}{target}"
        if len(body) + len(longer) + len(more) > max_chars:
            break
        links = longer
    return part, body + links + more


def _line(shown: Shown) -> str:
    """The line above an opened section: the title only of a page, as an id says the rest."""
    return shown.id if "#" in shown.id else shown.head


def found_within(found: Found, max_chars: int) -> tuple[Found, str]:
    """What was found as a policy reads it: a line ``section: sentence`` each.

    Args:
        found: The sentences.
        max_chars: Most characters of the text.

    Returns:
        The sentences that have room, the first one cut if need be, and the text.
    """
    if not found.sentences:
        return found, found.problem[:max_chars]
    kept: list[Shown] = []
    left = max_chars
    for sentence in found.sentences:
        size = len(sentence.id) + len(sentence.text) + 3
        if size > left and kept:
            break
        kept.append(sentence.cut(max(1, left - len(sentence.id) - 3)))
        left -= size
    text = "\n".join([f"{each.id}: {each.text}" for each in kept])
    return Found(found.page, tuple(kept), found.problem), text
