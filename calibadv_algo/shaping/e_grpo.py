"""E-GRPO: a wrong trajectory earns by the entities that its thoughts came past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Bool, Float

from calibadv_algo.credit.facts import fact, final_fact, task_fact
from calibadv_algo.shaping.base import RewardShaping
from calibadv_algo.shaping.facts import outcome_only
from calibadv_algo.shaping.filters import Overlong, is_overlong
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import FRACTION
from calibadv_env.protocol.answers import covers_words

_WHO: Final = "EntityReward"

Metric = Literal["em", "f1", "cover_em"]


def entity_match_rate(thoughts: Sequence[str], entities: Sequence[str]) -> float:
    """The share of entities that stand in some thought, letter by letter.

    **Source:** E-GRPO (arXiv 2510.24694), equation 3. The treatment of upper and lower case is
    not stated; here it counts.

    Args:
        thoughts: What the policy thought, turn by turn; not what it retrieved.
        entities: The task's.

    Returns:
        0 to 1; 0 without entities.
    """
    if not entities:
        return 0.0
    found = sum(any(entity in thought for thought in thoughts) for entity in entities)
    return found / len(entities)


def entity_rewards(
    is_correct: Bool[np.ndarray, " group"],
    is_error: Bool[np.ndarray, " group"],
    match_rates: Float[np.ndarray, " group"],
    alpha: float = 0.3,
) -> Float[np.ndarray, " group"]:
    """1 if correct; else ``alpha`` times the match rate relative to the group's best; 0 on error.

    **Source:** E-GRPO (arXiv 2510.24694), equations 4 to 6, with alpha 0.3.

    **Differs:** nothing. The best match rate is taken over all trajectories, erroneous ones
    included, as in the paper.

    Args:
        is_correct: Whether each answer is right.
        is_error: Whether each trajectory broke the format or ran over its length.
        match_rates: Of each trajectory, 0 to 1.
        alpha: Reward of a wrong trajectory with the best match rate, 0 to 1.

    Returns:
        One reward a trajectory; a group without any match has 0 and 1 alone.
    """
    best = float(match_rates.max())
    relative = match_rates / best if best > 0 else np.zeros_like(match_rates)
    return np.where(is_error, 0.0, np.where(is_correct, 1.0, alpha * relative))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityReward(RewardShaping):
    """E-GRPO: a wrong answer earns by the entities that the thoughts came past.

    See :func:`entity_rewards`.

    **Differs:** the paper has an LLM judge the answers; here a metric does.

    Attributes:
        alpha: Reward of a wrong trajectory with the group's best match rate.
        metric: Metric that tells right from wrong, in the normal form in which the episode was
            graded; ``cover_em`` as it is paid elsewhere, whole words in an answer of bounded
            length.
        threshold: Least value of it that is right.
        overlong: Limits on the length that count.
    """

    alpha: Annotated[float, FRACTION] = 0.3
    metric: Metric = "em"
    threshold: Annotated[float, Interval(gt=0, le=1)] = 1.0
    overlong: Overlong = "either"

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Thoughts, the metric, and the verdict on the format."""
        more = {"answer"} if self.metric == "cover_em" else set()
        return frozenset({"think", "is_format_valid", self.metric} | more)

    def __call__(self, group: Group) -> Group:
        """Group with this reward on each last turn."""
        members = group.trajectories
        scores = [self._score(each) for each in members]
        rewards = entity_rewards(
            np.array([score >= self.threshold for score in scores], dtype=np.bool_),
            np.array([self._is_error(each) for each in members], dtype=np.bool_),
            np.array([_match_rate(each) for each in members], dtype=np.float64),
            self.alpha,
        )
        return outcome_only(group, rewards)

    def _score(self, trajectory: Trajectory) -> float:
        """The metric; cover_em as it is paid: whole words, in an answer of bounded length."""
        score = float(final_fact(trajectory, self.metric, _WHO))
        if self.metric != "cover_em" or not score:
            return score
        answer = final_fact(trajectory, "answer", _WHO)
        golden = task_fact(trajectory, "golden_answers", _WHO)
        normalizer = trajectory.reset_info.get("normalizer", "squad")
        return float(answer is not None and covers_words(answer, golden, normalizer))

    def _is_error(self, trajectory: Trajectory) -> bool:
        is_valid = final_fact(trajectory, "is_format_valid", _WHO, cut_off=False)
        return not is_valid or is_overlong(trajectory, self.overlong)


def _match_rate(trajectory: Trajectory) -> float:
    thoughts = [fact(turn, "think", _WHO) for turn in trajectory.turns]
    return entity_match_rate(thoughts, task_fact(trajectory, "gold_entities", _WHO))
