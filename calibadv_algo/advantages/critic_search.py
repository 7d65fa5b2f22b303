"""CriticSearch: a critic's verdict on each turn mixed with the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from calibadv_algo.advantages.base import Matrix, fitting_counts
from calibadv_algo.advantages.grpo import GroupRelative, group_normalized
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group
from calibadv_env.common.checks import FRACTION

Pool = Literal["group", "turn"]
"""Set of verdicts that are compared: all of the group, or those of the same turn index."""

Verdict = Literal["binary", "graded"]
"""Reading of a verdict: good or bad, or as good as its number."""


def mix_verdicts(
    outcome: Matrix,
    verdicts: Matrix,
    *,
    alpha: float = 0.5,
    epsilon: float = 1e-6,
    pool: Pool = "group",
) -> Matrix:
    """Mixes the comparison of verdicts into the advantages of the turns that have one.

    ``alpha * (r_iq - mean) / (std + epsilon) + (1 - alpha) * A_i``; turns without a verdict
    keep ``A_i``.

    **Source:** CriticSearch (arXiv 2511.12159): verdicts of a frozen critic as turn rewards,
    in a hybrid advantage with the outcome.

    **Differs:** weights and normalisation are not in what is public; alpha, the pool and the
    grading are our choice. A verdict that failed is NaN and counts nowhere.

    Args:
        outcome: Advantages from the outcome.
        verdicts: Reward of each turn, NaN without one.
        alpha: Weight of the verdicts, 0 to 1.
        epsilon: Added to the standard deviation.
        pool: Which verdicts are compared.

    Returns:
        The mixed advantages. Where the compared verdicts are all equal, or there is just one,
        their part is 0.
    """
    is_scored = ~np.isnan(verdicts)
    result = outcome.copy()
    turns = np.arange(verdicts.shape[1])
    pools = [is_scored] if pool == "group" else [is_scored & (turns == turn) for turn in turns]
    for here in pools:
        if here.any():
            compared = group_normalized(verdicts[here], epsilon=epsilon, singleton="zero")
            result[here] = alpha * compared + (1 - alpha) * outcome[here]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSearch(GroupRelative):
    """CriticSearch's advantage; the credit is its critic.

    Attributes:
        alpha: Weight of the verdicts; the outcome has the rest.
        pool: Which verdicts are compared with one another.
        verdict: ``binary`` counts a score above "bad" as 1 and any other as 0; ``graded``
            takes it as it is.
    """

    needs_correctness: ClassVar[bool] = True

    alpha: Annotated[float, FRACTION] = 0.5
    pool: Pool = "group"
    verdict: Verdict = "binary"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Advantages of the outcome mixed with the compared verdicts."""
        counts = fitting_counts(group, correctness)
        verdicts = correctness
        if self.verdict == "binary":
            is_good = np.where(correctness > SCORED_BAD, 1.0, 0.0)
            verdicts = np.where(np.isnan(correctness), np.nan, is_good)
        return mix_verdicts(
            self.group_relative(group, counts),
            verdicts,
            alpha=self.alpha,
            epsilon=self.epsilon,
            pool=self.pool,
        )
