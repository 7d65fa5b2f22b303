"""Other ways to spare and to balance that the authors of CalibAdv tried.

The functions take a ``[trajectory, turn]`` matrix: of one group, or of a whole batch with the
groups stacked on one another, which is all that tells their two scopes apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.advantages.base import last_turns
from calibadv_algo.advantages.calibadv import masses, rebalance_answers
from calibadv_algo.advantages.turn_groups import scored_places
from calibadv_algo.credit.base import SCORED_BAD

Matrix = Float[np.ndarray, "trajectory turn"]

AGGRESSIVE_FROM: Final = 1 / 3 - 1e-8
"""Correctness from which :func:`aggressive_penalty` frees a search."""


def lifting_penalty(advantages: Matrix, correctness: Matrix) -> Matrix:
    """Lifts correct searches of negative trajectories towards the group's best advantage.

    ``A + (max(0, A_best) - A) * c`` where ``A < 0`` and ``c`` is scored and not bad. The
    result can be positive.

    **Source:** CalibAdv's code, ``softpenalty_positive_upper_limit``.

    **Differs:** nothing.

    Args:
        advantages: Advantages of one group's turns.
        correctness: In [0, 1], NaN without a score.

    Returns:
        Advantages that are not below the given ones.
    """
    best = max(0.0, float(advantages.max()))
    applies = (advantages < 0) & (correctness > SCORED_BAD)
    return np.where(applies, advantages + (best - advantages) * correctness, advantages)


def aggressive_penalty(advantages: Matrix, correctness: Matrix, *, lifting: bool = False) -> Matrix:
    """Frees searches from all penalty once a third of their passages are hits.

    0 where ``A < 0`` and ``c >= 1/3``; below that the usual penalty applies.

    **Source:** CalibAdv's code, ``aggressive_softpenalty``.

    **Differs:** a third is met up to 1e-8, as the original compares single precision. The
    original also cuts the advantages of the turns before a freed one to whole numbers, as it
    joins them into a vector of integers; ours does not.

    Args:
        advantages: Advantages of one group's turns.
        correctness: In [0, 1], NaN without a score.
        lifting: If true, :func:`lifting_penalty` applies below a third, not the soft penalty.

    Returns:
        The advantages.
    """
    best = max(0.0, float(advantages.max())) if lifting else 0.0
    scored = (advantages < 0) & (correctness > SCORED_BAD)
    penalised = np.where(scored, advantages + (best - advantages) * correctness, advantages)
    return np.where(scored & (correctness >= AGGRESSIVE_FROM), 0.0, penalised)


def drop_solved_turns(advantages: Matrix, correctness: Matrix) -> Matrix:
    """Zeroes the advantage of searches that every trajectory of the group made perfectly.

    Positive trajectories get 0 at the k-th scored search if all trajectories that have a
    k-th score have 1 there.

    **Source:** CalibAdv's code, ``reset2zero``.

    **Differs:** the original also cuts the advantages of the turns before such a search to
    whole numbers, as it joins them into a vector of integers; ours does not.

    Args:
        advantages: Advantages of one group's turns.
        correctness: In [0, 1], NaN without a score.

    Returns:
        The advantages.
    """
    result = advantages.copy()
    for here in scored_places(correctness):
        if np.all(correctness[here] == 1.0):
            result[here & (advantages > 0)] = 0.0
    return result


def clip_negatives(advantages: Matrix, token_counts: Matrix, target_ratio: float = 1.0) -> Matrix:
    """Cuts negative advantages at the mean positive one.

    With ``tau`` the mean over positive tokens times ``target_ratio``, advantages below
    ``-tau`` become ``-tau``.

    **Source:** CalibAdv's code, ``less_negative.clip``, over the whole batch.

    **Differs:** exactly ``-tau``, where the original is off by a factor of 1e-8 / A. Without a
    positive token nothing is cut.

    Args:
        advantages: Advantages of the batch's turns.
        token_counts: Number of sampled tokens of each turn.
        target_ratio: Multiple of the mean, positive.

    Returns:
        The advantages, none below ``-tau``.
    """
    is_positive = (advantages > 0) & (token_counts > 0)
    tokens = token_counts.sum(where=is_positive)
    if tokens == 0:
        return advantages
    mean = float((advantages * token_counts).sum(where=is_positive) / tokens)
    clipped: Matrix = np.maximum(advantages, -mean * target_ratio)
    return clipped


def is_risky(
    advantages: Matrix,
    token_counts: Matrix,
    pool: Bool[np.ndarray, "trajectory turn"],
    target_ratio: float,
) -> bool:
    """True if the masses of a pool of turns lean to the negative by more than the target.

    False only if there is positive mass and ``N / P <= target_ratio``.

    **Source:** CalibAdv's code, ``only_apply_risky``: pools that are not risky are left alone.

    **Differs:** nothing.

    Args:
        advantages: Advantages of the turns.
        token_counts: Number of sampled tokens of each turn.
        pool: The turns that count.
        target_ratio: Negative over positive mass that is still no risk.
    """
    positive, negative = masses(advantages, token_counts, pool)
    return positive == 0 or negative / positive > target_ratio


def rebalance_pool(
    advantages: Matrix,
    token_counts: Matrix,
    pool: Bool[np.ndarray, "trajectory turn"],
    target_ratio: float = 1.0,
    *,
    adjust_positive: bool = True,
    keep_lone_positive: bool = False,
    keep_lone_negative: bool = False,
) -> Matrix:
    """Brings the masses of any pool of turns into proportion.

    The rule of :func:`~calibadv_algo.advantages.calibadv.rebalance_answers` on turns of
    choice: all turns, those of one index (see :func:`search_pools`), the last turns of a batch.

    **Source:** CalibAdv's code, ``advantage_scale`` with ``only_answer=False``,
    ``turn_level=True`` or ``in_group=False``.

    **Differs:** nothing where the original runs. Its modes disagree on pools with one sign
    alone, hence the two switches.

    Args:
        advantages: Advantages of the turns.
        token_counts: Number of sampled tokens of each turn.
        pool: The turns that are balanced.
        target_ratio: Negative over positive mass to reach, positive.
        adjust_positive: If true, the positive side is scaled, else the negative one.
        keep_lone_positive: If true, a pool without negatives stays as it is; else it becomes 0.
        keep_lone_negative: If true, a pool without positives stays as it is; else it becomes 0.

    Returns:
        The advantages; turns outside the pool unchanged.
    """
    positive, negative = masses(advantages, token_counts, pool)
    if (keep_lone_positive and negative == 0) or (keep_lone_negative and positive == 0):
        return advantages
    return rebalance_answers(advantages, token_counts, pool, target_ratio, adjust_positive)


def search_pools(token_counts: Matrix) -> Iterator[Bool[np.ndarray, "trajectory turn"]]:
    """Masks of the pools of turn-level balancing: each turn index that some trajectory goes past.

    Last turns are left out.
    """
    inner = (token_counts > 0) & ~last_turns(token_counts)
    for column in range(inner.shape[1]):
        pool = np.zeros_like(inner)
        pool[:, column] = inner[:, column]
        if pool.any():
            yield pool
