"""HGPO: a step compared with those in its state, once for every length of shared history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.anchors import AnchorKind, anchor_states
from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.gigpo import step_returns
from calibadv_algo.advantages.grpo import Normalization
from calibadv_algo.types import Group
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE

Steps = Sequence[Float[np.ndarray, " turn"]]
"""One number for every step of every trajectory of a group."""


def hierarchical_relative(
    states: Sequence[Sequence[str]],
    returns: Steps,
    *,
    history: int = 2,
    alpha: float = 1.0,
    normalization: Normalization = "none",
    epsilon: float = 1e-6,
) -> list[Float[np.ndarray, " turn"]]:
    """Compares each step with the steps that share its state and its last states.

    For ``k = 0 .. history`` a step is compared with those that have the same state and the same
    ``k`` states before it, ``A_k = G - mean``. Its advantage is ``sum(w_k A_k)`` with ``w_k`` in
    proportion to ``(k + 1)^alpha`` over the comparisons that are not 0.

    **Source:** HGPO (arXiv 2602.22817); ``core_hgpo.py`` of its authors, CazeroZ/hgpo.

    **Differs:** nothing. As there, a comparison whose outcome is exactly 0 has no weight, and a
    deviation is that of the population. Their file cannot be run as it was published.

    Args:
        states: State before each step of each trajectory.
        returns: Discounted return from each step on.
        history: Most states before a step that have to be shared.
        alpha: How much longer histories count for more.
        normalization: Divide by the deviation (``group``) or not (``none``).
        epsilon: Added to the deviation.

    Returns:
        One value a step; 0 for a state that was met once.
    """
    compared: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for length in range(history + 1):
        clusters: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for row, own in enumerate(states):
            for step in range(length, len(own)):
                clusters[tuple(own[step - length : step + 1])].append((row, step))
        for members in clusters.values():
            if len(members) > 1:
                values = np.array([returns[row][step] for row, step in members])
                scores = values - values.mean()
                if normalization == "group":
                    scores = scores / (values.std() + epsilon)
                for member, score in zip(members, scores.tolist(), strict=True):
                    compared[member].append((length, score))
    result = [np.zeros(len(own)) for own in states]
    for (row, step), scores_of in compared.items():
        weighted = [((length + 1) ** alpha, score) for length, score in scores_of if score != 0]
        if weighted:
            total = sum(weight for weight, _ in weighted)
            result[row][step] = sum(weight * score for weight, score in weighted) / total
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Hgpo(AdvantageEstimator):
    """HGPO's advantage: GiGPO's step part, over groups nested by shared history.

    Attributes:
        anchor: The state before a turn: the last ``observation``, or the ``passages`` seen so far.
            With ``history`` all lengths give the same groups.
        history: Most states before a turn that have to be shared.
        alpha: How much longer histories count for more.
        gamma: Discount from turn to turn in the step's return.
        normalization: ``none`` subtracts means alone; ``group`` divides by deviations too.
        epsilon: Added to the deviations.
    """

    name: ClassVar[str] = "hgpo"

    anchor: AnchorKind = "observation"
    history: Annotated[int, NOT_NEGATIVE] = 2
    alpha: Annotated[float, NOT_NEGATIVE] = 1.0
    gamma: Annotated[float, FRACTION] = 0.95
    normalization: Normalization = "none"
    epsilon: Annotated[float, POSITIVE] = 1e-6

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The passages, if they are the states."""
        return frozenset({"passage_ids"} if self.anchor == "passages" else ())

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Weighted comparisons of every turn; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        advantages = np.zeros_like(counts)
        advantages[counts > 0] = np.concatenate(
            hierarchical_relative(
                [anchor_states(each, self.anchor) for each in group.trajectories],
                [
                    step_returns(np.array([turn.reward for turn in each.turns]), self.gamma)
                    for each in group.trajectories
                ],
                history=self.history,
                alpha=self.alpha,
                normalization=self.normalization,
                epsilon=self.epsilon,
            )
        )
        return advantages
