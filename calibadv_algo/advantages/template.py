"""CalibAdv's ablation on template tokens: the pieces of the tags are balanced by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import AnyVector, Matrix, Tokens, fitting_counts
from calibadv_algo.advantages.calibadv import soft_penalty
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE

_RATIO_EPSILON = 1e-8


def balance_template_tokens(advantages: Tokens, is_template: Bool[np.ndarray, " token"]) -> Tokens:
    """Brings the positive mass of the template tokens to their negative one.

    Positive advantages of template tokens are multiplied by ``1 / (P / N + 1e-8)``, ``P`` and
    ``N`` being the template tokens' masses. Without a negative one they become 0; without a
    positive one nothing changes.

    **Source:** CalibAdv's code, ``mask_template_token``.

    **Differs:** nothing.

    Args:
        advantages: One a token, of the whole batch.
        is_template: Which tokens are pieces of tags.

    Returns:
        The advantages; tokens that are no template unchanged.
    """
    positive = is_template & (advantages > 0)
    total = float(advantages[positive].sum())
    negative = -float(advantages[is_template & (advantages < 0)].sum())
    if total == 0:
        return advantages
    factor = 1 / (total / negative + _RATIO_EPSILON) if negative > 0 else 0.0
    return np.where(positive, advantages * factor, advantages)


def rebalance_tokens(
    advantages: Tokens, is_answer: Bool[np.ndarray, " token"], target_ratio: float = 1.0
) -> Tokens:
    """Balances the last turns of a group where tokens of one turn differ.

    The rule of :func:`~calibadv_algo.advantages.calibadv.rebalance_answers`, token by token.

    **Source:** CalibAdv (arXiv 2604.18235), rebalancing, after its template switch.

    **Differs:** nothing.

    Args:
        advantages: One a token, of one group.
        is_answer: Which tokens belong to a last turn.
        target_ratio: Negative over positive mass to reach, positive.

    Returns:
        The advantages; zeros for last turns whose masses are of one sign.
    """
    positive = float(advantages.sum(where=is_answer & (advantages > 0)))
    negative = -float(advantages.sum(where=is_answer & (advantages < 0)))
    if positive == 0 or negative == 0:
        return np.where(is_answer, 0.0, advantages)
    factor = negative / (positive * target_ratio)
    return np.where(is_answer & (advantages > 0), advantages * factor, advantages)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateBalanced(GroupRelative):
    """CalibAdv with the pieces of the tags balanced over the batch, then the answers.

    Attributes:
        token_ids: Ids of the pieces of the tags, which depend on the tokenizer.
        from_update: First update (from 0) in which template tokens are balanced.
        target_ratio: Negative over positive mass of the last turns to reach.
    """

    needs_correctness: ClassVar[bool] = True

    token_ids: tuple[int, ...]
    from_update: Annotated[int, NOT_NEGATIVE] = 10
    target_ratio: Annotated[float, POSITIVE] = 1.0

    def __post_init__(self) -> None:
        """Checks ranges, and that there are ids."""
        GroupRelative.__post_init__(self)
        if not self.token_ids:
            raise ValueError("token_ids must not be empty")

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages after the soft penalty; the rest is token by token."""
        counts = fitting_counts(group, correctness)
        return soft_penalty(self.group_relative(group, counts), correctness)

    def reweight_tokens(
        self,
        advantages: list[AnyVector],
        trajectories: Sequence[Trajectory],
        update: int,
    ) -> list[AnyVector]:
        """Balances the template tokens of the batch, then the last turns of each group."""
        if not trajectories:
            return []
        flat = np.concatenate(advantages)
        if update >= self.from_update:
            ids = chain.from_iterable(
                turn.action_ids for each in trajectories for turn in each.turns
            )
            flat = balance_template_tokens(flat, np.isin(list(ids), self.token_ids))
        is_answer = np.concatenate([_answer_tokens(each) for each in trajectories])
        groups = np.repeat(
            [each.group_id for each in trajectories],
            [each.num_action_tokens for each in trajectories],
        )
        for group in np.unique(groups):
            here = groups == group
            flat[here] = rebalance_tokens(flat[here], is_answer[here], self.target_ratio)
        bounds = np.cumsum([each.num_action_tokens for each in trajectories])[:-1]
        return list(np.split(flat, bounds))


def _answer_tokens(trajectory: Trajectory) -> Bool[np.ndarray, " token"]:
    """Marks the tokens of the last turn."""
    mask = np.zeros(trajectory.num_action_tokens, dtype=np.bool_)
    mask[-len(trajectory.turns[-1].action_ids) :] = True
    return mask
