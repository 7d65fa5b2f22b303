"""Credit: which turns of a group were good ones, from the facts that the environment reports.

Everything here maps a group to a ``[group, turn]`` matrix of *correctness*, 0 to 1. NaN means
that a turn has no score (it is not a search, or nothing is known about it);
:data:`SCORED_BAD` means that it was scored and found bad. Advantages live elsewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.protocol.words import word_distance

SCORED_BAD: Final = 1e-6
"""Correctness of a turn that was scored and found bad: no higher value counts as bad."""

SilverCalculator = Literal["old", "mean", "max"]
"""How the hits of a search become its score; see :func:`silver_correctness`."""

_SEARCH_KEYS: Final = frozenset({"action"})
_SILVER: Final = "silver correctness"


class Credit(Protocol):
    """Judges the turns of a group."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        ...

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns the correctness of every turn, NaN where there is no score."""
        ...


def check_info_keys(required: Iterable[str], info: Collection[str], who: str) -> None:
    """Checks that an environment reports what an algorithm needs.

    Args:
        required: Keys that are needed.
        info: Keys that the environment gives (an ``info`` dictionary, or the union of the
            keys of an episode, as some appear at its end only).
        who: What needs them, for the message.

    Raises:
        MissingInfoKeyError: if a key is missing; it names every missing key.
    """
    missing = sorted(set(required) - set(info))
    if missing:
        raise _missing(missing, who, info)


def search_mask(group: Group, who: str = "search_mask") -> Bool[np.ndarray, "group turn"]:
    """Marks the search turns that something followed.

    The last turn of a trajectory is never marked, whatever it is: a search that was left
    dangling ends the episode like an answer and is treated as one.

    Args:
        group: Trajectories of one question.
        who: What asks, for the message of a missing key.

    Returns:
        True at search turns other than a trajectory's last.

    Raises:
        MissingInfoKeyError: if a turn lacks the info key ``action``.
    """
    mask = np.zeros((len(group), group.max_turns), dtype=np.bool_)
    for row, trajectory in enumerate(group.trajectories):
        for column, _ in _searches(trajectory, who):
            mask[row, column] = True
    return mask


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
    trajectories retrieved nothing score every search as bad, where the original raises.

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
        MissingInfoKeyError: if ``action``, ``passage_ids``, ``think`` or (at the end)
            ``is_format_valid`` is missing.
        ValueError: if the calculator is unknown.
    """
    if calculator not in ("old", "mean", "max"):
        raise ValueError(f"calculator must be old, mean or max, got {calculator!r}")
    width = group.max_turns
    searches = [_read_searches(trajectory) for trajectory in group.trajectories]
    frequencies = _silver_frequencies(group, searches, answer_threshold)
    if frequencies is None:
        return np.full((len(group), width), np.nan)
    rows = []
    for of_trajectory in searches:
        row = [math.nan] * width
        if of_trajectory:
            scores = _silver_scores(
                of_trajectory,
                frequencies,
                calculator,
                think_similarity_threshold,
                max_shared_passages,
            )
            for search, score in zip(of_trajectory, scores, strict=True):
                row[search.column] = score
        rows.append(row)
    return np.array(rows)


