"""PPO's advantage: generalised advantage estimation over action tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.whitening import whiten_tokens
from calibadv_algo.types import Trajectory

Whitening = Literal["batch", "none"]
"""Whether advantages are whitened over the batch's action tokens."""

Tokens = Float[np.ndarray, " token"]


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
class PpoGae:
    """PPO with a critic, as in Search-R1; with turn rewards it is MT-PPO and StepSearch's PPO.

    Rewards stand on the last token of the turn that earned them. With ``gamma = lam = 1`` a
    turn's reward credits all tokens before it.

    Attributes:
        gamma: Discount from token to token.
        lam: Weight of longer looks ahead.
        whitening: Over the ``batch``'s action tokens, or ``none``.
    """

    gamma: float = 1.0
    lam: float = 1.0
    whitening: Whitening = "batch"

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        check_gae(self.gamma, self.lam, self.whitening)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """No key is needed: rewards and values are enough."""
        return frozenset()

    def token_advantages(
        self, trajectory: Trajectory, rewards: Tokens, values: Tokens
    ) -> tuple[Tokens, Tokens]:
        """Returns advantages and targets of a trajectory's action tokens."""
        return gae(rewards, values, gamma=self.gamma, lam=self.lam)

    def finish_tokens(
        self, advantages: Sequence[Float[np.ndarray, " _"]]
    ) -> list[Float[np.ndarray, " _"]]:
        """Whitens over the batch."""
        return finished(advantages, self.whitening)


def finished(
    advantages: Sequence[Float[np.ndarray, " _"]], whitening: Whitening
) -> list[Float[np.ndarray, " _"]]:
    """Whitens over the batch if asked to."""
    return whiten_tokens(advantages) if whitening == "batch" else list(advantages)


def check_gae(gamma: float, lam: float, whitening: Whitening) -> None:
    """Raises ValueError for settings out of range."""
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if whitening not in ("batch", "none"):
        raise ValueError(f"whitening must be batch or none, got {whitening!r}")
