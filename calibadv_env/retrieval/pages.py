"""Pages over a corpus: search them, open them, find words in them."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Final, Protocol, runtime_checkable

from calibadv_env.protocol.pages import (
    LINK,
    Found,
    Opened,
    Place,
    Shown,
    cut_opened,
    page_of,
    parse_place,
)
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import (
    AskedTask,
    Retriever,
    retriever_identity,
    search_with_tasks,
)
from calibadv_env.retrieval.corpus import Corpus

DEFAULT_MAX_CHARS: Final = 2000
"""Characters that an open or a find gives where no number is named."""

_MAX_NAMES: Final = 5_000
"""Most names among which near ones are looked for when a page is not there."""
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD: Final = re.compile(r"\w+")
_LITTLE: Final = frozenset({"a", "an", "and", "are", "for", "in", "is", "of", "on", "the", "to"})


@dataclass(frozen=True, slots=True)
class _Sentences:
    """The sentences of a page.

    Attributes:
        shown: Each sentence and its section, in order.
        heads: For each the stems of its section's title and id.
        places: For each stem the sentences that have it, or whose section has it.
    """

    shown: tuple[Shown, ...]
    heads: tuple[frozenset[str], ...]
    places: Mapping[str, Sequence[int]]


@runtime_checkable
class Pages(Protocol):
    """Answers batches of searches, opens and finds; a retriever that can do more."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks sections for each query; see :class:`calibadv_env.retrieval.base.Retriever`."""
        ...

    def open(self, places: Sequence[str], max_chars: int = DEFAULT_MAX_CHARS) -> list[Opened]:
        """The text at places, cut to a number of characters each.

        Args:
            places: ``page``, ``page#section``, or either with ``@characters``; any text.
            max_chars: Most characters of text at each place, at least 1.

        Returns:
            One answer a place; a place that is not there has a ``problem`` in words.

        Raises:
            RetrieverError: if the pages could not be read.
        """
        ...

    def find(
        self, requests: Sequence[tuple[str, str]], max_chars: int = DEFAULT_MAX_CHARS
    ) -> list[Found]:
        """The sentences of pages that hold words.

        Args:
            requests: Pages, each with the words to look for.
            max_chars: Most characters of sentences for each, at least 1.

        Returns:
            One answer a request; where nothing matches it has a ``problem`` in words.

        Raises:
            RetrieverError: if the pages could not be read.
        """
        ...


