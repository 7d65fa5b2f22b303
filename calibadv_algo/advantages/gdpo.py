"""GDPO: each kind of reward compared within the group by itself, then added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import MinLen
from jaxtyping import Float

from calibadv_algo.advantages.base import (
    AdvantageEstimator,
    AnyMatrix,
    Matrix,
    fitting_counts,
    spread,
)
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.credit.facts import final_fact
from calibadv_algo.types import Group
from calibadv_env.common.checks import POSITIVE


def decoupled(
    rewards: Float[np.ndarray, "group kind"], weights: Sequence[float], epsilon: float = 1e-4
) -> Float[np.ndarray, " group"]:
    """Weighted sum of what each kind of reward says when compared within the group.

    ``sum_k w_k (r_k - mean_k) / (std_k + epsilon)``.

    **Source:** GDPO (arXiv 2601.05242); TRL's ``normalize_then_sum``.

    **Differs:** rounding counts as 0, see
    :func:`~calibadv_algo.advantages.grpo.group_normalized`.

    Args:
        rewards: One row a trajectory, one column a kind.
        weights: One a kind.
        epsilon: Added to the deviations.

    Returns:
        One number a trajectory; zeros for a group of one.
    """
    parts = [
        weight * group_normalized(column, epsilon=epsilon, singleton="zero")
        for weight, column in zip(weights, rewards.T, strict=True)
    ]
    total: Float[np.ndarray, " group"] = np.sum(parts, axis=0)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Gdpo(AdvantageEstimator):
    """GDPO's advantage: rewards of several kinds compared apart, summed, whitened over the batch.

    GRPO adds rewards up before it compares, so that different mixtures with the same sum look the
    same, and the kind with the wider spread decides. Here each kind is brought to mean 0 and
    deviation 1 within the group first.

    **Source:** GDPO (arXiv 2601.05242); TRL's ``normalize_then_sum``.

    **Differs:** the kinds are facts at the end of an episode, by their info keys, and not separate
    reward functions; the reward that the environment pays is not read. An episode that was cut off
    before its end has 0 of each.

    Attributes:
        kinds: Info keys of the last turn that hold the rewards.
        weights: One for each kind.
        epsilon: Added to the deviations.
    """

    name: ClassVar[str] = "gdpo"

    kinds: Annotated[tuple[str, ...], MinLen(1)] = ("f1", "is_format_valid")
    weights: tuple[float, ...] = (1.0, 1.0)
    epsilon: Annotated[float, POSITIVE] = 1e-4

    def __post_init__(self) -> None:
        """Checks ranges, and that each kind has a weight."""
        AdvantageEstimator.__post_init__(self)
        if len(self.kinds) != len(self.weights):
            raise ValueError(
                f"weights must be one for each of {len(self.kinds)} kinds, got {len(self.weights)}"
            )

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kinds of reward."""
        return frozenset(self.kinds)

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The compared and added rewards, which :meth:`finish` whitens."""
        counts = fitting_counts(group, correctness)
        rewards = np.array(
            [
                [float(final_fact(each, kind, "Gdpo")) for kind in self.kinds]
                for each in group.trajectories
            ]
        )
        return spread(decoupled(rewards, self.weights, self.epsilon), counts)

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Brings the batch's trajectories to mean 0 and deviation 1."""
        if not advantages:
            return []
        values = np.concatenate([matrix[:, 0] for matrix in advantages])
        compared = group_normalized(values, epsilon=self.epsilon, singleton="zero")
        ends = np.cumsum([len(matrix) for matrix in advantages])[:-1]
        return [
            spread(part, count)
            for part, count in zip(np.split(compared, ends), counts, strict=True)
        ]
