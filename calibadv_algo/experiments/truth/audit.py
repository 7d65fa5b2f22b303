"""The audit: every candidate against the measured truth, with intervals, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.truth.candidates import (
    REFERENCE,
    STEPS,
    Candidate,
    Field,
    Matrices,
    ScoredOnce,
    apply_all,
)
from calibadv_algo.experiments.truth.critic import CriticValues, ValueScore, value_scores
from calibadv_algo.experiments.truth.intervals import (
    Difference,
    Score,
    Weights,
    compare,
    draw_clusters,
    score,
)
from calibadv_algo.experiments.truth.kinds import (
    Worth,
    correlations,
    kinds_of_turns,
    punished_kinds,
    worth_of,
)
from calibadv_algo.experiments.truth.metrics import (
    METRICS,
    Judged,
    Mask,
    Metric,
    correlation_terms,
    judge,
    reliability,
)
from calibadv_algo.experiments.truth.turns import Column, Turns, collect_turns, flatten
from calibadv_algo.experiments.truth.values import MeasuredGroup
from calibadv_algo.types import Group

PARTS: Final = ("searches", "answers", "all")
"""Turns that metrics are taken over: searches, last turns, all turns."""

MIN_GROUP: Final = 3
"""Smallest group of which one member less still compares something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a candidate stands on some of the turns.

    Attributes:
        scores: By metric.
        against: Its differences from the reference by metric.
    """

    scores: dict[str, Interval]
    against: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Candidates against the truth, on the same groups.

    Attributes:
        standings: By part of the turns and candidate, in the order of the candidates.
        jackknife: Share of an estimate's variance that comes from which siblings were drawn.
        worth: What kinds of turns were worth.
        by_kind: Correlation of every candidate over the kinds of turns that no estimator chose.
        reliability: Share of the measured truth's variance that is no noise, by part.
        num_turns: By part.
        num_clusters: Questions, or entities that they share.
        left_out: Candidates that could not be applied, with the reason.
        turns: The turns.
        advantages: Estimates by candidate, one number a turn.
        reference: Candidate that the others are compared with.
        values: How good a critic's values are; empty without one.
        cosines: Cosine of a candidate's gradient with the true one, where measured.
        cosine_ceiling: What a perfect estimator would reach without correction for noise.
        weights: Resamples of the clusters.
    """

    standings: dict[str, dict[str, Standing]]
    jackknife: dict[str, float]
    worth: tuple[Worth, ...]
    by_kind: dict[str, dict[str, Interval]]
    reliability: dict[str, Interval]
    num_turns: dict[str, int]
    num_clusters: int
    left_out: dict[str, str]
    turns: Turns
    advantages: dict[str, Column]
    weights: Weights
    reference: str = REFERENCE
    values: tuple[ValueScore, ...] = ()
    cosines: dict[str, Standing] = field(default_factory=dict)
    cosine_ceiling: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the turns."""
        return {
            "reference": self.reference,
            "num_turns": self.num_turns,
            "num_clusters": self.num_clusters,
            "reliability": {part: asdict(each) for part, each in self.reliability.items()},
            "worth": [asdict(each) for each in self.worth],
            "by_kind": {
                kind: {name: asdict(each) for name, each in found.items()}
                for kind, found in self.by_kind.items()
            },
            "standings": {
                part: {name: asdict(each) for name, each in standings.items()}
                for part, standings in self.standings.items()
            },
            "redrawn_groups": self.jackknife,
            "values": [asdict(each) for each in self.values],
            "gradient": {
                name: asdict(each.scores["cosine"]) for name, each in self.cosines.items()
            },
            "gradient_ceiling": self.cosine_ceiling,
            "left_out": self.left_out,
        }


def part_masks(turns: Turns) -> dict[str, Mask]:
    """Masks of the parts of the turns."""
    everything = np.ones_like(turns.is_search)
    return {"searches": turns.is_search, "answers": turns.is_last, "all": everything}


def audit(
    measured: Sequence[MeasuredGroup],
    candidates: Field,
    *,
    critic: CriticValues | None = None,
    cluster: str | None = None,
    reference: str = REFERENCE,
    seed: int = 0,
) -> Audit:
    """Holds candidates against the measured truth of the same groups.

    Args:
        measured: Groups whose states were measured.
        candidates: What is held against it; the reference must be among them.
        critic: Values of the policy's critic, for estimators that need one. They are held against
            the measured values, too.
        cluster: Key of the reset info by which questions hang together; None for each its own.
        reference: Candidate that the others are compared with.
        seed: Of the resamples.

    Raises:
        ValueError: if the reference cannot be applied, or there is no group.
    """
    groups = [each.group for each in measured]
    turns = collect_turns(measured, cluster)
    if critic is not None:
        candidates = replace(candidates, candidates=(*candidates.candidates, STEPS))
    matrices, applied = apply_all(candidates, ScoredOnce(groups, critic))
    if reference not in matrices:
        raise ValueError(
            f"reference must be a candidate that can be applied, got {reference!r}: "
            f"{applied.left_out.get(reference, 'there is none of this name')}"
        )
    advantages = {name: flatten(each, groups) for name, each in matrices.items()}
    weights = draw_clusters(len(turns.clusters), seed)
    judged = judge(turns)
    masks = part_masks(turns)
    kinds = kinds_of_turns(turns)
    grpo = advantages.get(REFERENCE)
    all_kinds = kinds if grpo is None else kinds | punished_kinds(turns, grpo)
    return Audit(
        standings={
            part: standings(advantages, turns, judged, mask, weights, reference)
            for part, mask in masks.items()
        },
        jackknife=redrawn_shares(applied.candidates, groups, advantages, critic),
        worth=tuple(worth_of(what, turns, mask, weights) for what, mask in all_kinds.items()),
        by_kind=correlations(kinds, advantages, turns, judged, weights),
        reliability={
            part: _reliability(turns, judged, mask, weights) for part, mask in masks.items()
        },
        num_turns={part: int(mask.sum()) for part, mask in masks.items()},
        num_clusters=len(turns.clusters),
        left_out=applied.left_out,
        turns=turns,
        advantages=advantages,
        weights=weights,
        reference=reference,
        values=() if critic is None else value_scores(measured, turns, judged, critic, weights),
    )


def standings(
    advantages: Mapping[str, Column],
    turns: Turns,
    judged: Judged,
    mask: Mask,
    weights: Weights,
    reference: str,
) -> dict[str, Standing]:
    """Every metric of every candidate over some turns, and differences from the reference."""
    by_metric: dict[str, dict[str, Score]] = {
        metric.name: {
            name: score(metric, turns, judged, estimate, mask, weights)
            for name, estimate in advantages.items()
        }
        for metric in METRICS
    }
    differences = {
        metric.name: compare(by_metric[metric.name], reference, metric.best)
        for metric in METRICS
        if metric.name != "search_bias"
    }
    return {
        name: Standing(
            scores={metric: scores[name].interval for metric, scores in by_metric.items()},
            against={metric: each[name] for metric, each in differences.items() if name in each},
        )
        for name in advantages
    }


def _reliability(turns: Turns, judged: Judged, mask: Mask, weights: Weights) -> Interval:
    metric = Metric(
        name="reliability", title="", meaning="", terms=correlation_terms, combine=reliability
    )
    return score(metric, turns, judged, turns.truth, mask, weights).interval


def redrawn_shares(
    candidates: Sequence[Candidate],
    groups: Sequence[Group],
    full: Mapping[str, Column],
    critic: CriticValues | None = None,
) -> dict[str, float]:
    """Share of each estimate's variance that comes from which siblings were drawn.

    The jackknife over siblings: each member of a group is left out in turn, and the estimates of
    the others' turns are compared. ``(n - 1) / n`` times the sum of squares, ``n`` siblings, is
    the variance of a turn's advantage over redrawn groups.

    Returns:
        The mean variance over the variance of the estimates; NaN where groups are too small, or
        the estimates are all equal.
    """
    size = min(len(group) for group in groups)
    if size < MIN_GROUP:
        return {each.name: float("nan") for each in candidates}
    totals: dict[str, dict[tuple[int, int], list[np.ndarray]]] = {e.name: {} for e in candidates}
    for out in range(size):
        fewer = [
            Group(tuple(each for i, each in enumerate(group.trajectories) if i != out))
            for group in groups
        ]
        scored = ScoredOnce(fewer, critic)
        for each in candidates:
            _gather(totals[each.name], each.advantages(scored), groups, out)
    return {name: _redrawn_share(found, full[name]) for name, found in totals.items()}


def _gather(
    found: dict[tuple[int, int], list[np.ndarray]],
    matrices: Matrices,
    groups: Sequence[Group],
    out: int,
) -> None:
    """Adds the estimates of all members but one to those that are known of them."""
    for place, (group, matrix) in enumerate(zip(groups, matrices, strict=True)):
        members = [i for i in range(len(group)) if i != out]
        for row, member in enumerate(members):
            length = len(group.trajectories[member].turns)
            found.setdefault((place, member), []).append(matrix[row, :length])


def _redrawn_share(found: Mapping[tuple[int, int], list[np.ndarray]], full: Column) -> float:
    spread = float(np.var(full))
    variances = [
        np.var(np.stack(each), axis=0) * (len(each) - 1) for each in found.values() if len(each) > 1
    ]
    return float(np.mean(np.concatenate(variances)) / spread) if spread > 0 else float("nan")
