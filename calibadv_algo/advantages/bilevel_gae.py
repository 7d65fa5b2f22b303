"""Bi-level GAE: first from turn to turn, then from token to token within each turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from calibadv_algo.advantages.base import Tokens
from calibadv_algo.advantages.gae import PpoGae, gae
from calibadv_algo.types import Trajectory
from calibadv_env.common.checks import FRACTION


def bilevel_gae(
    rewards: Tokens,
    values: Tokens,
    turn_lengths: Sequence[int],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    turn_gamma: float = 0.95,
) -> tuple[Tokens, Tokens]:
    """Estimates advantages on two levels.

    With ``e_1 .. e_n`` the last tokens of the turns: GAE with discount ``turn_gamma`` over
    the rewards and values at these tokens alone gives each turn a target ``R_k``. Then, within
    each turn by itself, GAE with discount ``gamma`` whose last reward is ``R_k``.

    **Source:** bi-level GAE of VAGEN, in RAGEN (arXiv 2504.20073), its
    ``compute_bi_level_gae_advantage_return``.

    **Differs:** turns end where they end. The original takes tokens of nonzero reward for the
    ends of turns, so that turns without a reward run into the next and an episode that ends
    without a reward is an error.

    Args:
        rewards: Reward of every action token; a turn's own on its last token.
        values: The critic's value before every action token.
        turn_lengths: Number of action tokens of each turn, positive.
        gamma: Discount from token to token, 0 to 1.
        lam: Weight of longer looks ahead on both levels, 0 to 1.
        turn_gamma: Discount from turn to turn, 0 to 1.

    Returns:
        Advantages, not whitened, and the critic's targets; at each turn's last token the
        target is ``R_k``.

    Raises:
        ValueError: if the lengths do not fit.
    """
    if any(length < 1 for length in turn_lengths) or sum(turn_lengths) != len(rewards):
        raise ValueError(
            f"turn_lengths must be positive and add up to {len(rewards)}, got {list(turn_lengths)}"
        )
    ends = np.cumsum(np.asarray(turn_lengths, dtype=np.int64)) - 1
    _, targets = gae(rewards[ends], values[ends], gamma=turn_gamma, lam=lam)
    lifted = np.array(rewards, dtype=np.float64)
    lifted[ends] = targets
    parts = [
        gae(turn_rewards, turn_values, gamma=gamma, lam=lam)[0]
        for turn_rewards, turn_values in zip(
            np.split(lifted, ends[:-1] + 1), np.split(values, ends[:-1] + 1), strict=True
        )
    ]
    advantages = np.concatenate(parts) if len(rewards) else np.zeros(0)
    return advantages, advantages + values


@dataclass(frozen=True, slots=True, kw_only=True)
class BiLevelGae(PpoGae):
    """PPO with bi-level GAE, as in RAGEN and VAGEN.

    Attributes:
        gamma: Discount from token to token.
        lam: Weight of longer looks ahead, on both levels.
        turn_gamma: Discount from turn to turn.
        whitening: Over the ``batch``'s action tokens, or ``none``.
    """

    turn_gamma: Annotated[float, FRACTION] = 0.95

    def token_advantages(
        self, trajectory: Trajectory, rewards: Tokens, values: Tokens
    ) -> tuple[Tokens, Tokens]:
        """Applies :func:`bilevel_gae` to a trajectory's action tokens."""
        return bilevel_gae(
            rewards,
            values,
            [len(turn.action_ids) for turn in trajectory.turns],
            gamma=self.gamma,
            lam=self.lam,
            turn_gamma=self.turn_gamma,
        )
