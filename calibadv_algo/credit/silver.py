"""Silver credit: searches are scored by the passages of the group's best trajectories.

On pages, opening a page and finding words in it are scored as searches are: silver are the
sections that the best trajectories read (of a trajectory that read none, those that its searches
showed); a search hits those that it is the first to show, an open or a find those that it is the
first to read; and it is redundant only against its like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.base import SCORED_BAD, CreditRule
from calibadv_algo.credit.facts import check_info_keys, fact
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE
from calibadv_env.info import CALL_KINDS
from calibadv_env.protocol.words import word_distance

SilverCalculator = Literal["old", "mean", "max"]
"""How the hits of a search become its score; see :func:`silver_correctness`."""


_SILVER: Final = "silver correctness"


def silver_correctness(
    group: Group,
    calculator: SilverCalculator = "old",
    answer_threshold: float = 0.7,
    think_similarity_threshold: float = 0.5,
    max_shared_passages: int = 1,
) -> Float[np.ndarray, "group turn"]:
    """Scores searches by the passages that the group's best trajectories found.

    Silver passages are those retrieved anywhere in the trajectories that reached the group's
    highest reward, provided that their format is valid and the reward is at least
    ``answer_threshold``; ``frequency`` is the number of these trajectories that hold a
    passage, divided by the largest such number. A search of any trajectory of valid format
    *hits* the silver passages that its own trajectory has not retrieved before. It is
    redundant if its thought is more similar than ``think_similarity_threshold`` to that of
    an earlier search, or if it shares more than ``max_shared_passages`` distinct passages
    with one earlier search. Redundant searches and those without a hit are bad; others score

    - ``old``: number of hits / number of passages (duplicates counted),
    - ``mean``: sum of the hits' frequencies / number of passages,
    - ``max``: largest frequency of a hit.

    **Source:** CalibAdv (arXiv 2604.18235), section on silver documents; the authors' reward
    manager for the redundancy rules and the calculators.

    **Differs:** passages are compared by id, not by their printed text. Groups whose best
    trajectories retrieved nothing score every search as bad, where the original raises. On pages,
    which the paper does not have, opens and finds are scored too (see the top of the module).

    Args:
        group: Trajectories of one question.
        calculator: How hits become a score.
        answer_threshold: Least reward of a trajectory whose passages can be silver.
        think_similarity_threshold: Largest word-level similarity, 0 to 1, of the thoughts of
            two searches that are not redundant.
        max_shared_passages: Most passages that two searches that are not redundant share.

    Returns:
        Correctness in [SCORED_BAD, 1]; NaN for turns that are no searches, for each last
        turn, for trajectories of invalid format, and everywhere if no trajectory qualifies.

    Raises:
        MissingInfoKeyError: if a key of :attr:`SilverCredit.required_info_keys` is missing.
        ValueError: if the calculator is unknown.
    """
    if calculator not in ("old", "mean", "max"):
        raise ValueError(f"calculator must be old, mean or max, got {calculator!r}")
    width = group.max_turns
    searches = [_read_searches(trajectory) for trajectory in group.trajectories]
    frequencies = _silver_frequencies(group, searches, answer_threshold)
    if frequencies is None:
        return np.full((len(group), width), np.nan)
    limits = (think_similarity_threshold, max_shared_passages)
    scored = np.full((len(group), width), np.nan)
    for row, its_searches in zip(scored, searches, strict=True):
        if its_searches:
            scores = _silver_scores(its_searches, frequencies, calculator, *limits)
            row[[search.column for search in its_searches]] = scores
    return scored


def is_more_similar(first: Sequence[str], second: Sequence[str], threshold: float) -> bool:
    """True if two texts, as words, are strictly more similar than a threshold.

    The similarity is ``1 - distance / longer length``; two empty texts have similarity 0.

    **Source:** CalibAdv, the redundancy check of the authors' reward manager.
    """
    longest = max(len(first), len(second))
    if longest == 0:
        return threshold < 0
    # Most pairs differ so much in length, or share so few words, that a lower bound of the
    # distance settles them and the table need not be filled.
    for bound in (_length_distance, _vocabulary_distance, word_distance):
        if not 1 - bound(first, second) / longest > threshold:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SilverCredit(CreditRule):
    """Correctness by the passages of the group's best trajectories, as in CalibAdv.

    Attributes:
        calculator: How hits become a score.
        answer_threshold: Least reward of a trajectory whose passages can be silver.
        think_similarity_threshold: Largest similarity of two thoughts that is not redundant.
        max_shared_passages: Most passages that two searches may share.
    """

    calculator: SilverCalculator = "old"
    answer_threshold: float = 0.7
    think_similarity_threshold: float = 0.5
    max_shared_passages: Annotated[int, NOT_NEGATIVE] = 1

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold (``is_format_valid``: the last turn's)."""
        return frozenset({"action", "passage_ids", "think", "is_format_valid"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Applies :func:`silver_correctness`."""
        return silver_correctness(
            group,
            self.calculator,
            self.answer_threshold,
            self.think_similarity_threshold,
            self.max_shared_passages,
        )


class _Search(NamedTuple):
    """Facts of one search that silver correctness needs.

    On pages a turn that opens or finds is one too: it reads, where a search only shows.
    """

    column: int
    passages: Sequence[str]
    thought: str
    is_reading: bool


def _read_searches(trajectory: Trajectory) -> list[_Search] | None:
    """Reads the searches of a trajectory; None if its format is invalid."""
    if not fact(trajectory.turns[-1], "is_format_valid", _SILVER):
        return None
    searches = []
    for column, turn in enumerate(trajectory.turns[:-1]):
        info = turn.info
        try:
            kind = info["action"]
            if kind in CALL_KINDS:
                searches.append(
                    _Search(column, info["passage_ids"], info["think"], kind != "search")
                )
        except KeyError as error:
            check_info_keys((str(error.args[0]),), info, _SILVER)
            raise
    return searches


def _silver_frequencies(
    group: Group, searches: Sequence[list[_Search] | None], answer_threshold: float
) -> dict[str, float] | None:
    """Collects the silver passages and how common they are; None if no trajectory qualifies."""
    eligible = [
        (trajectory.reward, of_trajectory)
        for trajectory, of_trajectory in zip(group.trajectories, searches, strict=True)
        if of_trajectory is not None
    ]
    best = max((reward for reward, _ in eligible), default=-math.inf)
    if not eligible or best < answer_threshold:
        return None
    counts: dict[str, int] = {}
    for reward, of_trajectory in eligible:
        if reward == best:
            for passage in set().union(*(search.passages for search in _evidence(of_trajectory))):
                counts[passage] = counts.get(passage, 0) + 1
    most = max(counts.values(), default=1)
    return {passage: count / most for passage, count in counts.items()}


def _evidence(searches: Sequence[_Search]) -> Sequence[_Search]:
    """The searches whose passages an answer can rest on: those that read, if there are any."""
    return [search for search in searches if search.is_reading] or searches


def _silver_scores(
    searches: Sequence[_Search],
    frequencies: Mapping[str, float],
    calculator: SilverCalculator,
    think_similarity_threshold: float,
    max_shared_passages: int,
) -> list[float]:
    """Scores one trajectory's searches in order."""
    scores: list[float] = []
    distinct = [set(search.passages) for search in searches]
    thoughts: list[list[str]] = [search.thought.split() for search in searches]
    seen: dict[bool, set[str]] = {False: set(), True: set()}
    for index, (_, passages, _, is_reading) in enumerate(searches):
        hits = [
            frequencies[passage]
            for passage in dict.fromkeys(passages)
            if passage in frequencies and passage not in seen[is_reading]
        ]
        # Redundancy is looked at only where it can change the score: it is the costly part.
        is_bad = not hits
        for earlier in range(0 if hits else index, index):
            if searches[earlier].is_reading != is_reading:
                continue
            if len(distinct[index] & distinct[earlier]) > max_shared_passages or is_more_similar(
                thoughts[index], thoughts[earlier], think_similarity_threshold
            ):
                is_bad = True
                break
        scores.append(SCORED_BAD if is_bad else _combine(hits, len(passages), calculator))
        seen[is_reading] |= distinct[index]
    return scores


def _length_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Bounds the word distance from below by the difference in length."""
    return abs(len(first) - len(second))


def _vocabulary_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Bounds the word distance from below by the words that only the longer text has.

    Each of them must be deleted or replaced. (Repeated words count once.)
    """
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    return len(set(longer).difference(shorter))


def _combine(hits: Sequence[float], num_passages: int, calculator: SilverCalculator) -> float:
    """Turns the frequencies of a search's hits (at least one) into its score."""
    if calculator == "old":
        return len(hits) / num_passages
    if calculator == "mean":
        return sum(hits) / num_passages
    return max(hits)
