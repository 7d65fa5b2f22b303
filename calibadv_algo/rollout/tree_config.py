"""Settings of episodes that grow on trees; no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked

TREE_KEY: Final = "tree_id"
"""Key of ``Trajectory.reset_info``: which tree of its group an episode is a path of, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSearch(Checked):
    """Episodes of a group share prefixes: trees that are expanded at random turns.

    A tree begins with one episode. In each round some of its inner nodes, the root included, are
    drawn, and from each another episode is played to its end. Some of the leaves are kept.

    **Source:** Tree-GRPO (arXiv 2509.21240) and its training script: 2 trees, 2 expansions, 1
    round, 3 leaves.
    """

    num_trees: Annotated[int, POSITIVE] = 2
    """Trees of a question."""
    num_expansions: Annotated[int, NOT_NEGATIVE] = 2
    """Nodes of a tree that are expanded in a round."""
    num_rounds: Annotated[int, NOT_NEGATIVE] = 1
    """Rounds of expansion."""
    num_leaves: Annotated[int, POSITIVE] = 3
    """Leaves of a tree that are kept, at random; the others are thrown away."""

    def __post_init__(self) -> None:
        """Checks ranges, and that a tree grows as many leaves as are kept."""
        Checked.__post_init__(self)
        most = 1 + self.num_rounds * self.num_expansions
        if self.num_leaves > most:
            raise ValueError(
                f"num_leaves must be at most {most}, the leaves that a tree grows, "
                f"got {self.num_leaves}"
            )

    @property
    def group_size(self) -> int:
        """Episodes of a question."""
        return self.num_trees * self.num_leaves
