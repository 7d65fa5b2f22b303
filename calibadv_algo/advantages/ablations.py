"""CalibAdv with other ways to spare and to balance, as one estimator.

The formulas are in ``variants.py``; what is here says which of them a run uses, and over which
turns and how much of the batch the masses are balanced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import AnyMatrix, fitting_counts, last_turns
from calibadv_algo.advantages.calibadv import soft_penalty
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.advantages.variants import (
    Matrix,
    aggressive_penalty,
    clip_negatives,
    drop_solved_turns,
    is_risky,
    lifting_penalty,
    rebalance_pool,
    search_pools,
)
from calibadv_algo.types import Group
from calibadv_env.common.checks import POSITIVE

Penalty = Literal["soft", "lifting", "aggressive", "aggressive-lifting", "none"]
"""How correct searches of negative trajectories are spared.

``soft`` is CalibAdv's own; ``lifting`` can make them positive
(``softpenalty_positive_upper_limit``); ``aggressive`` frees them from a third of hits on
(``aggressive_softpenalty``); ``aggressive-lifting`` is both; ``none`` spares nothing.
"""

Solved = Literal["keep", "zero"]
"""Advantage of positive trajectories for a search that all of the group made perfectly: kept,
or 0 (``reset2zero``)."""

Pools = Literal["answers", "searches", "turns", "all", "none"]
"""Whose masses are balanced.

