"""CriticSearch: a critic's verdict on each turn mixed with the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import check_correctness
from calibadv_algo.advantages.grpo import GroupRelative, group_normalized
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group, token_counts

Pool = Literal["group", "turn"]
"""Which verdicts are compared: all of the group, or those of the same turn index."""

Verdict = Literal["binary", "graded"]
"""Whether a verdict is good or bad, or as good as its number."""


def mix_verdicts(
    outcome: Float[np.ndarray, "group turn"],
    verdicts: Float[np.ndarray, "group turn"],
    *,
    alpha: float = 0.5,
    epsilon: float = 1e-6,
    pool: Pool = "group",
) -> Float[np.ndarray, "group turn"]:
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
    judged = ~np.isnan(verdicts)
    result = outcome.copy()
    turns = np.arange(verdicts.shape[1])
    pools = [judged] if pool == "group" else [judged & (turns == turn) for turn in turns]
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

    alpha: float = 0.5
    pool: Pool = "group"
    verdict: Verdict = "binary"

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        GroupRelative.__post_init__(self)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.pool not in ("group", "turn"):
            raise ValueError(f"pool must be group or turn, got {self.pool!r}")
        if self.verdict not in ("binary", "graded"):
            raise ValueError(f"verdict must be binary or graded, got {self.verdict!r}")

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns the advantages."""
        counts = token_counts(group)
        check_correctness(correctness, counts)
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
