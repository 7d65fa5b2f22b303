"""Estimators of CalibAdv's code that compare turns with turns, not trajectories.

**Bias:** labels say which searches are good, not what they are worth. On a dead end, where the true
advantage is 0, gold labels still reward the next good search, and a world of two searches and an
answer is learnt in a direction whose cosine with the true one is .89 (``TurnGroup``), .84
(``QueryGroup``), .94 (``PenaltyTurnGroup``), .90 (``GoodQueryPositive``) and .98 (CalibAdv).
``QueryGroup`` compares first with later searches: where each search pays 1, the second learns next
to nothing (0.01 of the true gradient, the first 0.50). See ``tests/algo/test_bias.py``.

All of these read the correctness of searches and treat the k-th scored search of a trajectory
as its turn k, so that a turn without a score moves no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import Matrix, fitting_counts, spread
from calibadv_algo.advantages.grpo import GroupRelative, Singleton, group_normalized
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION


def scored_places(correctness: Matrix) -> Iterator[Bool[np.ndarray, "group turn"]]:
    """Masks of the first scored searches of all trajectories, of the second ones, and so on.

    Each has at most one turn a row. Correctness is in [0, 1], NaN without a score.
    """
    is_scored = ~np.isnan(correctness)
    place = np.cumsum(is_scored, axis=1)
    for number in range(1, int(place.max(initial=0)) + 1):
        yield is_scored & (place == number)


def place_normalized(
    values: Matrix,
    correctness: Matrix,
    *,
    epsilon: float = 1e-6,
    singleton: Singleton = "raw",
) -> Matrix:
    """Compares the k-th scored searches of a group with one another, for every k.

    ``(x_ik - mean_k) / (std_k + epsilon)`` with the sample deviation.

    **Source:** CalibAdv's code, ``compute_grpo_outcome_turngroup_advantage``.

    **Differs:** rounding counts as 0.

    Args:
        values: What is compared.
        correctness: Says which turns have a score: those that are not NaN.
        epsilon: Added to the standard deviation.
        singleton: What the only search of a place gets: its ``raw`` value, as in the original,
            or ``zero``.

    Returns:
        One value a scored search, 0 elsewhere.
    """
    result = np.zeros_like(values)
    for here in scored_places(correctness):
        result[here] = group_normalized(values[here], epsilon=epsilon, singleton=singleton)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnGroup(GroupRelative):
    """The searches' own comparison and GRPO's, half and half (``turngroup``).

    ``query_coef * z(c at the same place) + (1 - query_coef) * A_i``; turns without a score
    have the second part alone.

    **Source:** CalibAdv's code, ``compute_grpo_outcome_turngroup_advantage``, and its trainer,
    which takes half the loss of each of the two advantages.

    **Differs:** one loss of the mean of the advantages, not the mean of two losses: the same
    gradient wherever the ratio is not clipped. The original stops with an error when the
    balancing is on; here there is none.

    Attributes:
        query_coef: Weight of the searches' own comparison.
    """

    needs_correctness: ClassVar[bool] = True

    query_coef: Annotated[float, FRACTION] = 0.5

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages."""
        counts = fitting_counts(group, correctness)
        searches, outcome = self.parts(group, correctness, counts)
        return self.query_coef * searches + (1 - self.query_coef) * outcome

    def parts(self, group: Group, correctness: Matrix, counts: Matrix) -> tuple[Matrix, Matrix]:
        """The advantages of the searches and those of the outcome."""
        searches = place_normalized(
            np.nan_to_num(correctness), correctness, epsilon=self.epsilon, singleton=self.singleton
        )
        return searches, self.group_relative(group, counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyTurnGroup(GroupRelative):
    """Searches earn part of the way to the best reward and are compared place by place.

    The k-th scored search has the reward ``R_i + (R_max - R_i) * c`` (``R_i`` if it is bad),
    compared with those of the same place; turns without a score keep GRPO's advantage.

    **Source:** CalibAdv's code, ``compute_grpo_outcome_softpenalty_turngroup_advantage``.

    **Differs:** ``R_max`` is the group's best reward; in the original it is that of the best
    well-formed trajectory, the same unless a malformed one earns more. The original stops with
    an error in its balancing step; here there is none.
    """

    needs_correctness: ClassVar[bool] = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages."""
        counts = fitting_counts(group, correctness)
        rewards = spread(group_rewards(group), counts)
        best = float(group_rewards(group).max())
        is_good = correctness > SCORED_BAD
        earned = np.where(is_good, rewards + (best - rewards) * np.nan_to_num(correctness), rewards)
        compared = place_normalized(
            earned, correctness, epsilon=self.epsilon, singleton=self.singleton
        )
        return np.where(np.isnan(correctness), self.group_relative(group, counts), compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGroup(GroupRelative):
    """All searches of a group compared in one pool (``querygroup``).

    ``query_coef * z(c over the group) + (1 - query_coef) * A_i`` for scored searches; other
    turns keep GRPO's advantage.

    **Source:** CalibAdv's code, ``compute_grpo_outcome_querygroup_advantage``.

    **Differs:** rounding counts as 0. A lone score stays as it is there too.

    Attributes:
        query_coef: Weight of the searches' comparison.
    """

    needs_correctness: ClassVar[bool] = True

    query_coef: Annotated[float, FRACTION] = 0.7

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages."""
        counts = fitting_counts(group, correctness)
        advantages = self.group_relative(group, counts)
        is_scored = ~np.isnan(correctness)
        if is_scored.any():
            compared = group_normalized(
                correctness[is_scored], epsilon=self.epsilon, singleton=self.singleton
            )
            advantages[is_scored] = (
                self.query_coef * compared + (1 - self.query_coef) * advantages[is_scored]
            )
        return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodQueryPositive(GroupRelative):
    """Good searches are rewarded, in poor and in good trajectories (``goodquerypositive``).

    Where ``c > good_from``: ``(max(mean + (R_max - mean) * c, R_i) - mean) / (std + epsilon)``;
    all other turns keep GRPO's advantage.

    **Source:** CalibAdv's code,
    ``compute_grpo_outcome_goodquerypositive_segment_advantage``.

    **Differs:** ``R_max`` is the group's best reward. In the original it is that of the best
    well-formed trajectory, and where the group's own best is lower the batch's deviation is
    the unit, which cannot happen with one reward. The original stops with an error in its
    balancing step; here there is none.

    Attributes:
        good_from: Correctness above which a search counts as good, 0 to 1.
    """

    needs_correctness: ClassVar[bool] = True

    good_from: Annotated[float, FRACTION] = 0.1

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages."""
        counts = fitting_counts(group, correctness)
        advantages = self.group_relative(group, counts)
        best = float(advantages.max())
        # (x - mean) / (std + epsilon) is linear in x, so the way to the best reward is the
        # same share of the way from 0 to the best advantage.
        is_good = correctness > self.good_from
        lifted = np.maximum(best * np.nan_to_num(correctness), advantages)
        return np.where(is_good, lifted, advantages)
