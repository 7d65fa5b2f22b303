"""Small pure helpers that several retrievers rank with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from calibadv_env.protocol.passages import Passage, ScoredPassage

Hits: TypeAlias = list[tuple[int, float]]
"""Positions in the corpus with their scores, best first."""
_SPARE: Final = 8
_FEW: Final = 16


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> Hits:
    """Picks the best of an array, equal ones by position, and spoils the array.

    Args:
        scores: One score a passage; overwritten.
        count: How many to pick, 1 to ``len(scores)``.

    Returns:
        Positions and scores, best first.
    """
    best: Hits = []
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


def first_limit(count: int, limit: int) -> int:
    """Number of hits that :func:`with_ties` fetches first.

    Args:
        count: How many are wanted.
        limit: How many there can be at most.

    Returns:
        A few more, so that one fetch mostly suffices.
    """
    return min(count + _SPARE, limit)


def with_ties(fetch: Callable[[int], Sequence[tuple[int, float]]], count: int, limit: int) -> Hits:
    """Makes the order of an engine that breaks ties as it likes that of the corpus.

    More is fetched than is wanted, until the last score fetched is worse than the last that
    counts; then equal scores are sorted by position.

    Args:
        fetch: Gives the best so many positions with their scores, best first, or fewer if there
            are no more.
        count: How many are wanted.
        limit: How many there can be at most.

    Returns:
        At most ``count`` positions and scores, best first, ties by position.
    """
    wanted = first_limit(count, limit)
    while True:
        found = fetch(wanted)
        is_all = len(found) < wanted or wanted >= limit
        if is_all or found[-1][1] < found[count - 1][1]:
            return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:count]
        wanted = min(4 * wanted, limit)


def filled_up(found: Sequence[tuple[int, float]], count: int, score: float) -> Hits:
    """Adds the first other positions of the corpus until there are enough.

    Args:
        found: Positions with their scores, best first.
        count: How many are wanted, at most the size of the corpus.
        score: Score of those that are added.

    Returns:
        ``count`` positions with their scores.
    """
    known = {position for position, _ in found}
    positions = (i for i in range(count + len(known)) if i not in known)
    filler = [(next(positions), score) for _ in range(count - len(found))]
    return [*found, *filler]


def take(passages: Sequence[Passage], hits: Iterable[tuple[int, float]]) -> list[ScoredPassage]:
    """Fetches the passages of positions."""
    return [ScoredPassage(passages[position], score) for position, score in hits]
