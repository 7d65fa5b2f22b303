"""Texts compared word by word. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

MAX_WORDS: Final = 4096
"""Words of a thought that are compared. Far above what a policy writes in a turn; it bounds the
time that a hostile text can take."""


def split_words(text: str) -> tuple[str, ...]:
    """Words of a thought, at most ``MAX_WORDS`` of them."""
    return tuple(text.split(None, MAX_WORDS)[:MAX_WORDS])


def word_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance between two sequences of words.

    The least number of insertions, deletions and replacements of a word that turn one into the
    other. The columns of the usual table are kept as bits of two integers, so a step costs a few
    operations on integers of ``len(a)`` bits.

    **Source:** Hyyrö, A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit
    Distances, 2003.

    Args:
        a: Words.
        b: Words.

    Returns:
        0 to ``max(len(a), len(b))``.
    """
    a, b = _without_common_ends(a, b)
    if len(a) <= 1 or len(b) <= 1:
        longer, shorter = (a, b) if len(a) > len(b) else (b, a)
        return len(longer) - (shorter[0] in longer if shorter else 0)
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    top = 1 << (len(a) - 1)
    plus, minus, distance = full, 0, len(a)
    for word in b:
        equal = places.get(word, 0)
        vertical = equal | minus
        diagonal = (((equal & plus) + plus) ^ plus) | equal
        rises = minus | (full & ~(diagonal | plus))
        falls = plus & diagonal
        if rises & top:
            distance += 1
        elif falls & top:
            distance -= 1
        rises = (rises << 1) | 1
        plus = full & ((falls << 1) | ~(vertical | rises))
        minus = full & rises & vertical
    return distance


def _without_common_ends(a: Sequence[str], b: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Drops what two sequences begin and end with; it does not add to their distance."""
    start, shared = 0, min(len(a), len(b))
    while start < shared and a[start] == b[start]:
        start += 1
    end, shared = 0, shared - start
    while end < shared and a[-1 - end] == b[-1 - end]:
        end += 1
    return a[start : len(a) - end], b[start : len(b) - end]


def word_similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """How alike two thoughts are: ``1 - distance / max(len(a), len(b))`` over words.

    **Source:** the redundancy rule of CalibAdv's query score.

    **Differs:** only the first ``MAX_WORDS`` words count, see :func:`split_words`.

    Args:
        a: Words of one thought.
        b: Words of the other.

    Returns:
        0 to 1; 0 if both are empty.
    """
    if not a or not b:
        return 0.0
    if a == b:
        return 1.0
    return 1.0 - word_distance(a, b) / max(len(a), len(b))


def highest_similarity(words: Sequence[str], earlier: Iterable[Sequence[str]]) -> float:
    """Similarity of a thought to the earlier one that is most like it.

    Args:
        words: Words of this thought.
        earlier: Words of each earlier thought.

    Returns:
        0 to 1; 0 if there is no earlier thought.
    """
    highest, own = 0.0, frozenset(words)
    for other in earlier:
        if not own.isdisjoint(other):
            similarity = word_similarity(words, other)
            if similarity > highest:
                highest = similarity
    return highest
