"""Whitening over the action tokens of a whole batch.

A turn's advantage counts once for each of its tokens, as it would after the scatter to tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import Matrix, Tokens

_ROUNDING = 1e-12


def whiten(
    values: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, " item"] | None = None,
    *,
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> Float[np.ndarray, " item"]:
    """Brings values to mean 0 and variance 1.

    ``(x - mean) / sqrt(variance + epsilon)``; an item of weight ``w`` counts as ``w`` items.

    **Source:** verl's ``masked_whiten``; ``ddof=0`` and ``epsilon=0`` as in R1-Searcher.

    **Differs:** one token or none gives zeros, where verl raises; deviations below 1e-12 of the
    largest value are rounding and count as 0. verl's means divide by the number of tokens plus
    1e-8, which shows in no digit that single precision has.

    Args:
        values: What to whiten.
        weights: How often each value counts, not negative; None means once. A value of weight
            0 counts in no statistic and is whitened like the others.
        ddof: What is subtracted from the total weight in the variance: 1 for the sample's.
        epsilon: Added to the variance, not negative.

    Returns:
        The whitened values; zeros if all that count are equal, or if the total weight is not
        above ``ddof``.
    """
    counts = np.ones_like(values) if weights is None else weights
    total = float(counts.sum())
    if total <= ddof or total == 0:
        return np.zeros_like(values)
    mean = math.fsum(values * counts) / total
    deviations = values - mean
    rounding = _ROUNDING * float(np.abs(values).max(initial=0.0, where=counts > 0))
    deviations = np.where(np.abs(deviations) <= rounding, 0.0, deviations)
    variance = math.fsum(deviations * deviations * counts) / (total - ddof)
    if variance == 0:
        return np.zeros_like(values)
    return deviations / math.sqrt(variance + epsilon)


def whiten_batch(
    advantages: Sequence[Matrix],
    counts: Sequence[Matrix],
    *,
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> list[Matrix]:
    """Whitens the advantages of all groups together, each turn weighted by its tokens.

    **Source:** REINFORCE++ (arXiv 2501.03262); verl's ``masked_whiten`` over model tokens.

    **Differs:** see :func:`whiten`.

    Args:
        advantages: One matrix a group.
        counts: Sampled tokens of every turn, 0 where there is none; same shapes.
        ddof: See :func:`whiten`.
        epsilon: See :func:`whiten`.

    Returns:
        Matrices of the same shapes, 0 where there is no turn.
    """
    masks = [count > 0 for count in counts]
    values = [matrix[mask] for matrix, mask in zip(advantages, masks, strict=True)]
    weights = [count[mask] for count, mask in zip(counts, masks, strict=True)]
    if not values:
        return []
    white = whiten(np.concatenate(values), np.concatenate(weights), ddof=ddof, epsilon=epsilon)
    result = [np.zeros(mask.shape) for mask in masks]
    bounds = np.cumsum([mask.sum() for mask in masks])[:-1]
    for matrix, mask, part in zip(result, masks, np.split(white, bounds), strict=True):
        matrix[mask] = part
    return result


def whiten_tokens(
    advantages: Sequence[Tokens], *, ddof: int = 1, epsilon: float = 1e-8
) -> list[Tokens]:
    """Whitens advantages that differ from token to token, over the whole batch.

    **Source:** PPO as in verl; Search-R1 whitens over the retrieved tokens too.

    **Differs:** see :func:`whiten`. Only sampled tokens exist here.

    Args:
        advantages: One vector a trajectory.
        ddof: See :func:`whiten`.
        epsilon: See :func:`whiten`.

    Returns:
        Vectors of the same lengths.
    """
    if not advantages:
        return []
    white = whiten(np.concatenate(advantages), ddof=ddof, epsilon=epsilon)
    bounds = np.cumsum([len(vector) for vector in advantages])[:-1]
    return list(np.split(white, bounds))
