"""BM25 over an index on disk that is memory-mapped, for corpora that do not fit into memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.retrieval.base import ScoredPassage
from calibadv_env.retrieval.bm25_build import (
    POSITIONS,
    SCORES,
    STARTS,
    WORD,
    WORD_IDS,
    WORD_STARTS,
    WORDS,
    Bm25Settings,
)
from calibadv_env.retrieval.corpus import check_search
from calibadv_env.retrieval.disk_corpus import DiskCorpus
from calibadv_env.retrieval.index_files import check_files, map_array, read_manifest

_FEW: Final = 16
_LONG_QUERY: Final = 256
_CACHED_WORDS: Final = 1 << 16


class Bm25Index:
    """Searches what :func:`calibadv_env.retrieval.bm25_build.build_bm25_index` wrote.

    Scores and order are those of :class:`calibadv_env.retrieval.bm25.Bm25Retriever` over the
    same passages, to the last bit. The postings are memory-mapped: the process itself needs 4
    bytes a passage for each thread that searches, and the system keeps in its page cache what it
    has room for.

    **Differs** for queries of more than 256 known words alone: there each distinct word is
    looked up once and weighted by its count, which bounds the time by the size of the index; the
    sum is the same but for rounding.

    It pickles by its path. Threads may share it.

    Args:
        folder: The index.
        verify: Whether to read and hash every file first; else only sizes are compared.
        in_memory: Whether to read the postings into memory instead of mapping them.

    Raises:
        DataError: if there is no such index, or its files are not the ones that were written.
    """

    def __init__(
        self, folder: str | Path, *, verify: bool = False, in_memory: bool = False
    ) -> None:
        folder = Path(folder).absolute()
        self.folder = folder
        self.manifest = read_manifest(folder, "bm25")
        self.settings = _read_settings(folder, self.manifest.settings)
        check_files(folder, self.manifest, verify=verify)
        self.corpus = DiskCorpus(folder, verify=verify)
        self._in_memory = in_memory
        self._scores = map_array(folder / SCORES, "<f4", in_memory=in_memory)
        self._positions = map_array(folder / POSITIONS, "<i4", in_memory=in_memory)
        self._starts = map_array(folder / STARTS, "<i8", in_memory=in_memory)
        self._words = map_array(folder / WORDS, "u1", in_memory=in_memory)
        self._word_starts = map_array(folder / WORD_STARTS, "<i8", in_memory=in_memory)
        self._word_ids = map_array(folder / WORD_IDS, "<i4", in_memory=in_memory)
        if len(self._word_ids) + 1 != len(self._starts):
            raise DataError(f"{folder}: the vocabulary does not fit the postings; build it again")
        self._word_id = lru_cache(_CACHED_WORDS)(self._find_word)
        self._local = threading.local()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :class:`calibadv_env.retrieval.base.Retriever`.

        A query that stands in the batch more than once is searched once.

        Args:
            queries: Any text.
            top_k: Number of passages wanted, at least 1.

        Returns:
            One list a query, best first, ties in corpus order.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if the files changed under the process.
        """
        count = check_search(queries, top_k, self.corpus)
        found = {query: self._search_one(query, count) for query in dict.fromkeys(queries)}
        return [list(found[query]) for query in queries]

    def _search_one(self, query: str, count: int) -> list[ScoredPassage]:
        known = (self._word_id(word) for word in WORD.findall(query.lower()))
        ids = [word_id for word_id in known if word_id is not None]
        if not ids:
            first = self.corpus.passages[:count]
            return [ScoredPassage(passage, 0.0) for passage in first]
        scores = self._add_up(ids)
        best = best_positions(scores, count)
        return [ScoredPassage(self.corpus.read(i), score) for i, score in best]

    def _add_up(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """The score of every passage, in a buffer that the next search of the thread reuses."""
        total: npt.NDArray[np.float32] | None = getattr(self._local, "total", None)
        if total is None:
            total = self._local.total = np.empty(len(self.corpus), dtype=np.float32)
        total.fill(0)
        is_long = len(ids) > _LONG_QUERY
        terms = Counter(ids).items() if is_long else ((word_id, 1) for word_id in ids)
        try:
            for word_id, times in terms:
                start, end = self._starts[word_id : word_id + 2].tolist()
                scores = self._scores[start:end]
                scores = scores if times == 1 else scores * np.float32(times)
                np.add.at(total, self._positions[start:end], scores)
        except IndexError as error:
            raise RetrieverError(f"{self.folder}: the index is damaged: {error}") from error
        return total

    def _find_word(self, word: str) -> int | None:
        """Binary search among the sorted words."""
        wanted = word.encode("utf-8", "surrogatepass")
        low, high = 0, len(self._word_ids)
        while low < high:
            middle = (low + high) // 2
            start, end = self._word_starts[middle : middle + 2].tolist()
            found = self._words[start:end].tobytes()
            if found == wanted:
                return int(self._word_ids[middle])
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by path."""
        return _reopen, (self.folder, self._in_memory)


def _reopen(folder: Path, in_memory: bool) -> Bm25Index:
    return Bm25Index(folder, in_memory=in_memory)


def _read_settings(folder: Path, record: Any) -> Bm25Settings:
    """Refuses an index whose words or formula are not those of this code."""
    try:
        settings = Bm25Settings(k1=record["k1"], b=record["b"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: the settings are damaged: {error}; build it again") from error
    for name, value in settings.as_record().items():
        if record.get(name) != value:
            raise DataError(
                f"{folder}: the index was built with {name} {record.get(name)!r}, this code has "
                f"{value!r}; build it again"
            )
    return settings


def best_positions(scores: npt.NDArray[np.float32], count: int) -> list[tuple[int, float]]:
    """Picks the best of an array, equal ones by position, and spoils the array.

    Args:
        scores: One score a passage; overwritten.
        count: How many to pick, 1 to ``len(scores)``.

    Returns:
        Position and score, best first.
    """
    best = []
    if count <= _FEW:
        for _ in range(count):
            position = int(scores.argmax())
            best.append((position, float(scores[position])))
            scores[position] = -np.inf
        return best
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    better = np.flatnonzero(scores > threshold)
    better = better[np.argsort(-scores[better], kind="stable")]
    equal = np.flatnonzero(scores == threshold)[: count - len(better)]
    chosen = np.concatenate((better, equal))
    return list(zip(chosen.tolist(), scores[chosen].tolist(), strict=True))
