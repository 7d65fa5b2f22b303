"""The critic's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor


def value_loss(
    values: Float[Tensor, " token"],
    old_values: Float[Tensor, " token"],
    returns: Float[Tensor, " token"],
    *,
    clip: float | None = 0.5,
) -> Float[Tensor, " token"]:
    """PPO's clipped squared error of the critic.

    ``max((v - ret)**2, (clip(v, v_old - clip, v_old + clip) - ret)**2) / 2``.

    **Source:** PPO as in verl's ``compute_value_loss`` (and OpenAI's baselines).

    **Differs:** nothing. Averaged over action tokens alone; Search-R1's critic learns on
    observed tokens too.

    Args:
        values: The critic's values, with gradient.
        old_values: Its values before the first update of the batch.
        returns: Its targets.
        clip: How far values may move in one update before the loss is the larger of the two;
            None for the plain squared error.

    Returns:
        Loss of each token, not negative.
    """
    plain = (values - returns).square()
    if clip is None:
        return 0.5 * plain
    clipped = values.clamp(old_values - clip, old_values + clip)
    return 0.5 * plain.maximum((clipped - returns).square())
