"""Tree-GRPO: leaves compared across a question's trees and within each tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts, spread
from calibadv_algo.advantages.grpo import Singleton, group_normalized
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import POSITIVE

TreeMode = Literal["sum", "intra", "renormalized"]
"""How the comparisons are joined; see :func:`tree_normalized`."""

TREE_KEY: Final = "tree_id"
"""Key of ``Trajectory.reset_info`` that holds the number of the trajectory's tree."""


def tree_normalized(
    rewards: Float[np.ndarray, " group"],
    trees: Int[np.ndarray, " group"],
    *,
    mode: TreeMode = "sum",
    epsilon: float = 1e-6,
    lone_leaf: Singleton = "zero",
) -> Float[np.ndarray, " group"]:
    """Compares leaves with all leaves of the question and with those of their own tree.

    With ``z`` GRPO's normalisation:

    - ``sum``: z over all leaves + z over the leaves of the tree (``tree``, the default);
    - ``intra``: z over the leaves of the tree (``tree_inner``);
    - ``renormalized``: z over all leaves, then z of that over each tree (``tree_2norm``).

    **Source:** Tree-GRPO (arXiv 2509.21240); its ``compute_advantage``.

    **Differs:** a tree of a single leaf compares with nothing and gets 0 from its tree. The
    original hands its score on as it is (``lone_leaf="raw"``), which favours lone leaves. The
    variant ``tree_per_token``, which pools token rewards, is left out.

    Args:
        rewards: Returns of the trajectories of one question.
        trees: Number of each trajectory's tree.
        mode: How the comparisons are joined.
        epsilon: Added to the standard deviations.
        lone_leaf: What the only leaf of a tree gets from its tree: ``zero``, or its ``raw``
            score.

    Returns:
        One advantage a trajectory; zeros if all rewards are equal and no tree is of one leaf. A
        question with one leaf in all gets its reward across trees, as in GRPO.
    """
    across = group_normalized(rewards, epsilon=epsilon)
    scores = across if mode == "renormalized" else rewards
    within = np.zeros_like(rewards)
    for tree in np.unique(trees):
        here = trees == tree
        within[here] = group_normalized(scores[here], epsilon=epsilon, singleton=lone_leaf)
    return across + within if mode == "sum" else within


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeGrpo(AdvantageEstimator):
    """Tree-GRPO's advantage, one number a leaf; shared prefixes get each leaf's own.

    The trajectories must come from a rollout that grows trees and numbers them.

    **Bias:** leaves that share a prefix cancel out on it, so late turns learn more: with a chain
    and one branch, 0.47, 0.94 and 1.41 times the true gradient for the first, second and third
    turn of a world of two searches and an answer.

    Attributes:
        mode: How the comparisons are joined; see :func:`tree_normalized`.
        epsilon: Added to the standard deviations.
        lone_leaf: What the only leaf of a tree gets from its tree.
    """

    mode: TreeMode = "sum"
    epsilon: Annotated[float, POSITIVE] = 1e-6
    lone_leaf: Singleton = "zero"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Compared rewards of the leaves for every turn; the correctness is not used.

        Raises:
            MissingInfoKeyError: if a trajectory does not name its tree.
        """
        counts = fitting_counts(group, correctness)
        for trajectory in group.trajectories:
            if TREE_KEY not in trajectory.reset_info:
                raise MissingInfoKeyError(
                    f"TreeGrpo needs {TREE_KEY!r} in the reset info: episodes must be collected "
                    "as trees"
                )
        trees = np.array([int(each.reset_info[TREE_KEY]) for each in group.trajectories])
        advantages = tree_normalized(
            group_rewards(group),
            trees,
            mode=self.mode,
            epsilon=self.epsilon,
            lone_leaf=self.lone_leaf,
        )
        return spread(advantages, counts)
