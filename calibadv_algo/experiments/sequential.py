"""Levels of repeated looks at a comparison to which seeds are added, so that errors stay rare."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import optimize, special

_GRID: Final = 801
_FAR: Final = 9.0


@lru_cache(maxsize=64)
def look_levels(alpha: float, num_looks: int) -> tuple[float, ...]:
    """Two-sided p-values below which each of several equally spaced looks may stop.

    The chance that a true null hypothesis is rejected at any look is ``alpha``; what look k of K
    may spend in all is ``2 - 2 Φ(z_{1 - alpha/2} / sqrt(k / K))``: next to nothing at first, nearly
    all of it at the end. The levels solve the joint normal distribution of the looks by repeated
    integration.

    **Source:** Lan and DeMets 1983, Discrete sequential boundaries for clinical trials (the
    spending function that resembles O'Brien and Fleming's); Armitage, McPherson and Rowe 1969
    (the recursion).

    **Differs:** questions stay the same when seeds are added, so that later looks resemble
    earlier ones more than in the formula, which makes the procedure err on the careful side.

    Args:
        alpha: Chance of a false alarm over all looks, between 0 and 1.
        num_looks: Looks that are planned, at least 1.

    Returns:
        One level a look; of a single look ``alpha``.

    Raises:
        ValueError: if a value is out of range.
    """
    if not 0.0 < alpha < 1.0 or num_looks < 1:
        raise ValueError(f"alpha must be in (0, 1), num_looks >= 1, got {alpha} and {num_looks}")
    z = float(special.ndtri(1.0 - alpha / 2.0))
    spent = [2.0 * special.ndtr(-z / math.sqrt((k + 1) / num_looks)) for k in range(num_looks)]
    step = math.sqrt(1.0 / num_looks)
    levels = [float(spent[0])]
    bound = -float(special.ndtri(spent[0] / 2.0)) * step
    points = np.linspace(-bound, bound, _GRID)
    density: np.ndarray = np.exp(-0.5 * (points / step) ** 2) / (step * math.sqrt(2.0 * math.pi))
    for k in range(1, num_looks):
        wanted = float(spent[k] - spent[k - 1])

        def crossing(
            limit: float,
            y: np.ndarray = points,
            inside: np.ndarray = density,
            wanted: float = wanted,
        ) -> float:
            tails = special.ndtr((-limit - y) / step) + special.ndtr((y - limit) / step)
            return float(np.trapezoid(inside * tails, y)) - wanted

        bound = float(optimize.brentq(crossing, 0.0, _FAR))
        levels.append(float(2.0 * special.ndtr(-bound / math.sqrt((k + 1) / num_looks))))
        after = np.linspace(-bound, bound, _GRID)
        steps = np.exp(-0.5 * ((after[:, None] - points[None, :]) / step) ** 2)
        steps /= step * math.sqrt(2.0 * math.pi)
        density = np.asarray(np.trapezoid(steps * density[None, :], points, axis=1))
        points = after
    return tuple(levels)


def level_at(alpha: float, look: int, num_looks: int) -> float:
    """Level of one of the looks, numbered from 1.

    Raises:
        ValueError: if there is no such look.
    """
    if not 1 <= look <= num_looks:
        raise ValueError(f"look must be between 1 and {num_looks}, got {look}")
    return look_levels(alpha, num_looks)[look - 1]
