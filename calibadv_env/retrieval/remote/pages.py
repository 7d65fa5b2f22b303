"""Pages of a server elsewhere: searched, opened and read without a corpus on this machine.

``pages:http://host:8000`` is a server of ``calibadv serve``, with its routes ``/open`` and
``/find``. ``visit:http://host:8000`` is one that gives the text of an address, as the tool `visit`
of web agents does: ``POST /visit`` with ``{"url": …, "goal": ""}``. The reply is JSON: a text, or
one under ``text``, ``content``, ``markdown``, ``result``, ``output`` or ``data``; it is kept for a
while, cut here, and searched through here. Searches go to ``/retrieve`` of the same server.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from calibadv_env.common.http import CallError, UnusableReplyError
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.pages import Found, Opened, Place, Shown, parse_place
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.memory import MemoryRetriever
from calibadv_env.retrieval.pages import DEFAULT_MAX_CHARS, PageStore
from calibadv_env.retrieval.remote.client import HttpRetriever

_TEXT_KEYS: Final = ("text", "content", "markdown", "result", "output", "data")
_MISSING: Final = frozenset({404, 410})
"""Statuses that say that there is no such page; others are failures."""
_KEPT: Final = 256
"""Pages that a client of a `visit` server keeps: to read on, and to find words."""


class RemotePages(HttpRetriever):
    """Pages of a server of this package; settings are those of :class:`HttpRetriever`."""

    @classmethod
    def from_spec(cls, spec: str) -> RemotePages:
        """Makes them of ``pages:http://host:8000``, with settings behind ``#`` if need be."""
        made = super().from_spec(spec.partition(":")[2])
        assert isinstance(made, RemotePages)
        return made

    def open(self, places: Sequence[str], max_chars: int = DEFAULT_MAX_CHARS) -> list[Opened]:
        """The text at places; see :class:`calibadv_env.retrieval.pages.Pages`.

        Raises:
            RetrieverError: if the server could not be reached or its answer is no answer.
        """
        records = self._asked("/open", "pages", list(places), max_chars)
        return [_opened(record) for record in records]

    def find(
        self, requests: Sequence[tuple[str, str]], max_chars: int = DEFAULT_MAX_CHARS
    ) -> list[Found]:
        """The sentences of pages that hold words; see :class:`calibadv_env.retrieval.pages.Pages`.

        Raises:
            RetrieverError: if the server could not be reached or its answer is no answer.
        """
        asked = [{"page": page, "words": words} for page, words in requests]
        records = self._asked("/find", "requests", asked, max_chars)
        return [
            Found(str(record["page"]), _shown(record), str(record["problem"])) for record in records
        ]

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`calibadv_env.retrieval.base.Retriever`."""
        return {**super().identity(), "kind": type(self).__name__}

    def _asked(
        self, route: str, key: str, items: Sequence[Any], max_chars: int
    ) -> list[Mapping[str, Any]]:
        """What a route gives for each of several items, asked in parts side by side."""
        size = self.max_queries_per_request
        parts = [items[start : start + size] for start in range(0, len(items), size)]

        def ask(part: Sequence[Any]) -> list[Mapping[str, Any]]:
            def read(reply: Any) -> list[Mapping[str, Any]]:
                results = reply.get("results") if isinstance(reply, Mapping) else None
                if not isinstance(results, list) or len(results) != len(part):
                    raise UnusableReplyError(f"the reply must hold {len(part)} results")
                if not all(_is_result(each) for each in results):
                    raise UnusableReplyError("a result must have page, sections and problem")
                return results

            record = {key: list(part), "max_chars": max_chars}
            return self._http.post_json(self._url(route), record, self._token(), read)

        try:
            return [found for answer in self._http.map(ask, parts) for found in answer]
        except CallError as error:
            raise RetrieverError(str(error)) from error.__cause__

    def _url(self, route: str) -> str:
        """The address of a route, which stands beside the one that is searched."""
        parts = urlsplit(self.url)
        folder = parts.path.rpartition("/")[0]
        return urlunsplit(parts._replace(path=f"{folder}{route}", query=""))


class VisitedPages(RemotePages):
    """Pages of a server that gives the text of an address, cut and searched through here."""

    def open(self, places: Sequence[str], max_chars: int = DEFAULT_MAX_CHARS) -> list[Opened]:
        """The text at addresses; see :class:`calibadv_env.retrieval.pages.Pages`.

        Raises:
            RetrieverError: if the server could not be reached or its answer is no answer.
        """
        read = [parse_place(place) for place in places]
        stores = self._visited([place.page for place in read])
        return [
            Opened("", problem=f"There is no page {place.page[:80]!r}.")
            if store is None
            else store.open([_without_section(place)], max_chars)[0]
            for place, store in zip(read, stores, strict=True)
        ]

    def find(
        self, requests: Sequence[tuple[str, str]], max_chars: int = DEFAULT_MAX_CHARS
    ) -> list[Found]:
        """The sentences of pages that hold words; see :class:`calibadv_env.retrieval.pages.Pages`.

        Raises:
            RetrieverError: if the server could not be reached or its answer is no answer.
        """
        stores = self._visited([page for page, _ in requests])
        return [
            Found(page, problem=f"There is no page {page[:80]!r}.")
            if store is None
            else store.find([(page, words)], max_chars)[0]
            for (page, words), store in zip(requests, stores, strict=True)
        ]

    def _visited(self, pages: Sequence[str]) -> list[PageStore | None]:
        """The pages of addresses, each fetched once; None where there is none."""
        kept = self.__dict__.setdefault("_kept", OrderedDict())
        new = [page for page in dict.fromkeys(pages) if page not in kept]
        try:
            found = dict(zip(new, self._http.map(self._visit, new), strict=True)) if new else {}
        except CallError as error:
            raise RetrieverError(str(error)) from error.__cause__
        stores = [found[page] if page in found else kept[page] for page in pages]
        kept.update(found)
        while len(kept) > _KEPT:
            kept.popitem(last=False)
        return stores

    def _visit(self, page: str) -> PageStore | None:
        """One page, fetched now."""
        record = {"url": page, "goal": ""}
        headers = {"content-type": "application/json", **self._token()}
        try:
            text = self._http.post_json(self._url("/visit"), record, headers, _text_of)
        except CallError as error:
            if error.status in _MISSING:
                return None
            raise
        if not text.strip():
            return None
        corpus = Corpus([Passage(page, page, text)])
        return PageStore(corpus, MemoryRetriever(corpus))


def _text_of(reply: Any) -> str:
    """The text in a reply, wherever it stands."""
    if isinstance(reply, str):
        return reply
    if isinstance(reply, list) and reply:
        return _text_of(reply[0])
    if isinstance(reply, Mapping):
        for key in _TEXT_KEYS:
            if reply.get(key):
                return _text_of(reply[key])
    raise UnusableReplyError(f"the reply must hold a text under one of {', '.join(_TEXT_KEYS)}")


def _without_section(place: Place) -> str:
    """A place in a page that is one section: an anchor of its address says nothing here."""
    return f"{place.page}@{place.offset}" if place.offset else place.page


def _is_result(record: Any) -> bool:
    if not isinstance(record, Mapping) or not {"page", "problem"} <= record.keys():
        return False
    sections = record.get("sections")
    keys = {"id", "title", "text"}
    return isinstance(sections, list) and all(
        isinstance(each, Mapping) and keys <= each.keys() for each in sections
    )


def _opened(record: Mapping[str, Any]) -> Opened:
    return Opened(
        page=str(record["page"]),
        sections=_shown(record),
        more=str(record.get("more", "")),
        problem=str(record["problem"]),
        start=int(record.get("start", 0)),
    )


def _shown(record: Mapping[str, Any]) -> tuple[Shown, ...]:
    return tuple(
        Shown(
            str(each["id"]),
            str(each["title"]),
            str(each["text"]),
            tuple((str(words), str(target)) for words, target in each.get("links", ())),
        )
        for each in record["sections"]
    )
