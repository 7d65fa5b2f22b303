"""The largest inner products, exactly, and the same whichever queries share the batch."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from calibadv_env.retrieval.base import Hits

_ROWS_PER_BLOCK: Final = 16_384
_ROUNDING: Final = 2.0**-22
"""Four units of single precision: twice what a sum may be off a term, from either side."""


class FlatScan:
    """Searches vectors in an array, which may be memory-mapped.

    One matrix product serves the whole batch, block by block. Its sums depend in their last bits
    on the size of the batch, so it only picks candidates, with room for the largest error that
    rounding can make; candidates are scored again in double precision, one by one.

    Args:
        vectors: The vectors of the passages, in single precision.
    """

    def __init__(self, vectors: Float[np.ndarray, "passage dimension"]) -> None:
        self._vectors = vectors
        self._longest: float | None = None

    def search(self, queries: Float[np.ndarray, "query dimension"], limit: int) -> list[Hits]:
        """Finds the largest inner products of each query.

        The candidates of a query are the passages whose product in single precision is at least
        ``t - 2 e``, where ``t`` is the ``limit``-th largest of these and
        ``e = 2 n 2^-24 |q| max |x|`` bounds their error (``n``: the dimension).

        Args:
            queries: The vectors of the queries.
            limit: How many are wanted, 1 to the number of vectors.

        Returns:
            For each query positions and inner products, best first, ties by position.
        """
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = _ROUNDING * queries.shape[1] * lengths * self._longest_vector()
        best = [_Candidates(limit, float(value)) for value in slack]
        for start in range(0, len(self._vectors), _ROWS_PER_BLOCK):
            block = self._block(start)
            for candidates, products in zip(best, queries @ block.T, strict=True):
                candidates.add(start, products)
        pairs = zip(queries, best, strict=True)
        return [self._exact(query, found.positions, limit) for query, found in pairs]

    def _block(self, start: int) -> Float[np.ndarray, "passage dimension"]:
        """Some rows; copied if they stand askew in a mapped file, where products crawl."""
        block = self._vectors[start : start + _ROWS_PER_BLOCK]
        return block if block.flags.aligned else block.view(np.uint8).copy().view(np.float32)

    def _exact(
        self, query: Float[np.ndarray, " dimension"], positions: np.ndarray, limit: int
    ) -> Hits:
        terms = self._vectors[positions].astype(np.float64) * query
        scores = terms.sum(axis=1).astype(np.float32)
        order = np.lexsort((positions, -scores))[:limit]
        return list(zip(positions[order].tolist(), scores[order].tolist(), strict=True))

    def _longest_vector(self) -> float:
        """Goes through all vectors, once."""
        if self._longest is None:
            blocks = map(self._block, range(0, len(self._vectors), _ROWS_PER_BLOCK))
            squares = (float(np.einsum("ij,ij->i", block, block).max()) for block in blocks)
            self._longest = 1.001 * max(squares) ** 0.5
        return self._longest


class _Candidates:
    """The positions of one query that may be among the best."""

    def __init__(self, limit: int, slack: float) -> None:
        self._limit = limit
        self._slack = slack
        self._floor = -np.inf
        self.positions = np.empty(0, np.int64)
        self._products = np.empty(0, np.float32)

    def add(self, start: int, products: Float[np.ndarray, " passage"]) -> None:
        """Adds the candidates of a block that begins at ``start``."""
        if not len(self.positions):
            self._floor = self._last_of(products)
        chosen = np.flatnonzero(products >= self._floor)
        if not len(chosen):
            return
        self.positions = np.concatenate((self.positions, chosen + start))
        self._products = np.concatenate((self._products, products[chosen]))
        self._floor = self._last_of(self._products)
        is_kept = self._products >= self._floor
        self.positions, self._products = self.positions[is_kept], self._products[is_kept]

    def _last_of(self, products: Float[np.ndarray, " passage"]) -> float:
        """Least product of a candidate, as far as these tell."""
        surplus = len(products) - self._limit
        return (
            float(np.partition(products, surplus)[surplus]) - self._slack
            if surplus >= 0
            else -np.inf
        )