def is_more_similar(first: Sequence[str], second: Sequence[str], threshold: float) -> bool:
    """Tells whether two texts are more similar, word by word, than a threshold.

    The similarity is ``1 - distance / longer length``; two empty texts have similarity 0.

    **Source:** CalibAdv, the redundancy check of the authors' reward manager.

    Args:
        first: Words of one text.
        second: Words of the other.
        threshold: Similarity that must be exceeded.

    Returns:
        Whether the similarity is strictly greater.
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
class SilverCredit:
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
    max_shared_passages: int = 1

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.calculator not in ("old", "mean", "max"):
            raise ValueError(f"calculator must be old, mean or max, got {self.calculator!r}")
        if self.max_shared_passages < 0:
            raise ValueError(
                f"max_shared_passages must not be negative, got {self.max_shared_passages}"
            )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCredit:
    """Correctness by the task's gold passages: a search that newly hits one scores 1.

    A search reaches one hop of a chain at best, so dividing by the number of gold passages
    would call a perfect search half good; hence all or nothing. Trajectories of invalid
    format are scored too, as a gold passage was found whatever came later. Tasks that name
    no gold passages (``gold_recall`` is NaN) have no scores.
    """

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset({"action", "gold_new", "gold_recall"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns 1 for searches with a new gold passage, SCORED_BAD for others."""

        def score(turn: Turn) -> float:
            recall = float(_fact(turn, "gold_recall", "GoldCredit"))
            if np.isnan(recall):
                return np.nan
            return 1.0 if len(_fact(turn, "gold_new", "GoldCredit")) else SCORED_BAD

        return _score_searches(group, score, "GoldCredit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMatchCredit:
    """Correctness by whether an accepted answer stands in the passages that were found."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset({"action", "answer_in_passages"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns 1 for searches whose passages hold an answer, SCORED_BAD for others."""

        def score(turn: Turn) -> float:
            is_match = _fact(turn, "answer_in_passages", "AnswerMatchCredit")
            return 1.0 if is_match else SCORED_BAD

        return _score_searches(group, score, "AnswerMatchCredit")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCredit:
    """A coin for every search: the false-label control.

    The draw depends on the seed, the group's id, the trajectory's place in the group and the
    turn alone, so it is the same in every process and in any order of groups.

    Attributes:
        seed: Seed of the draws.
        probability: Chance that a search is called correct, 0 to 1.
    """

    seed: int = 0
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return _SEARCH_KEYS

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns 1 or SCORED_BAD for every search."""
        digest = hashlib.sha256(group.group_id.encode("utf-8", "surrogatepass")).digest()
        correctness = np.full((len(group), group.max_turns), np.nan)
        for row, trajectory in enumerate(group.trajectories):
            key = [self.seed, int.from_bytes(digest[:8], "little"), row]
            draws = np.random.default_rng(key).random(len(trajectory.turns))
            for column, _ in _searches(trajectory, "RandomCredit"):
                is_correct = draws[column] < self.probability
                correctness[row, column] = 1.0 if is_correct else SCORED_BAD
        return correctness


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedCredit:
    """Calls good what another credit calls bad: ``1 - c`` for every scored turn.

    Attributes:
        base: The credit that is turned round.
    """

    base: Credit

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the base needs."""
        return self.base.required_info_keys

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns the inverted scores: bad becomes 1, perfect becomes SCORED_BAD."""
        base = self.base(group)
        inverted = np.where(base <= SCORED_BAD, 1.0, np.maximum(1.0 - base, SCORED_BAD))
        return np.where(np.isnan(base), np.nan, inverted)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCredit:
    """Knows nothing: no turn has a score. Runs on any environment."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """No key is needed."""
        return frozenset()

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Returns NaN everywhere."""
        return np.full((len(group), group.max_turns), np.nan)


class _Search(NamedTuple):
    """What silver correctness needs to know of one search."""

    column: int
    passages: Sequence[str]
    thought: str


def _read_searches(trajectory: Trajectory) -> list[_Search] | None:
    """Reads the searches of a trajectory; None if its format is invalid."""
    if not _fact(trajectory.turns[-1], "is_format_valid", _SILVER):
        return None
    searches = []
    for column, turn in enumerate(trajectory.turns[:-1]):
        info = turn.info
        try:
            if info["action"] == "search":
                searches.append(_Search(column, info["passage_ids"], info["think"]))
        except KeyError as error:
            raise _missing([str(error.args[0])], _SILVER, info) from error
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
            for passage in set().union(*(search.passages for search in of_trajectory)):
                counts[passage] = counts.get(passage, 0) + 1
    most = max(counts.values(), default=1)
    return {passage: count / most for passage, count in counts.items()}


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
    seen: set[str] = set()
    for index, (_, passages, _) in enumerate(searches):
        hits = [
            frequencies[passage]
            for passage in dict.fromkeys(passages)
            if passage in frequencies and passage not in seen
        ]
        # Redundancy is looked at only where it can change the score: it is the costly part.
        is_bad = not hits
        for earlier in range(0 if hits else index, index):
            if len(distinct[index] & distinct[earlier]) > max_shared_passages or is_more_similar(
                thoughts[index], thoughts[earlier], think_similarity_threshold
            ):
                is_bad = True
                break
        scores.append(SCORED_BAD if is_bad else _combine(hits, len(passages), calculator))
        seen |= distinct[index]
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


def _score_searches(
    group: Group, score: Callable[[Turn], float], who: str
) -> Float[np.ndarray, "group turn"]:
    """Scores every search turn by itself, NaN elsewhere."""
    correctness = np.full((len(group), group.max_turns), np.nan)
    for row, trajectory in enumerate(group.trajectories):
        for column, turn in _searches(trajectory, who):
            correctness[row, column] = score(turn)
    return correctness


def _searches(trajectory: Trajectory, who: str) -> list[tuple[int, Turn]]:
    """Lists the searches that something followed, with their places."""
    return [
        (column, turn)
        for column, turn in enumerate(trajectory.turns[:-1])
        if _fact(turn, "action", who) == "search"
    ]


def _fact(turn: Turn, key: str, who: str) -> Any:
    """Reads an info key."""
    try:
        return turn.info[key]
    except KeyError as error:
        raise _missing([key], who, turn.info) from error


def _missing(keys: Sequence[str], who: str, given: Collection[str]) -> MissingInfoKeyError:
    """Words the complaint about missing keys."""
    names = ", ".join(repr(key) for key in keys)
    return MissingInfoKeyError(
        f"{who} needs the info key {names}, which the environment does not give; "
        f"it gives {sorted(given)}"
    )
