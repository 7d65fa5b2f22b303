"""StepSearch: a reward for every search by what it adds, and one for asking the right questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np

from calibadv_algo.credit.facts import fact, final_fact, is_search, task_fact
from calibadv_algo.shaping.base import RewardShaping, with_rewards
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE
from calibadv_env.protocol.answers import f1_score

_WHO: Final = "StepSearchReward"

Evidence = Literal["similarity", "gold"]
"""How a search comes near the gold evidence: by the TF-IDF cosine of its passages to the gold
texts (published), or by the gold passages that it is the first to hit."""

KeyRule = Literal["best", "last"]
"""Which of several queries for one gold query counts: the best, or the last (the code)."""


def information_gains(similarities: Sequence[Sequence[float]]) -> list[float]:
    """Gain of each search over what the earlier ones came to.

    ``gain_t = mean_j max(0, m_tj - max_{s<t} m_sj)`` with ``m_tj`` the similarity of search
    ``t`` to gold text ``j``.

    **Source:** StepSearch (arXiv 2505.15107), information gain.

    Args:
        similarities: One row a search, one column a gold text, each 0 to 1.

    Returns:
        One gain a search, 0 to 1; 0 without gold texts. The gains add up to the mean over the
        gold texts of the highest similarity.
    """
    gains = []
    best: list[float] = []
    for row in similarities:
        best = best or [0.0] * len(row)
        rises = [max(0.0, value - top) for value, top in zip(row, best, strict=True)]
        gains.append(math.fsum(rises) / len(rises) if rises else 0.0)
        best = [max(value, top) for value, top in zip(row, best, strict=True)]
    return gains


def redundancies(passages: Sequence[Sequence[str]]) -> list[float]:
    """The share of each search's passages that had been retrieved before.

    **Source:** StepSearch, redundancy penalty.

    Args:
        passages: Ids of the passages of each search. One that stands twice in the same search
            counts from its second time on.

    Returns:
        One share a search, 0 to 1; 0 for a search without passages.
    """
    seen: set[str] = set()
    shares = []
    for found in passages:
        repeated = 0
        for passage in found:
            repeated += passage in seen
            seen.add(passage)
        shares.append(repeated / len(found) if found else 0.0)
    return shares


def key_score(
    queries: Sequence[str], gold_queries: Sequence[Sequence[str]], rule: KeyRule = "best"
) -> float:
    """How well the queries cover the gold ones.

    Each query is matched with the gold query whose wordings it agrees with best by F1; a gold
    query is worth the F1 of the query that was matched with it, 0 if none was.

    **Source:** StepSearch (arXiv 2505.15107), search-key reward.

    **Differs:** of several queries for one gold query the best counts. The released code lets
    the last one overwrite the others (``rule="last"``); which of the two the paper means could
    not be settled.

    Args:
        queries: What was searched for, in order.
        gold_queries: For each hop its wordings.
        rule: Which query counts.

    Returns:
        0 to 1; 0 without gold queries or without queries.
    """
    matched: dict[int, float] = {}
    for query in queries:
        scores = [f1_score(query, wordings) for wordings in gold_queries]
        if not scores:
            return 0.0
        place = max(range(len(scores)), key=scores.__getitem__)
        if scores[place] == 0:
            continue  # It is matched with none, so it overwrites none.
        if rule == "last" or scores[place] > matched.get(place, 0.0):
            matched[place] = scores[place]
    return math.fsum(matched.values()) / len(gold_queries) if gold_queries else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSearchReward(RewardShaping):
    """Gain minus redundancy on every search; F1 plus the key score on the answer.

    An episode without an answer earns ``missing`` and nothing for its searches.

    **Source:** StepSearch (arXiv 2505.15107); weights of its released code.

    **Differs:** the code means to scale step rewards by 0.6 and, adding them in place to what it
    scales, reaches 1.6: ``step_scale=1.6`` repeats that. Passages are compared by id. With
    ``evidence="gold"`` a search gains by the share of hops whose gold passage it is the first to
    hit, which needs no texts; the published form needs the environment's reward "step_search".

    Attributes:
        key_weight: Weight of the key score.
        step_scale: Weight of gain minus redundancy.
        missing: Reward of an episode without an answer.
        evidence: How a search comes near the gold evidence.
        key_rule: Which of several queries for one gold query counts.
    """

    key_weight: Annotated[float, NOT_NEGATIVE] = 0.618
    step_scale: Annotated[float, NOT_NEGATIVE] = 0.6
    missing: float = -1.0
    evidence: Evidence = "similarity"
    key_rule: KeyRule = "best"

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Queries, passages, the answer's F1, and the chosen evidence."""
        evidence = "gold_similarity" if self.evidence == "similarity" else "gold_recall"
        return frozenset({"action", "query", "answer", "passage_ids", "f1", evidence})

    def __call__(self, group: Group) -> Group:
        """Group with these rewards."""
        rewards = np.zeros((len(group), group.max_turns))
        for row, trajectory in enumerate(group.trajectories):
            last = len(trajectory.turns) - 1
            if fact(trajectory.turns[-1], "answer", _WHO) is None:
                rewards[row, last] = self.missing
                continue
            for column, value in self._steps(trajectory).items():
                rewards[row, column] = self.step_scale * value
            rewards[row, last] += self._outcome(trajectory)
        return with_rewards(group, rewards)

    def _outcome(self, trajectory: Trajectory) -> float:
        gold = task_fact(trajectory, "gold_queries", _WHO)
        asked = [fact(turn, "query", _WHO) for turn in trajectory.turns]
        queries = [query for query in asked if query]
        score = round(float(final_fact(trajectory, "f1", _WHO)), 4)
        return score + self.key_weight * key_score(queries, gold, self.key_rule)

    def _steps(self, trajectory: Trajectory) -> dict[int, float]:
        """Gain minus redundancy by turn; {} where the task names no evidence."""
        columns = [i for i, turn in enumerate(trajectory.turns) if is_search(turn, _WHO)]
        turns = [trajectory.turns[column] for column in columns]
        if self.evidence == "similarity":
            rows = [fact(turn, "gold_similarity", _WHO) for turn in turns]
            if not rows or not len(rows[0]):
                return {}
            gains = information_gains(rows)
        else:
            recalls = [float(fact(turn, "gold_recall", _WHO)) for turn in turns]
            if any(map(math.isnan, recalls)):
                return {}
            gains = [b - a for a, b in zip([0.0, *recalls], recalls, strict=False)]
        costs = redundancies([fact(turn, "passage_ids", _WHO) for turn in turns])
        return {c: g - p for c, g, p in zip(columns, gains, costs, strict=True)}