class PageStore:
    """Pages made of the passages of a corpus, and a retriever that searches these.

    ``page#section`` is a section of ``page``; the sections of a page stand in corpus order
    (:mod:`calibadv_env.protocol.pages`). So every corpus is one of pages: documents that were cut
    are pages of numbered sections, and a passage by itself is a page of one. Links are
    ``[words](page)`` in the text; those to pages that are not there are left as text.

    Args:
        corpus: The passages.
        retriever: Searches them.
    """

    def __init__(self, corpus: Corpus, retriever: Retriever) -> None:
        self.corpus = corpus
        self.retriever = retriever
        self._sentences = lru_cache(maxsize=1024)(self._sentences_of)
        self._shown = lru_cache(maxsize=16_384)(self._shown_of)

    @cached_property
    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of the sections of every page, by its name, in order."""
        pages: dict[str, list[str]] = {}
        for passage in self.corpus:
            pages.setdefault(page_of(passage.id), []).append(passage.id)
        return {page: tuple(ids) for page, ids in pages.items()}

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks sections for each query; see :class:`Pages`."""
        return self.retriever.search(queries, top_k)

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[list[ScoredPassage]]:
        """Ranks sections, and tells the task of each query to a retriever that takes tasks."""
        return search_with_tasks(self.retriever, queries, top_k, tasks)

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        return {"kind": "PageStore", "retriever": retriever_identity(self.retriever)}

    def open(self, places: Sequence[str], max_chars: int = DEFAULT_MAX_CHARS) -> list[Opened]:
        """The text at places; see :class:`Pages`.

        ``page#section`` gives that section and no other; ``page`` reads from the beginning on.
        """
        _check_chars(max_chars)
        return [self._open(place, max_chars) for place in places]

    def find(
        self, requests: Sequence[tuple[str, str]], max_chars: int = DEFAULT_MAX_CHARS
    ) -> list[Found]:
        """The sentences that hold most of the words; see :class:`Pages`.

        The title of a section counts as part of each of its sentences, and so do the words of its
        id. Plural and singular are one. Of sentences with equally many words those under a fitting
        title come first, else they stand in page order; those of one section stand together.
        """
        _check_chars(max_chars)
        return [self._find(page, words, max_chars) for page, words in requests]

    def _open(self, text: str, max_chars: int) -> Opened:
        place = parse_place(text)
        ids = self.sections.get(place.page)
        if ids is None:
            return Opened("", problem=self._no_page(place.page))
        first = 0
        if place.section:
            if place.section_id not in self.corpus:
                return Opened(place.page, problem=_no_section(place, ids))
            first = ids.index(place.section_id)
        whole = self._shown(ids[first])
        rest = whole.text[place.offset :].lstrip()
        if place.offset and not rest:
            problem = f"{whole.id} ends before character {place.offset}."
            return Opened(place.page, problem=problem)
        start = len(whole.text) - len(rest)
        links = tuple(link for link in whole.links if link[0] in rest)
        shown = [Shown(whole.id, whole.title, rest, links) if start else whole]
        if place.section:
            return cut_opened(Opened(place.page, tuple(shown), start=start), max_chars)
        return self._from_beginning(place.page, shown, ids, start, max_chars)

    def _from_beginning(
        self, page: str, shown: list[Shown], ids: Sequence[str], start: int, max_chars: int
    ) -> Opened:
        """A page from its first section on; no more of it is fetched than fits."""
        size = len(shown[0].text)
        for section in ids[1:]:
            if size > max_chars:
                break
            shown.append(self._shown(section))
            size += len(shown[-1].text)
        return cut_opened(Opened(page, tuple(shown), start=start), max_chars)

    def _find(self, page: str, words: str, max_chars: int) -> Found:
        if page not in self.sections:
            return Found(page, problem=self._no_page(page))
        wanted = _stems(words) - _LITTLE or _stems(words)
        rows = self._sentences(page)
        scores = Counter(chain.from_iterable([rows.places.get(word, ()) for word in wanted]))
        if not scores:
            return Found(page, problem=f"No sentence of {page} has these words: {words[:80]}")
        best = max(scores.values())
        kept = sorted(place for place, score in scores.items() if score == best)
        kept.sort(key=lambda place: -len(wanted & rows.heads[place]))
        found: dict[str, Shown] = {}
        for place in kept:
            shown = rows.shown[place]
            if max_chars <= 0:
                break
            max_chars -= len(shown.text)
            earlier = found.get(shown.id)
            text = f"{earlier.text} {shown.text}" if earlier else shown.text
            found[shown.id] = replace(shown, text=text)
        return Found(page, tuple(found.values()))

    def _shown_of(self, section: str) -> Shown:
        """A section with its links apart from its text."""
        passage = self.corpus.by_id(section)
        links = tuple(
            (words, target)
            for words, target in LINK.findall(passage.text)
            if page_of(target) in self.sections
        )
        return Shown(passage.id, passage.title, _without_marks(passage.text, links), links)

    def _sentences_of(self, page: str) -> _Sentences:
        """The sentences of a page."""
        pieces: list[Shown] = []
        heads: list[frozenset[str]] = []
        places: dict[str, list[int]] = {}
        for section in self.sections[page]:
            shown = self._shown(section)
            head = _stems(f"{shown.title} {section.partition('#')[2]}")
            for text in filter(str.strip, _SENTENCE_END.split(shown.text)):
                for stem in head | _stems(text):
                    places.setdefault(stem, []).append(len(pieces))
                pieces.append(Shown(shown.id, shown.title, text.strip()))
                heads.append(head)
        return _Sentences(tuple(pieces), tuple(heads), places)

    def _no_page(self, page: str) -> str:
        text = f"There is no page {page[:80]!r}."
        near = _near(page, self.sections) if len(self.sections) <= _MAX_NAMES else []
        return f"{text} Near: {', '.join(near)}" if near else text

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is worked out again."""
        return {"corpus": self.corpus, "retriever": self.retriever}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _check_chars(max_chars: int) -> None:
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, got {max_chars}")


def _no_section(place: Place, ids: Sequence[str]) -> str:
    near = _near(place.section, [each.partition("#")[2] for each in ids])
    text = f"There is no section {place.section[:80]!r} in {place.page}."
    return f"{text} Near: {', '.join(f'{place.page}#{each}' for each in near)}" if near else text


def _near(name: str, names: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """The names most like one that is not there."""
    return difflib.get_close_matches(name[:80].lower(), names, n=3)


def _without_marks(text: str, links: Sequence[tuple[str, str]]) -> str:
    """The text with links that lead somewhere as plain words."""
    if not links:
        return text
    known = {target for _, target in links}
    return LINK.sub(lambda m: m.group(1) if m.group(2) in known else m.group(), text)


def _stems(text: str) -> frozenset[str]:
    """Words in lower case, without the s of a plural."""
    words = _WORD.findall(text.lower())
    return frozenset(w[:-1] if len(w) > 3 and w.endswith("s") else w for w in words)


def pages_of(retriever: Retriever) -> Pages | None:
    """Pages that a retriever searches: itself, or those of its corpus; None without a corpus."""
    if isinstance(retriever, Pages):
        return retriever
    inner: Any = getattr(retriever, "retriever", retriever)  # of one that spreads its batches
    corpus = getattr(inner, "corpus", None)
    return None if corpus is None else PageStore(corpus, retriever)
