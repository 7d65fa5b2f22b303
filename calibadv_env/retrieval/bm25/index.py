"""BM25 over an index on disk that is memory-mapped, for corpora that do not fit into memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import ONLY_MATCHES, check_search, only_matches, take
from calibadv_env.retrieval.bm25.build import (
    POSITIONS,
    SCORES,
    STARTS,
    WORD_IDS,
    WORD_STARTS,
    WORDS,
)
from calibadv_env.retrieval.bm25.scan import PostingsScan, Word
from calibadv_env.retrieval.bm25.settings import Bm25Settings
from calibadv_env.retrieval.bm25.words import rules_of, splitter
from calibadv_env.retrieval.disk_index import DiskIndex
from calibadv_env.retrieval.filled import FilledUp
from calibadv_env.retrieval.index_files import (
    check_settings,
    map_array,
)

_CACHED_WORDS: Final = 1 << 13


class Bm25Index(DiskIndex):
    """Searches what :func:`calibadv_env.retrieval.bm25.build.build_bm25_index` wrote.

    Scores and order are those of :class:`calibadv_env.retrieval.bm25.memory.Bm25Retriever` over the
    same passages, to the last bit. The postings are memory-mapped, and scores are summed for one
    block of passages after the other, so the process itself needs a megabyte for each thread that
    searches, however large the corpus; the system keeps in its page cache what it has room for.

    **Differs** for queries of more than 256 known words alone: there each distinct word is
    looked up once and weighted by its count, which bounds the time by the size of the index; the
    sum is the same but for rounding.

    It pickles by its path. Threads may share it.

    Args:
        folder: The index.
        verify: If true, every file is read and hashed first; else only sizes are compared.
        in_memory: If true, the postings are read into memory; else they are mapped.

    Raises:
        DataError: if there is no such index, or its files are not the ones that were written.
    """

    kind = "bm25"

    def __init__(
        self, folder: str | Path, *, verify: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(folder, verify=verify)
        folder = self.folder
        self.settings = _read_settings(folder, self.manifest.settings)
        self._split = splitter(self.settings.rules)
        self._in_memory = in_memory
        scores = map_array(folder / SCORES, "<f4", in_memory=in_memory)
        positions = map_array(folder / POSITIONS, "<i4", in_memory=in_memory)
        self._scan = PostingsScan(positions, scores, len(self.corpus))
        self._starts = map_array(folder / STARTS, "<i8", in_memory=in_memory)
        self._words = map_array(folder / WORDS, "u1", in_memory=in_memory)
        self._word_starts = map_array(folder / WORD_STARTS, "<i8", in_memory=in_memory)
        self._word_ids = map_array(folder / WORD_IDS, "<i4", in_memory=in_memory)
        if len(self._word_ids) + 1 != len(self._starts):
            raise DataError(f"{folder}: the vocabulary does not fit the postings; build it again")
        self._known_word = lru_cache(_CACHED_WORDS)(self._open_word)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        A query that stands in the batch more than once is searched once.

        Raises:
            RetrieverError: if the files changed under the process.
        """
        count = check_search(queries, top_k, self.corpus)
        words = {query: self._words_of(query) for query in dict.fromkeys(queries)}
        known = [query for query, found in words.items() if found]
        try:
            hits = self._scan.search([words[query] for query in known], count)
        except IndexError as error:
            raise RetrieverError(f"{self.folder}: the index is damaged: {error}") from error
        ranked = dict(zip(known, map(only_matches, hits), strict=True))
        return [take(self.corpus.passages, ranked.get(query, ())) for query in queries]

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        return {**super().identity(), ONLY_MATCHES: True}

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        return FilledUp(self)

    def _words_of(self, query: str) -> list[Word]:
        known = map(self._known_word, self._split(query))
        return [word for word in known if word is not None]

    def _open_word(self, word: str) -> Word | None:
        number = self._find_word(word)
        if number is None:
            return None
        start, end = self._starts[number : number + 2].tolist()
        return self._scan.word(start, end)

    def _find_word(self, word: str) -> int | None:
        """Binary search among the sorted words."""

        def word_at(place: int) -> bytes:
            start, end = self._word_starts[place : place + 2].tolist()
            return self._words[start:end].tobytes()

        wanted = word.encode("utf-8", "surrogatepass")
        size = len(self._word_ids)
        place = bisect_left(range(size), wanted, key=word_at)
        return int(self._word_ids[place]) if place < size and word_at(place) == wanted else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by path."""
        return partial(Bm25Index, in_memory=self._in_memory), (self.folder,)


def _read_settings(folder: Path, record: Any) -> Bm25Settings:
    """Refuses an index whose words or formula are not those of this code."""
    try:
        settings = Bm25Settings(k1=record["k1"], b=record["b"], words=rules_of(record))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: the settings are damaged: {error}; build it again") from error
    check_settings(folder, record, settings.as_record())
    return settings
