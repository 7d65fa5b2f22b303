"""Verdicts on differences: higher, lower, equivalent within a margin, or not resolvable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from calibadv_algo.experiments.sequential import level_at
from calibadv_algo.experiments.variance import (
    Components,
    detectable_difference,
    equivalence_pvalue,
    t_pvalue,
)

Word = Literal[
    "higher",
    "lower",
    "equivalent",
    "higher, within the margin",
    "lower, within the margin",
    "not resolvable",
]
"""What is said about a difference; no other word is used."""

WORDS: Final[Mapping[Word, str]] = {
    "higher": "the difference is above 0",
    "lower": "the difference is below 0",
    "equivalent": "the difference is smaller than the margin, either way",
    "higher, within the margin": "the difference is above 0, and smaller than the margin",
    "lower, within the margin": "the difference is below 0, and smaller than the margin",
    "not resolvable": "neither can be said with this number of seeds and questions",
}
"""Each word and what it claims."""

Expected = Literal["higher", "lower", "same"]
"""What a control must show; "same": neither higher nor lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What can be said about one difference.

    Attributes:
        name: Which difference.
        estimate: The difference that was seen.
        word: The verdict.
        reason: One sentence: why.
        p_different: p-value against "no difference", adjusted for the number of differences.
        p_equivalent: p-value against "at least the margin apart", adjusted likewise.
        detectable: Smallest true difference that the design shows with the planned power; NaN
            with one seed.
        level: Level that the p-values are held against, two-sided.
        found: Components of the variance of the difference.
    """

    name: str
    estimate: float
    word: Word
    reason: str
    p_different: float
    p_equivalent: float
    detectable: float
    level: float
    found: Components

    @property
    def is_decided(self) -> bool:
        """True unless the verdict is "not resolvable"."""
        return self.word != "not resolvable"


def holm(pvalues: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false alarm of a family.

    The i-th smallest of m is multiplied by ``m - i + 1``; none is below a smaller one's, nor
    above 1.

    **Source:** Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    adjusted, highest = [0.0] * len(pvalues), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[place]))
        adjusted[place] = highest
    return adjusted


def judge(
    differences: Mapping[str, tuple[float, Components]],
    *,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
    look: int = 1,
    num_looks: int = 1,
) -> dict[str, Verdict]:
    """Judges a family of differences.

    Each is tested against 0 (two-sided t-test) and against the margin (two one-sided tests), with
    Holm's adjustment over the family for each of the two questions. With several looks the
    levels are those of :func:`~calibadv_algo.experiments.sequential.look_levels`.

    **Source:** Schuirmann 1987 (equivalence); Holm 1979; Ye, Li, Liu and Yao 2013, A group
    sequential Holm procedure with multiple primary endpoints.

    **Differs:** adjusted p-values stand for Holm's steps at a look's level: what one look spends
    on a difference is not spent on another one at a later look, which errs on the careful side.

    Args:
        differences: Estimate and components of the variance, by name.
        margin: Largest difference that does not matter, positive.
        alpha: Chance of any false alarm.
        power: Of the detectable difference.
        look: Which look this is, from 1.
        num_looks: Looks that are planned.

    Returns:
        A verdict for each.
    """
    names = list(differences)
    level = level_at(alpha, look, num_looks)
    level_of_margin = level_at(2.0 * alpha, look, num_looks) / 2.0
    different = holm([t_pvalue(*differences[name]) for name in names])
    equal = holm([equivalence_pvalue(*differences[name], margin) for name in names])
    verdicts = {}
    for name, p_different, p_equal in zip(names, different, equal, strict=True):
        estimate, found = differences[name]
        detectable = detectable_difference(found, alpha=level / len(names), power=power)
        word = _word(estimate, p_different <= level, p_equal <= level_of_margin)
        verdicts[name] = Verdict(
            name=name,
            estimate=estimate,
            word=word,
            reason=_reason(word, found, detectable, margin),
            p_different=p_different,
            p_equivalent=p_equal,
            detectable=detectable,
            level=level,
            found=found,
        )
    return verdicts


def _word(estimate: float, is_different: bool, is_within: bool) -> Word:
    if not is_different:
        return "equivalent" if is_within else "not resolvable"
    if estimate > 0:
        return "higher, within the margin" if is_within else "higher"
    return "lower, within the margin" if is_within else "lower"


def _reason(word: Word, found: Components, detectable: float, margin: float) -> str:
    """One sentence that says what a verdict rests on, or what is missing for one."""
    if word != "not resolvable":
        return f"{WORDS[word]} (margin {margin:g})"
    if found.seed_df == 0.0:
        return "one seed says nothing about another seed"
    if found.cluster_df == 0.0:
        return "all questions belong to one cluster"
    if not found.says_something:
        return "no score varies, over seeds or questions, so there is nothing to judge by"
    share = found.seeds / (found.seeds + max(found.clusters - found.rest, 0.0) or math.inf)
    source = "seeds" if share > 0.5 else "questions"
    if detectable > margin:
        return (
            f"the design shows differences from {detectable:.3f}, more than the margin "
            f"{margin:g}; more {source} would help most"
        )
    return f"the difference lies too near 0 and the margin {margin:g} to tell; more {source} help"


def passed(expected: Expected, verdict: Verdict) -> bool:
    """True if a control showed what it must."""
    way = verdict.word.partition(",")[0]
    return way not in ("higher", "lower") if expected == "same" else way == expected
