"""Credits by labels: gold passages, matches of the answer, a coin, another credit inverted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.base import SCORED_BAD, CreditRule
from calibadv_algo.credit.facts import fact, searches_of
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.types import Group, Turn
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCredit(CreditRule):
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
        """1 for searches with a new gold passage, SCORED_BAD for others."""

        def score(turn: Turn) -> float:
            recall = float(fact(turn, "gold_recall", "GoldCredit"))
            if np.isnan(recall):
                return np.nan
            return 1.0 if len(fact(turn, "gold_new", "GoldCredit")) else SCORED_BAD

        return _score_searches(group, score, "GoldCredit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMatchCredit(CreditRule):
    """Correctness by whether an accepted answer stands in the passages that were found."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset({"action", "answer_in_passages"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """1 for searches whose passages hold an answer, SCORED_BAD for others."""

        def score(turn: Turn) -> float:
            is_match = fact(turn, "answer_in_passages", "AnswerMatchCredit")
            return 1.0 if is_match else SCORED_BAD

        return _score_searches(group, score, "AnswerMatchCredit")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCredit(CreditRule):
    """A coin for every search: the false-label control.

    The draw depends on the seed, the group's id, the trajectory's place in the group and the
    turn alone, so it is the same in every process and in any order of groups.

    Attributes:
        seed: Seed of the draws.
        probability: Chance that a search is called correct, 0 to 1.
    """

    seed: Annotated[int, NOT_NEGATIVE] = 0
    probability: Annotated[float, FRACTION] = 0.5

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset({"action"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """1 or SCORED_BAD for every search."""
        digest = hashlib.sha256(group.group_id.encode("utf-8", "surrogatepass")).digest()
        correctness = np.full((len(group), group.max_turns), np.nan)
        for row, trajectory in enumerate(group.trajectories):
            key = [self.seed, int.from_bytes(digest[:8], "little"), row]
            draws = np.random.default_rng(key).random(len(trajectory.turns))
            for column, _ in searches_of(trajectory, "RandomCredit"):
                is_correct = draws[column] < self.probability
                correctness[row, column] = 1.0 if is_correct else SCORED_BAD
        return correctness


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedCredit(CreditRule):
    """Calls good what another credit calls bad: ``1 - c`` for every scored turn.

    Attributes:
        base: The credit that is turned round.
    """

    base: CreditRule = field(default_factory=SilverCredit)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the base needs."""
        return self.base.required_info_keys

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """The inverted scores: bad becomes 1, perfect becomes SCORED_BAD."""
        base = self.base(group)
        inverted = np.where(base <= SCORED_BAD, 1.0, np.maximum(1.0 - base, SCORED_BAD))
        return np.where(np.isnan(base), np.nan, inverted)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCredit(CreditRule):
    """No credit: no turn has a score. Runs on any environment."""

    name: ClassVar[str] = "none"
    scores_turns: ClassVar[bool] = False

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """NaN everywhere."""
        return np.full((len(group), group.max_turns), np.nan)


def _score_searches(
    group: Group, score: Callable[[Turn], float], who: str
) -> Float[np.ndarray, "group turn"]:
    """Scores every search turn by itself, NaN elsewhere."""
    correctness = np.full((len(group), group.max_turns), np.nan)
    for row, trajectory in enumerate(group.trajectories):
        for column, turn in searches_of(trajectory, who):
            correctness[row, column] = score(turn)
    return correctness