``answers``: the last turns (CalibAdv's own). ``searches``: the other turns, each index by
itself. ``turns``: both, each by itself. ``all``: all turns together. ``none``: nothing.
"""

Scope = Literal["group", "batch"]
"""How far masses are summed up: over each group, or over the whole batch (``in_group=False``)."""

When = Literal["always", "risky"]
"""Pools that are balanced: all, or those that lean to the negative (``only_apply_risky``)."""

Lone = Literal["zero", "keep-positive", "keep-negative"]
"""Result for a pool with one sign alone."""

_PENALTIES: Final[Mapping[str, Callable[[Matrix, Matrix], Matrix]]] = {
    "soft": soft_penalty,
    "lifting": lifting_penalty,
    "aggressive": aggressive_penalty,
    "aggressive-lifting": lambda advantages, correctness: aggressive_penalty(
        advantages, correctness, lifting=True
    ),
    "none": lambda advantages, _: advantages,
}


def spare(
    advantages: Matrix, correctness: Matrix, penalty: Penalty = "soft", solved: Solved = "keep"
) -> Matrix:
    """Applies the soft penalty, or another way to spare, to one group.

    **Source:** CalibAdv's code, ``compute_grpo_outcome_softpenalty_advantage``.

    **Differs:** see the functions of :mod:`~calibadv_algo.advantages.variants`.

    Args:
        advantages: Advantages of one group's turns.
        correctness: In [0, 1], NaN without a score.
        penalty: How negative trajectories are spared.
        solved: Advantage of positive trajectories for searches that all made perfectly.

    Returns:
        The advantages.
    """
    spared = _PENALTIES[penalty](advantages, correctness)
    if solved == "zero":
        # Whether a trajectory is positive is told by its advantage before the penalty.
        return np.where(advantages > 0, drop_solved_turns(advantages, correctness), spared)
    return spared


def balance(
    advantages: Matrix,
    token_counts: Matrix,
    pools: Pools = "answers",
    target_ratio: float = 1.0,
    *,
    adjust_positive: bool = True,
    when: When = "always",
    lone: Lone = "zero",
) -> Matrix:
    """Balances the masses of pools of turns, each pool by itself.

    **Source:** CalibAdv's code, ``advantage_scale``.

    **Differs:** all pools divide the positive side by ``target_ratio``, where the original
    multiplies by it in one mode (turns within a group); that mode also leaves the last turns
    alone, which is ``searches`` here.

    Args:
        advantages: Advantages of the turns, of one group or of a whole batch.
        token_counts: Number of sampled tokens of each turn.
        pools: Whose masses are balanced.
        target_ratio: Negative over positive mass to reach, positive.
        adjust_positive: If true, the positive side is scaled, else the negative one.
        when: Pools that are balanced.
        lone: Result for a pool with one sign alone.

    Returns:
        The advantages.
    """
    for pool in _pools(token_counts, pools):
        if when == "risky" and not is_risky(advantages, token_counts, pool, target_ratio):
            continue
        advantages = rebalance_pool(
            advantages,
            token_counts,
            pool,
            target_ratio,
            adjust_positive=adjust_positive,
            keep_lone_positive=lone == "keep-positive",
            keep_lone_negative=lone == "keep-negative",
        )
    return advantages


def over_batch(
    matrices: Sequence[AnyMatrix],
    counts: Sequence[AnyMatrix],
    function: Callable[[Matrix, Matrix], Matrix],
) -> list[AnyMatrix]:
    """Calls a function of stacked advantages and token counts on all groups at once.

    The result is cut into matrices of the given shapes, one a group.
    """
    if not matrices:
        return []
    width = max(matrix.shape[1] for matrix in matrices)
    stacked, tokens = (
        np.concatenate([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in given])
        for given in (matrices, counts)
    )
    result = function(stacked, tokens)
    bounds = np.cumsum([len(matrix) for matrix in matrices])[:-1]
    parts = np.split(result, bounds)
    return [part[:, : matrix.shape[1]] for part, matrix in zip(parts, matrices, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibAdvVariant(GroupRelative):
    """CalibAdv with any of its authors' switches; the default is CalibAdv itself.

    Attributes:
        penalty: How correct searches of negative trajectories are spared.
        solved: Advantage of positive trajectories for searches that all made perfectly.
        pools: Whose masses are balanced.
        scope: Extent over which masses are summed up: each group, or the batch.
        when: Pools that are balanced.
        lone: Result for a pool with one sign alone.
        target_ratio: Negative over positive mass to reach; one over the paper's lambda.
        adjust_positive: If true, the positive side is scaled, else the negative one.
    """

    name: ClassVar[str] = "calibadv-variant"
    needs_correctness: ClassVar[bool] = True

    penalty: Penalty = "soft"
    solved: Solved = "keep"
    pools: Pools = "answers"
    scope: Scope = "group"
    when: When = "always"
    lone: Lone = "zero"
    target_ratio: Annotated[float, POSITIVE] = 1.0
    adjust_positive: bool = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages, balanced if the scope is the group."""
        counts = fitting_counts(group, correctness)
        spared = spare(self.group_relative(group, counts), correctness, self.penalty, self.solved)
        return self.balanced(spared, counts) if self.scope == "group" else spared

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Balances over the batch if that is the scope."""
        if self.scope == "group":
            return advantages
        return over_batch(advantages, counts, self.balanced)

    def balanced(self, advantages: Matrix, counts: Matrix) -> Matrix:
        """Applies :func:`balance` with these settings."""
        return balance(
            advantages,
            counts,
            self.pools,
            self.target_ratio,
            adjust_positive=self.adjust_positive,
            when=self.when,
            lone=self.lone,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedCalibAdv(GroupRelative):
    """CalibAdv whose negative advantages are cut at the batch's mean positive one.

    The cut takes the place of the rebalancing (``less_negative.clip``).

    Attributes:
        penalty: How correct searches of negative trajectories are spared.
        target_ratio: Multiple of the mean at which is cut.
    """

    name: ClassVar[str] = "clipped-calibadv"
    needs_correctness: ClassVar[bool] = True

    penalty: Penalty = "soft"
    target_ratio: Annotated[float, POSITIVE] = 1.0

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages, to be cut by :meth:`finish`."""
        counts = fitting_counts(group, correctness)
        return spare(self.group_relative(group, counts), correctness, self.penalty)

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Cuts negative advantages at the batch's mean positive one."""
        return over_batch(
            advantages,
            counts,
            lambda stacked, tokens: clip_negatives(stacked, tokens, self.target_ratio),
        )


def _pools(token_counts: Matrix, pools: Pools) -> list[Bool[np.ndarray, "trajectory turn"]]:
    """Lists the pools that are balanced."""
    if pools == "none":
        return []
    if pools == "all":
        return [token_counts > 0]
    searches = [] if pools == "answers" else list(search_pools(token_counts))
    return searches if pools == "searches" else [*searches, last_turns(token_counts)]
