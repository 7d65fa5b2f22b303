"""Every turn of a recorded group under two methods, and the counts that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.credit.base import SCORED_BAD, search_mask
from calibadv_algo.credit.labels import GoldCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.report.methods import GRPO_AND_CALIBADV, Methods
from calibadv_algo.types import Group

Verdict = Literal["spared", "eased", "punished"]
"""Fate of a correct search that the reference punishes: the other method takes the whole penalty
away, a part of it, or nothing."""

_TOLERANCE: Final[float] = 1e-9


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all recorded groups.

    Attributes:
        num_groups: Groups.
        num_trajectories: Trajectories.
        num_searches: Searches that something followed.
        num_correct: Those that found a new gold passage or were silver.
        num_punished: Correct searches with a negative advantage under the reference.
        verdicts: How many of these the other method spares, eases, or punishes alike.
        penalty: Sum of the reference's penalties on correct searches.
        kept_penalty: What the other method keeps of it.
    """

    num_groups: int = 0
    num_trajectories: int = 0
    num_searches: int = 0
    num_correct: int = 0
    num_punished: int = 0
    verdicts: dict[str, int] = field(
        default_factory=lambda: {"spared": 0, "eased": 0, "punished": 0}
    )
    penalty: float = 0.0
    kept_penalty: float = 0.0

    def add(self, assessed: Assessment) -> None:
        """Counts a group."""
        mispenalized = assessed.is_mispenalized
        self.num_groups += 1
        self.num_trajectories += len(assessed.group)
        self.num_searches += int(assessed.is_search.sum())
        self.num_correct += int(assessed.is_correct.sum())
        self.num_punished += int(mispenalized.sum())
        self.penalty -= float(assessed.reference[mispenalized].sum())
        self.kept_penalty -= float(assessed.other[mispenalized].sum())
        for row, column in np.argwhere(mispenalized):
            self.verdicts[assessed.verdict(int(row), int(column)) or "punished"] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A group with the advantages and the correctness of its turns, whichever arm sampled it.

    Attributes:
        group: The group.
        reference: Advantages under the reference method, GRPO unless others were compared.
        other: Advantages under the other method, CalibAdv unless others were compared.
        silver: Silver correctness, NaN without a score.
        is_search: Searches that something followed.
        is_gold_hit: Searches that newly hit a gold passage.
        silver_passages: Ids of the silver passages.
        gold_passages: Ids of the gold passages that any trajectory was credited with.
    """

    group: Group
    reference: Float[np.ndarray, "group turn"]
    other: Float[np.ndarray, "group turn"]
    silver: Float[np.ndarray, "group turn"]
    is_search: Bool[np.ndarray, "group turn"]
    is_gold_hit: Bool[np.ndarray, "group turn"]
    silver_passages: frozenset[str]
    gold_passages: frozenset[str]

    @property
    def is_correct(self) -> Bool[np.ndarray, "group turn"]:
        """Searches that were silver or hit gold."""
        return np.asarray(self.is_search & ((self.silver > SCORED_BAD) | self.is_gold_hit))

    @property
    def is_mispenalized(self) -> Bool[np.ndarray, "group turn"]:
        """Correct searches with a negative advantage under the reference."""
        return np.asarray(self.is_correct & (self.reference < -_TOLERANCE))

    def verdict(self, row: int, column: int) -> Verdict | None:
        """The other method's treatment of a correct search that the reference punishes."""
        if not self.is_mispenalized[row, column]:
            return None
        if self.other[row, column] >= -_TOLERANCE:
            return "spared"
        eased = self.other[row, column] > self.reference[row, column] + _TOLERANCE
        return "eased" if eased else "punished"


def _silver_passages(
    group: Group,
    silver: Float[np.ndarray, "group turn"],
    is_search: Bool[np.ndarray, "group turn"],
) -> frozenset[str]:
    """Passages that the best trajectories of valid format retrieved; none without silver scores."""
    if np.isnan(silver).all():
        return frozenset()
    rewards = [
        each.reward if each.final_info["is_format_valid"] else -math.inf
        for each in group.trajectories
    ]
    best = [row for row, reward in enumerate(rewards) if reward == max(rewards)]
    found: set[str] = set()
    for row in best:
        turns = group.trajectories[row].turns
        searches = [turn for column, turn in enumerate(turns) if is_search[row, column]]
        # On pages those are silver that were read, not those that a search only showed.
        read = [turn for turn in searches if turn.info["action"] != "search"]
        found.update(str(each) for turn in read or searches for each in turn.info["passage_ids"])
    return frozenset(found)


def assess(group: Group, methods: Methods = GRPO_AND_CALIBADV) -> Assessment:
    """Both advantages and the correctness of every turn of a group, whichever arm sampled it.

    Where the environment does not report what a credit needs, no turn has a score of that kind.
    """
    shape = (len(group), group.max_turns)
    silver, is_search = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    silver_passages: frozenset[str] = frozenset()
    try:
        silver = SilverCredit()(group)
        is_search = search_mask(group)
        silver_passages = _silver_passages(group, silver, is_search)
    except MissingInfoKeyError:
        silver = np.full(shape, np.nan)
    try:
        is_gold_hit = GoldCredit()(group) > SCORED_BAD
    except MissingInfoKeyError:
        is_gold_hit = np.zeros(shape, dtype=np.bool_)
    return Assessment(
        group=group,
        reference=methods.reference.advantages(group, silver),
        other=methods.other.advantages(group, silver),
        silver=silver,
        is_search=is_search,
        is_gold_hit=is_gold_hit,
        silver_passages=silver_passages,
        gold_passages=frozenset(
            str(passage)
            for trajectory in group.trajectories
            for turn in trajectory.turns
            for passage in turn.info.get("gold_new", ())
        ),
    )


def share(part: float, whole: float) -> float:
    """A part of a whole, 0 where there is none."""
    return part / whole if whole else 0.0


def summary_sentences(
    tally: Tally, labels: tuple[str, str] = GRPO_AND_CALIBADV.labels
) -> list[str]:
    """One or two sentences on the correct searches that a method punishes, and another's part.

    Args:
        tally: The counts.
        labels: The reference and the other method.
    """
    reference, other = labels
    if tally.num_groups == 0:
        return ["No trajectories were recorded."]
    if tally.num_correct == 0:
        return [
            f"None of the {tally.num_searches:,} searches in {tally.num_trajectories:,} recorded "
            "trajectories could be shown to be correct."
        ]
    first = (
        f"{reference} punishes {tally.num_punished:,} of {tally.num_correct:,} correct searches "
        f"({share(tally.num_punished, tally.num_correct):.0%}), because their trajectory ended "
        "worse than its group on average."
    )
    if tally.num_punished == 0:
        return [first]
    verdicts = tally.verdicts
    second = (
        f"{other} takes the whole penalty from {verdicts['spared']:,} of them and a part of it "
        f"from {verdicts['eased']:,}; {verdicts['punished']:,} keep theirs. It leaves "
        f"{share(tally.kept_penalty, tally.penalty):.0%} of the penalty in all."
    )
    return [first, second]
