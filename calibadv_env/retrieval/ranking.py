"""Small pure helpers that several retrievers rank with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from calibadv_env.retrieval.base import Passage, ScoredPassage


def with_ties(
    fetch: Callable[[int], Sequence[tuple[int, float]]], count: int, limit: int
) -> list[tuple[int, float]]:
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
    wanted = min(count + 8, limit)
    while True:
        found = fetch(wanted)
        is_all = len(found) < wanted or wanted >= limit
        if is_all or found[-1][1] < found[count - 1][1]:
            return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:count]
        wanted = min(4 * wanted, limit)


def filled_up(
    found: Sequence[tuple[int, float]], count: int, score: float
) -> list[tuple[int, float]]:
    """Adds the first other positions of the corpus until there are enough.

    Args:
        found: Positions with their scores, best first.
        count: How many are wanted, at most the size of the corpus.
        score: What those that are added get.

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
