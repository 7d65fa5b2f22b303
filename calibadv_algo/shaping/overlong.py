"""DAPO's soft punishment of over-long responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from calibadv_algo.shaping.base import RewardShaping, turn_rewards, with_rewards
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE

Counted = Literal["actions", "response", "turn"]
"""Tokens that are counted: all that the policy wrote, these and the observations between them,
or those of the longest turn."""


def overlong_penalty(length: int, *, max_tokens: int, buffer: int, factor: float = 1.0) -> float:
    """Cost of a response by its length, as a reward.

    ``min(0, -(length - (max_tokens - buffer)) / buffer * factor)``: nothing up to the buffer,
    then linearly more, ``-factor`` at ``max_tokens``.

    **Source:** DAPO (arXiv 2503.14476), equation 13; verl's reward manager.

    **Differs:** nothing. As in verl there is no lower bound beyond ``max_tokens``, where the
    paper's stays at -1; a sampler that keeps to the limit never gets there.

    Args:
        length: Tokens, not negative.
        max_tokens: Longest response.
        buffer: Length before it in which the cost rises, positive.
        factor: Cost at ``max_tokens``.

    Returns:
        0 or less.
    """
    return min(0.0, -(length - (max_tokens - buffer)) / buffer * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongPenalty(RewardShaping):
    """DAPO: over-long responses cost reward on the last turn; see :func:`overlong_penalty`.

    **Differs:** with ``counted="turn"`` the limit is one on turns and the longest one counts, as
    in CalibAdv's code; DAPO has responses of one turn.

    Attributes:
        max_tokens: Longest response, or turn.
        buffer: Length before it in which the cost rises.
        factor: Cost at ``max_tokens``.
        counted: Tokens that are counted.
    """

    max_tokens: int = 20480
    buffer: int = 4096
    factor: Annotated[float, NOT_NEGATIVE] = 1.0
    counted: Counted = "actions"

    def __post_init__(self) -> None:
        """Checks ranges."""
        RewardShaping.__post_init__(self)
        if not 0 < self.buffer <= self.max_tokens:
            raise ValueError(f"buffer must be in [1, {self.max_tokens}], got {self.buffer}")

    def __call__(self, group: Group) -> Group:
        """Group with the cost taken off."""
        rewards = turn_rewards(group)
        for row, trajectory in enumerate(group.trajectories):
            rewards[row, len(trajectory.turns) - 1] += overlong_penalty(
                self._length(trajectory),
                max_tokens=self.max_tokens,
                buffer=self.buffer,
                factor=self.factor,
            )
        return with_rewards(group, rewards)

    def _length(self, trajectory: Trajectory) -> int:
        if self.counted == "actions":
            return trajectory.num_action_tokens
        if self.counted == "response":
            return trajectory.num_tokens - len(trajectory.prompt_ids)
        return max(len(turn.action_ids) for turn in trajectory.turns)
