"""Reward for searches whose passages are relevant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from calibadv_algo.credit.relevance import RelevanceCredit
from calibadv_algo.shaping.base import RewardShaping
from calibadv_algo.shaping.facts import outcome_only
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceReward(RewardShaping):
    """The outcome mixed with the mean relevance of a trajectory's searches.

    ``(1 - coef) R + coef * mean score``; without a search the mean is 0.

    **Source:** CalibAdv's code, ``query_doc_relevance``, which takes 0.7 and 0.3.

    **Differs:** as :class:`RelevanceCredit`.

    Attributes:
        relevance: Scores the searches.
        coef: Weight of relevance, 0 to 1.
    """

    relevance: RelevanceCredit = field(default_factory=RelevanceCredit)
    coef: Annotated[float, FRACTION] = 0.3

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return self.relevance.required_info_keys

    def __call__(self, group: Group) -> Group:
        """Group with one reward a trajectory, on its last turn."""
        scores = self.relevance(group)
        is_scored = ~np.isnan(scores)
        sums = np.where(is_scored, scores, 0.0).sum(axis=1)
        means = sums / np.maximum(is_scored.sum(axis=1), 1)
        return outcome_only(group, (1 - self.coef) * group_rewards(group) + self.coef * means)
