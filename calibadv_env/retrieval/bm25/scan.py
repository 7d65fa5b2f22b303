"""Finds the passages with the highest sums in posting lists, block by block.

Once ``count`` passages are known to reach some score, the *floor*, words that can add little to a
sum need not be summed up any more: with ``r`` the most that these can add, only passages whose
other words reach ``floor - r`` can still come in. These few are looked up in the lists that were
left out, and what still reaches the floor is scored exactly, in the order of the query's words.
So sums are those of the plain scan, to the last bit.

**Source:** Turtle and Flood (1995), "Query evaluation: strategies and optimizations" (MaxScore),
for the lists that are left out; what is summed up here is a block, not a passage, at a time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32

from calibadv_env.retrieval.base import Hits, best_positions

BLOCK: Final = 1 << 18
"""Passages of a block: their sums are a megabyte, which stays in the processor's cache."""
_LONG_QUERY: Final = 256
_LEFT_OUT: Final = 0.5
"""Words are left out as long as together they add at most so much of the floor."""
_WORTH_A_FLOOR: Final = 1 << 18
"""With fewer postings, summing them all up is faster than finding a floor."""
_FEW: Final = 64
"""So few candidates are scored exactly at once."""
_NUM_SEEDS: Final = 32
_MAX_SHARED: Final = 1 << 22
"""Postings of a block that are kept for the other queries of a batch, 8 bytes each."""
_ROUNDING: Final = 2.0**-22


class Word(NamedTuple):
    """The postings of one word.

    Attributes:
        edges: For each block where the word's postings begin; then where the last ones end.
        bound: The highest score among them.
    """

    edges: tuple[int, ...]
    bound: float


class PostingsScan:
    """Ranks passages by the sums of their scores in the posting lists of some words.

    Threads may share it; each takes four bytes for every passage of a block.

    Args:
        positions: The passage of each posting; ascending within a word.
        scores: The score of each posting, above 0.
        num_passages: How many passages there are.
        block: Passages of a block.
    """

    def __init__(
        self,
        positions: Int32[np.ndarray, " posting"],
        scores: Float32[np.ndarray, " posting"],
        num_passages: int,
        block: int = BLOCK,
    ) -> None:
        self._positions = positions
        self._scores = scores
        self._num_passages = num_passages
        self._block = block
        self._firsts = range(0, num_passages, block)
        self._local = threading.local()

    def word(self, start: int, end: int) -> Word:
        """The postings of a word from ``start`` to ``end``, as :meth:`search` takes them."""
        firsts = np.array(self._firsts, dtype=np.int32)[1:]
        inner = start + np.searchsorted(self._positions[start:end], firsts)
        bound = float(self._scores[start:end].max(initial=0.0))
        return Word((start, *inner.tolist(), end), bound)

    def search(self, queries: Sequence[Sequence[Word]], count: int) -> list[Hits]:
        """Ranks passages by the sum of their scores, taken in the order of a query's words.

        A word that stands twice counts twice. Of more than 256 words each distinct one is taken
        once, times its count, which is the same but for rounding.

        Args:
            queries: The words of each query, at least one.
            count: How many passages to give, 1 to the number of passages.

        Returns:
            For each query positions and scores, best first, ties by position.

        Raises:
            IndexError: if a posting names a passage that there is not.
        """
        states = [_Query(words, count) for words in queries]
        for query in states:
            if query.num_postings > _WORTH_A_FLOOR and not query.is_long:
                query.set_floor(self._first_floor(query))
        for block, first in enumerate(self._firsts):
            shared = _Shared(self._positions, first, block)
            for query in states:
                sums = self._add_up(query.summed, shared)
                if query.floor > 0:
                    query.add_candidates(sums, first)
                else:
                    query.add_best(sums, first)
        return [self._rank(query) if query.floor > 0 else query.best for query in states]

    def _add_up(
        self, terms: Iterable[tuple[Word, int]], shared: _Shared
    ) -> Float32[np.ndarray, " passage"]:
        """The sums of a block's passages, in a buffer that the thread uses again."""
        total = self._buffer()[: self._num_passages - shared.first]
        total.fill(0)
        for word, times in terms:
            start, end = word.edges[shared.block : shared.block + 2]
            if start < end:
                scores = self._scores[start:end]
                scores = scores if times == 1 else scores * np.float32(times)
                np.add.at(total, shared.places(start, end), scores)
        return total

    def _rank(self, query: _Query) -> Hits:
        """Looks the candidates up in the lists that were left out, and scores the few exactly."""
        positions, sums = query.candidates()
        rest = query.rest
        for word, times in query.left_out:
            if len(positions) <= _FEW:
                break
            sums += self._look_up(word, positions) * np.float32(times)
            rest -= word.bound * times
            floor = max(query.floor, _last_of(sums, query.count) - query.slack)
            is_in = sums >= floor - rest - query.slack
            positions, sums = positions[is_in], sums[is_in]
        scores = self._sums_of(positions, query)
        order = np.lexsort((positions, -scores))[: query.count]
        return list(zip(positions[order].tolist(), scores[order].tolist(), strict=True))

    def _first_floor(self, query: _Query) -> float:
        """A score that enough passages reach: from the best postings of the rarest words."""
        count = query.count
        wanted = max(_NUM_SEEDS, 2 * count)
        seeds: list[Int32[np.ndarray, " passage"]] = []
        for word in sorted(query.counts, key=lambda word: word.edges[-1] - word.edges[0]):
            if sum(map(len, seeds)) >= wanted:
                break
            start, end = word.edges[0], word.edges[-1]
            surplus = end - start - wanted
            listed = self._positions[start:end]
            if surplus > 0:
                listed = listed[np.argpartition(self._scores[start:end], surplus)[surplus:]]
            seeds.append(listed)
        positions = np.unique(np.concatenate(seeds))
        return _last_of(self._sums_of(positions, query), count)

    def _sums_of(
        self, positions: Int32[np.ndarray, " candidate"], query: _Query
    ) -> Float32[np.ndarray, " candidate"]:
        """The sums of some passages, added up in the order of the words."""
        scores = {word: self._look_up(word, positions) for word in query.counts}
        total = np.zeros(len(positions), dtype=np.float32)
        for word in query.words:
            total += scores[word]
        return total

    def _look_up(
        self, word: Word, positions: Int32[np.ndarray, " candidate"]
    ) -> Float32[np.ndarray, " candidate"]:
        """The scores of some passages for a word, 0 where they lack it."""
        start, end = word.edges[0], word.edges[-1]
        listed = self._positions[start:end]
        places = listed.searchsorted(positions)
        scores = self._scores[start:end].take(places, mode="clip")
        scores[listed.take(places, mode="clip") != positions] = 0
        return scores

    def _buffer(self) -> Float32[np.ndarray, " passage"]:
        buffer: Float32[np.ndarray, " passage"] | None = getattr(self._local, "buffer", None)
        if buffer is None:
            size = min(self._block, self._num_passages)
            buffer = self._local.buffer = np.empty(size, dtype=np.float32)
        return buffer


