"""A slow, exact BM25 that decides at build time which facts a search can find.

The atlas must be byte-identical on every machine, so what is kept in it must not hang on how a
search library breaks ties or rounds. Ties count against a passage here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from calibadv_env.protocol.passages import Passage

K1 = 1.2
B = 0.75
_MARGIN = 1e-5
_WORD = re.compile(r"(?u)\b\w\w+\b")
_STOP_WORD_TABLE = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
_STOP_WORDS = frozenset(_STOP_WORD_TABLE.split())


class ExactBm25:
    """BM25 in Lucene's variant over title and text, in 64-bit arithmetic.

    The score of passage d for a query is the sum over its words w of
    ``ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + K1 * (1 - B + B * |d| / mean))`` with f the
    count of w in d, n_w the number of passages with w, N their number and |d| the length of d.

    **Source:** Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework", in the
    variant that Kamphuis et al. (2020) call "Lucene (accurate)".

    Args:
        passages: Searched passages.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._position = {passage.id: i for i, passage in enumerate(passages)}
        counts: dict[str, dict[int, int]] = {}
        lengths = np.zeros(len(passages))
        for i, passage in enumerate(passages):
            words = _words(f"{passage.title}. {passage.text}")
            lengths[i] = len(words)
            for word in words:
                postings = counts.setdefault(word, {})
                postings[i] = postings.get(i, 0) + 1
        mean = math.fsum(lengths.tolist()) / len(passages) or 1.0
        saturation = K1 * (1 - B + B * lengths / mean)
        self._weights = {word: _weights(postings, saturation) for word, postings in counts.items()}

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """The score of every passage."""
        total = np.zeros(len(self._position))
        for word in _words(query):
            if word in self._weights:
                positions, weights = self._weights[word]
                total[positions] += weights
        return total

    def is_within(self, query: str, passage_ids: Sequence[str], top_k: int) -> bool:
        """Tells if one of some passages is surely among the best.

        Args:
            query: The query.
            passage_ids: The passages, any of which will do.
            top_k: How many passages a search gives.

        Returns:
            True if fewer than ``top_k`` others score as high as the best of them, or higher, or
            lower by no more than a rounding error could explain.
        """
        scores = self.scores(query)
        best = max(float(scores[self._position[passage_id]]) for passage_id in passage_ids)
        return best > 0 and int(np.count_nonzero(scores > best - _MARGIN)) <= top_k


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def _weights(
    postings: dict[int, int], saturation: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    positions = np.fromiter(postings.keys(), dtype=np.int64)
    frequencies = np.fromiter(postings.values(), dtype=np.float64)
    total, found = len(saturation), len(postings)
    idf = math.log(1 + (total - found + 0.5) / (found + 0.5))
    return positions, idf * frequencies / (frequencies + saturation[positions])
