"""CalibAdv: GRPO that spares correct searches and balances the answers.

Two of its three parts are here: the soft penalty and the rebalancing of the answer turns. The
third, decoupling the opening tag, is a matter of the environment (``prepend_think=True``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import Matrix, fitting_counts, last_turns
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group
from calibadv_env.common.checks import POSITIVE


def soft_penalty(advantages: Matrix, correctness: Matrix) -> Matrix:
    """Reduces the penalty of correct searches in negative trajectories.

    ``A * (1 - c)`` where ``A < 0`` and ``c`` is scored and not bad; all other turns keep ``A``.

    **Source:** CalibAdv (arXiv 2604.18235), soft penalty; the authors'
    ``compute_grpo_outcome_softpenalty_advantage``.

    **Differs:** nothing. (The original paints prefixes of the token vector; per turn it is this.)

    Args:
        advantages: Advantages of the turns.
        correctness: In [0, 1], NaN without a score.

    Returns:
        Advantages of the same sign or 0; never below the given ones.
    """
    applies = (advantages < 0) & (correctness > SCORED_BAD)
    if not applies.any():
        return advantages
    return np.where(applies, advantages * (1.0 - correctness), advantages)


def rebalance_answers(
    advantages: Matrix,
    token_counts: Matrix,
    last_turn: Bool[np.ndarray, "group turn"],
    target_ratio: float = 1.0,
    adjust_positive: bool = True,
) -> Matrix:
    """Brings the positive and the negative mass of a group's last turns into proportion.

    With ``P`` and ``N`` the sums of positive and of negative advantage over the *tokens* of
    the last turns, positive ones are multiplied by ``N / (P * target_ratio)``, so that
    ``N / P`` becomes ``target_ratio``. With ``adjust_positive=False`` negative ones are
    multiplied by ``target_ratio * P / N`` instead, so that ``P / N`` becomes
    ``1 / target_ratio``. If either mass is 0, all last turns become 0.

    **Source:** CalibAdv (arXiv 2604.18235), rebalancing with ``lambda = 1 / target_ratio``; the
    authors' ``advantage_scale`` with ``only_answer`` and ``in_group``.

    **Differs:** groups or batches without a negative advantage give zeros, where the original
    divides by zero. As there, the last turn counts whatever it is: an answer, a malformed
    action, a search that was left dangling; and the factor is not clamped.

    Args:
        advantages: Advantages of the turns.
        token_counts: Number of sampled tokens of each turn.
        last_turn: True at the last turn of each trajectory.
        target_ratio: Negative mass over positive mass to reach, positive.
        adjust_positive: If true, the positive side is scaled, else the negative one.

    Returns:
        The advantages with other last turns; all other turns unchanged.
    """
    positive, negative = masses(advantages, token_counts, last_turn)
    if positive == 0 or negative == 0:
        return np.where(last_turn, 0.0, advantages)
    if adjust_positive:
        factor, side = negative / (positive * target_ratio), advantages > 0
    else:
        factor, side = positive / negative * target_ratio, advantages < 0
    return np.where(last_turn & side, advantages * factor, advantages)


def masses(
    advantages: Matrix, token_counts: Matrix, pool: Bool[np.ndarray, "group turn"]
) -> tuple[float, float]:
    """Sums of positive and of negative advantage over the tokens of a pool, as magnitudes."""
    values = np.where(pool, advantages * token_counts, 0.0)
    return float(np.maximum(values, 0.0).sum()), -float(np.minimum(values, 0.0).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftPenalty(GroupRelative):
    """GRPO with the soft penalty alone."""

    needs_correctness: ClassVar[bool] = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages, with correct searches of poor trajectories spared."""
        counts = fitting_counts(group, correctness)
        return soft_penalty(self.group_relative(group, counts), correctness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance(GroupRelative):
    """GRPO with the rebalancing of the last turns alone.

    Attributes:
        target_ratio: Negative mass over positive mass of the last turns to reach.
        adjust_positive: If true, the positive side is scaled, else the negative one.
    """

    target_ratio: Annotated[float, POSITIVE] = 1.0
    adjust_positive: bool = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages with balanced last turns; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        return self.rebalanced(self.group_relative(group, counts), counts)

    def rebalanced(self, advantages: Matrix, counts: Matrix) -> Matrix:
        """Applies :func:`rebalance_answers` with these settings."""
        return rebalance_answers(
            advantages, counts, last_turns(counts), self.target_ratio, self.adjust_positive
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibAdv(Rebalance):
    """CalibAdv's advantage: GRPO, then the soft penalty, then the rebalancing.

    **Bias:** a spared search learns from its successes alone, so searches called correct are
    favoured: in a world of two searches and an answer the first learns 2.1 times the true gradient
    and the second 1.5 times (GRPO: 1.45 both), and with gold labels a good search on a dead end,
    truly worth 0, is rewarded. Silver labels do not do the latter.
    """

    name: ClassVar[str] = "calibadv"
    needs_correctness: ClassVar[bool] = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """CalibAdv's advantages."""
        counts = fitting_counts(group, correctness)
        return self.rebalanced(
            soft_penalty(self.group_relative(group, counts), correctness), counts
        )
