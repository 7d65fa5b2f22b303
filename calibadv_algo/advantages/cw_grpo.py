"""CW-GRPO: the searches of good trajectories share the advantage by what they contributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import Matrix, fitting_counts, last_turns
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group
from calibadv_env.common.checks import NOT_NEGATIVE


def contribution_weights(
    contributions: Matrix, is_search: Bool[np.ndarray, "group turn"], gamma: float | None
) -> Matrix:
    """Shares of a trajectory's searches in its success, times their number.

    ``n * softmax(gamma * c)`` over the ``n`` searches of a trajectory; without a ``gamma``
    ``n * c / sum(c)``, all 0 where no search contributed anything.

    **Source:** CW-GRPO (arXiv 2604.14267) and its code, where a ``gamma`` of 10 and more stands for
    the second form.

    **Differs:** nothing.

    Args:
        contributions: Of every turn, in [0, 1].
        is_search: True at the turns that share.
        gamma: Sharpness, not negative; None for shares in proportion.

    Returns:
        Weight of every search, 0 elsewhere; their mean over a trajectory is 1, or 0.
    """
    given = np.where(is_search, contributions, 0.0)
    if gamma is None:
        total = given.sum(axis=1, keepdims=True)
        shares = given / np.maximum(total, 1e-6)
    else:
        raised = np.where(is_search, np.exp(gamma * (given - given.max(axis=1, keepdims=True))), 0)
        shares = raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300)
    weights: Matrix = shares * is_search.sum(axis=1, keepdims=True)
    return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CwGrpo(GroupRelative):
    """CW-GRPO's advantage: GRPO's, dealt out anew among the searches of good trajectories.

    ``A * w`` at the searches of a trajectory with ``A >= 0``, ``w`` of
    :func:`contribution_weights`; ``A`` at its last turn and everywhere in trajectories with
    ``A < 0``.

    **Source:** CW-GRPO (arXiv 2604.14267); ``compute_cw_grpo_advantage`` of its code.

    **Differs:** a search's contribution is the correctness that the credit gives, 0 without a
    score. The original asks a language model twice about every round (did the result help? was the
    thought right?) and takes the product; use a judge as credit for that.

    Attributes:
        gamma: Sharpness of the shares; None, as in the published run, for shares in proportion.
    """

    name: ClassVar[str] = "cw-grpo"
    needs_correctness: ClassVar[bool] = True

    gamma: Annotated[float | None, NOT_NEGATIVE] = None

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages, weighted at the searches of good trajectories."""
        counts = fitting_counts(group, correctness)
        advantages = self.group_relative(group, counts)
        is_search = (counts > 0) & ~last_turns(counts)
        # A score of NaN or SCORED_BAD is no contribution; comparisons with NaN are false.
        contributions = np.where(correctness > SCORED_BAD, correctness, 0.0)
        weights = contribution_weights(contributions, is_search, self.gamma)
        return np.where(is_search & (advantages > 0), advantages * weights, advantages)
