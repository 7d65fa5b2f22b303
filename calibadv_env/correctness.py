"""Facts about one turn, measured against gold evidence and earlier turns. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from calibadv_env.protocol.answers import normalize_answer
from calibadv_env.protocol.passages import Passage, ScoredPassage


class _UndefinedShare(float):
    """NaN that equals itself.

    Gymnasium's environment checker compares the infos of two equal steps with ``==``; with the
    ordinary NaN it would call every task without gold passages non-deterministic.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _UndefinedShare)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, _UndefinedShare)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type[_UndefinedShare], tuple[str]]:
        return _UndefinedShare, ("nan",)


UNDEFINED_SHARE: Final = _UndefinedShare("nan")
"""The gold recall of a task that names no gold passages."""


def new_gold(
    passage_ids: Iterable[str], gold: Mapping[str, object], found: Collection[str]
) -> tuple[str, ...]:
    """Gold passages that a turn is the first to hit.

    Args:
        passage_ids: Ids in rank order.
        gold: Ids of the task's gold passages are its keys.
        found: Gold passages that earlier turns hit.

    Returns:
        Their ids in rank order, each once.
    """
    if not gold:
        return ()
    hits = [pid for pid in passage_ids if pid in gold and pid not in found]
    return tuple(dict.fromkeys(hits)) if hits else ()


def gold_recall(
    found: Iterable[str], hops_of: Mapping[str, Collection[int]], num_gold_hops: int
) -> float:
    """Share of the hops of which some gold passage has been hit.

    Args:
        found: Gold passages hit so far.
        hops_of: For each gold passage the hops whose fact it states.
        num_gold_hops: Number of hops that name gold passages.

    Returns:
        0 to 1; NaN if no hop names any.
    """
    if not num_gold_hops:
        return UNDEFINED_SHARE
    return len({hop for pid in found for hop in hops_of[pid]}) / num_gold_hops


def contains_answer(passages: Iterable[ScoredPassage], answers: Sequence[str]) -> bool:
    """Whether an accepted answer stands in a passage, as whole words.

    Args:
        passages: What a search returned.
        answers: Accepted answers as :func:`searchable_answers` gives them.

    Returns:
        Whether one of them stands in the title or the text of one passage. "Oman" does not
        stand in "Romania".
    """
    for scored in passages:
        text = _searchable(scored.passage)
        for answer in answers:
            if answer in text:
                return True
    return False


def searchable_answers(golden_answers: Iterable[str]) -> tuple[str, ...]:
    """Accepted answers, normalised and between spaces; those of which nothing is left drop out."""
    normalized = [normalize_answer(golden) for golden in golden_answers]
    return tuple([f" {answer} " for answer in normalized if answer])


@lru_cache(maxsize=16_384)
def _searchable(passage: Passage) -> str:
    """Normalised title and text, padded; the bar keeps an answer from spanning both."""
    return f" {normalize_answer(passage.title)} | {normalize_answer(passage.text)} "
