"""Kinds of turns: what they were worth, and how well estimators know it within each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.truth.intervals import Weights, mean_score, score
from calibadv_algo.experiments.truth.metrics import CORRELATION, Judged, Mask
from calibadv_algo.experiments.truth.turns import UNKNOWN, Column, Turns

MIN_TURNS: Final = 20
"""Fewest turns of a kind over which a correlation is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What some turns were truly worth.

    Attributes:
        what: Which turns.
        count: Number of them.
        advantage: Mean true advantage.
        clear_good: Turns more than two standard errors above 0.
        clear_bad: Turns more than two standard errors below 0.
    """

    what: str
    count: int
    advantage: Interval
    clear_good: int
    clear_bad: int


def kinds_of_turns(turns: Turns) -> dict[str, Mask]:
    """Turns by kind, label, search number and hop; kinds without any turn are left out."""
    search = turns.is_search
    rows: list[tuple[str, Mask]] = [("all searches", search), ("last turns", turns.is_last)]
    for label, values in (("gold", turns.gold), ("silver", turns.silver)):
        for verdict, name in ((1, "correct"), (0, "wrong"), (UNKNOWN, "unlabelled")):
            rows.append((f"searches {name} by {label}", search & (values == verdict)))
    for number in sorted(set(turns.number[search].tolist())):
        here = search & (turns.number == number)
        rows.append((f"search {number}", here))
        for verdict, name in ((1, "correct"), (0, "wrong")):
            rows.append((f"search {number}, {name} by gold", here & (turns.gold == verdict)))
    for hops in sorted(set(turns.hops.tolist())):
        rows.append((f"searches of questions with {hops} hops", search & (turns.hops == hops)))
    return {what: mask for what, mask in rows if mask.any()}


def punished_kinds(turns: Turns, grpo: Column) -> dict[str, Mask]:
    """Searches that GRPO punishes, by label.

    No correlations are taken over them: turns that an estimator itself chose would favour others.

    Args:
        turns: The turns.
        grpo: Their advantages under GRPO.
    """
    punished = turns.is_search & (grpo < 0)
    rows = [("searches that GRPO punishes", punished)]
    for label, values in (("gold", turns.gold), ("silver", turns.silver)):
        for verdict, name in ((1, "correct"), (0, "wrong")):
            rows.append((f"… of them {name} by {label}", punished & (values == verdict)))
    return {what: mask for what, mask in rows if mask.any()}


def worth_of(what: str, turns: Turns, mask: Mask, weights: Weights) -> Worth:
    """Mean true advantage of some turns, and how many are clearly good or bad."""
    z = turns.truth / np.maximum(turns.error, 1e-12)
    return Worth(
        what=what,
        count=int(mask.sum()),
        advantage=mean_score(turns.truth, turns, mask, weights).interval,
        clear_good=int((mask & (z > 2)).sum()),
        clear_bad=int((mask & (z < -2)).sum()),
    )


def correlations(
    kinds: Mapping[str, Mask],
    advantages: Mapping[str, Column],
    turns: Turns,
    judged: Judged,
    weights: Weights,
) -> dict[str, dict[str, Interval]]:
    """Correlation of every estimate with the truth over each kind of turns that has enough."""
    return {
        what: {
            name: score(CORRELATION, turns, judged, estimate, mask, weights).interval
            for name, estimate in advantages.items()
        }
        for what, mask in kinds.items()
        if mask.sum() >= MIN_TURNS
    }