class _Shared:
    """The postings of one block that several queries of a batch ask for."""

    def __init__(self, positions: Int32[np.ndarray, " posting"], first: int, block: int) -> None:
        self._positions = positions
        self.first = first
        self.block = block
        self._size = 0
        self._places: dict[int, Int[np.ndarray, " posting"]] = {}

    def places(self, start: int, end: int) -> Int[np.ndarray, " posting"]:
        """The passages of postings, counted from the first of the block."""
        places = self._places.get(start)
        if places is None:
            places = np.subtract(self._positions[start:end], self.first, dtype=np.intp)
            if self._size + len(places) <= _MAX_SHARED:
                self._places[start] = places
                self._size += len(places)
        return places


class _Query:
    """A query of a batch, and what has been found for it so far."""

    def __init__(self, words: Sequence[Word], count: int) -> None:
        self.words = words
        self.count = count
        self.counts = Counter(words)
        self.is_long = len(words) > _LONG_QUERY
        self.num_postings = sum(word.edges[-1] - word.edges[0] for word in self.counts)
        self.floor = 0.0
        self.rest = 0.0
        self.slack = 0.0
        self.summed = list(self.counts.items()) if self.is_long else [(w, 1) for w in words]
        self.left_out: list[tuple[Word, int]] = []
        self.best: Hits = []
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    def set_floor(self, floor: float) -> None:
        """Decides which words are summed up, if so many passages as wanted reach a score."""
        if not floor > 0:
            return
        self.floor = floor
        terms = sorted(self.counts.items(), key=lambda term: term[0].bound * term[1])
        bounds = [word.bound * times for word, times in terms]
        sums = np.cumsum(bounds)
        number = int(np.searchsorted(sums, _LEFT_OUT * floor, side="right"))
        self.rest = float(sums[number - 1]) if number else 0.0
        self.slack = _ROUNDING * len(self.words) * float(sums[-1])
        self.left_out, self.summed = terms[:number][::-1], terms[number:]

    def add_candidates(self, sums: Float32[np.ndarray, " passage"], first: int) -> None:
        """Notes the passages of a block that may reach the floor."""
        chosen = np.flatnonzero(sums >= self.floor - self.rest - self.slack)
        if len(chosen):
            self._found.append(((chosen + first).astype(np.int32), sums[chosen]))

    def candidates(
        self,
    ) -> tuple[Int32[np.ndarray, " candidate"], Float32[np.ndarray, " candidate"]]:
        """Positions, ascending, and sums of what was noted."""
        positions, sums = zip(*self._found, strict=True)
        return np.concatenate(positions), np.concatenate(sums)

    def add_best(self, sums: Float32[np.ndarray, " passage"], first: int) -> None:
        """Adds the best of a block to those found; these come first among equals."""
        if len(self.best) == self.count:
            last = self.best[-1][1]
            if not sums.max() > last:
                return
            places = np.flatnonzero(sums > last)
            places = places[np.argsort(-sums[places], kind="stable")[: self.count]]
            found = list(zip(places.tolist(), sums[places].tolist(), strict=True))
        else:
            found = best_positions(sums, min(self.count, len(sums)))
        self.best += [(first + place, score) for place, score in found]
        self.best = sorted(self.best, key=lambda hit: -hit[1])[: self.count]


def _last_of(scores: Float32[np.ndarray, " candidate"], count: int) -> float:
    """The last of the best so many scores; 0 if there are fewer."""
    surplus = len(scores) - count
    return float(np.partition(scores, surplus)[surplus]) if surplus >= 0 else 0.0
