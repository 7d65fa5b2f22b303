"""PPO's advantage: generalised advantage estimation over action tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from calibadv_algo.advantages.base import AnyVector, Tokens, ValueAdvantage
from calibadv_algo.advantages.whitening import whiten_tokens
from calibadv_algo.types import Trajectory
from calibadv_env.common.checks import FRACTION

Whitening = Literal["batch", "none"]
"""Scope of the whitening: the batch's action tokens, or none."""


def gae(
    rewards: Tokens, values: Tokens, *, gamma: float = 1.0, lam: float = 1.0
) -> tuple[Tokens, Tokens]:
    """Estimates advantages from rewards and a critic's values.

    ``delta_t = r_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lam A_{t+1}``, both 0
    after the last token; the critic's target is ``A_t + V_t``. The next token is the next
    *action* token, whatever was observed in between.

    **Source:** GAE (arXiv 1506.02438, eq. 16) over action tokens, as in verl's
    ``compute_gae_advantage_return``.

    **Differs:** nothing where the policy acts. Search-R1 and StepSearch run the recursion over
    observed tokens too; at ``gamma = lam = 1`` that gives the same advantages, as
    ``A_t = sum of the rewards from t on - V_t``.

    Args:
        rewards: Reward of every action token.
        values: The critic's value before every action token.
        gamma: Discount from token to token, 0 to 1.
        lam: Weight of longer looks ahead, 0 to 1.

    Returns:
        Advantages, not whitened, and the critic's targets; empty for no token.

    Raises:
        ValueError: if the lengths differ.
    """
    if rewards.shape != values.shape:
        raise ValueError(f"values must have {len(rewards)} entries, got {len(values)}")
    advantages = np.zeros(len(rewards))
    following, running = 0.0, 0.0
    for token in reversed(range(len(rewards))):
        value = float(values[token])
        running = float(rewards[token]) + gamma * following - value + gamma * lam * running
        advantages[token] = running
        following = value
    return advantages, advantages + values


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoGae(ValueAdvantage):
    """PPO with a critic, as in Search-R1; with turn rewards it is MT-PPO and StepSearch's PPO.

    Rewards stand on the last token of the turn that earned them. With ``gamma = lam = 1`` a
    turn's reward credits all tokens before it.

    Attributes:
        gamma: Discount from token to token.
        lam: Weight of longer looks ahead.
        whitening: Over the ``batch``'s action tokens, or ``none``.
    """

    gamma: Annotated[float, FRACTION] = 1.0
    lam: Annotated[float, FRACTION] = 1.0
    whitening: Whitening = "batch"

    def token_advantages(
        self, trajectory: Trajectory, rewards: Tokens, values: Tokens
    ) -> tuple[Tokens, Tokens]:
        """Applies :func:`gae` to a trajectory's action tokens."""
        return gae(rewards, values, gamma=self.gamma, lam=self.lam)

    def finish_tokens(self, advantages: list[AnyVector]) -> list[AnyVector]:
        """Whitens over the batch if asked to."""
        return whiten_tokens(advantages) if self.whitening == "batch" else advantages
