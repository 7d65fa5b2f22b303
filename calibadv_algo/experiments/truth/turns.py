"""All turns of measured groups as columns: the truth about each, and what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from calibadv_algo.credit.base import SCORED_BAD, CreditRule
from calibadv_algo.credit.labels import GoldCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.experiments.truth.values import (
    MeasuredGroup,
    Truth,
    mean_variance,
    true_advantages,
)
from calibadv_algo.types import Group
from calibadv_env.info import CALL_KINDS

Column = Float[np.ndarray, " turn"]
AnyMatrix = Float[np.ndarray, "_ _"]

CLUSTER_KEY: Final = "cluster"
"""Key of the reset info with the name of what questions hang together by, where there is one."""

UNKNOWN: Final = -1
"""Label of a turn that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Columns over all turns of all groups, row by row.

    Attributes:
        truth: Measured advantage.
        halves: The advantage by each half of the continuations.
        error: Its standard error.
        tokens: Number of sampled tokens.
        episode: Number of its episode.
        cluster: Number of its cluster: the question, or the entity that questions share.
        clusters: Names of the clusters.
        kind: ``search``, ``answer`` and so on, as the environment says; a last search that
            nothing followed is ``dangling``.
        number: Number of the search among those of its episode, from 1; 0 for other turns.
        hops: Hops of the question, 0 where unknown.
        gold: 1 for a search that is correct by gold, 0 if it is not, UNKNOWN without a label.
        silver: The same by silver labels.
    """

    truth: Column
    halves: tuple[Column, Column]
    error: Column
    tokens: Column
    episode: Int[np.ndarray, " turn"]
    cluster: Int[np.ndarray, " turn"]
    clusters: tuple[str, ...]
    kind: np.ndarray
    number: Int[np.ndarray, " turn"]
    hops: Int[np.ndarray, " turn"]
    gold: Int[np.ndarray, " turn"]
    silver: Int[np.ndarray, " turn"]

    @property
    def is_search(self) -> Bool[np.ndarray, " turn"]:
        """Searches that something followed; on pages all calls."""
        return np.isin(self.kind, CALL_KINDS)

    @property
    def is_last(self) -> Bool[np.ndarray, " turn"]:
        """Last turns of episodes, whatever they are."""
        after = np.append(self.episode[1:], -1)
        return np.asarray(self.episode != after)


def flatten(matrices: Sequence[AnyMatrix], groups: Sequence[Group]) -> Column:
    """The turns of matrices, group by group and row by row."""
    return np.concatenate(
        [
            matrix[row, : len(each.turns)]
            for matrix, group in zip(matrices, groups, strict=True)
            for row, each in enumerate(group.trajectories)
        ]
    )


def truths(measured: Sequence[MeasuredGroup]) -> list[Truth]:
    """Measured advantages of all groups, with one estimate of the noise of a return."""
    prior = mean_variance(measured)
    return [true_advantages(each, prior) for each in measured]


def collect_turns(measured: Sequence[MeasuredGroup], cluster: str | None = None) -> Turns:
    """Columns of all turns.

    Args:
        measured: The groups.
        cluster: Key of the reset info whose value questions share that hang together; None means
            that every question is a cluster of its own.

    Raises:
        ValueError: if there is no group, or an episode does not name its cluster.
    """
    if not measured:
        raise ValueError("measured must hold at least one group, got none")
    groups = [each.group for each in measured]
    known = truths(measured)
    names = [_cluster_name(group, cluster) for group in groups]
    clusters = tuple(dict.fromkeys(names))
    episodes = [(g, each) for g, group in enumerate(groups) for each in group.trajectories]
    lengths = [len(each.turns) for _, each in episodes]
    kinds, numbers = [], []
    for _, each in episodes:
        found = [str(turn.info.get("action", "turn")) for turn in each.turns]
        if found[-1] in CALL_KINDS:
            found[-1] = "dangling"
        kinds += found
        count = np.cumsum([kind in CALL_KINDS for kind in found])
        numbers += [int(n) if k in CALL_KINDS else 0 for n, k in zip(count, found, strict=True)]
    return Turns(
        truth=flatten([each.advantages for each in known], groups),
        halves=(
            flatten([each.halves[0] for each in known], groups),
            flatten([each.halves[1] for each in known], groups),
        ),
        error=flatten([each.errors for each in known], groups),
        tokens=np.array(
            [len(turn.action_ids) for _, each in episodes for turn in each.turns], dtype=np.float64
        ),
        episode=np.repeat(np.arange(len(episodes)), lengths),
        cluster=np.repeat([clusters.index(names[g]) for g, _ in episodes], lengths),
        clusters=clusters,
        kind=np.array(kinds),
        number=np.array(numbers),
        hops=np.repeat([int(each.reset_info.get("hops") or 0) for _, each in episodes], lengths),
        gold=_labels(GoldCredit(), groups),
        silver=_labels(SilverCredit(), groups),
    )


def own_cluster_key(measured: Sequence[MeasuredGroup]) -> str | None:
    """Key under which the environment itself names the cluster of every question, if it does."""
    infos = [each.group.trajectories[0].reset_info for each in measured]
    return CLUSTER_KEY if infos and all(info.get(CLUSTER_KEY) for info in infos) else None


def _cluster_name(group: Group, key: str | None) -> str:
    first = group.trajectories[0]
    if key is None:
        return first.task_id
    if key not in first.reset_info:
        raise ValueError(
            f"cluster must be a key of the reset info, got {key!r}; there are "
            f"{', '.join(sorted(first.reset_info))}"
        )
    value = first.reset_info[key]
    # The last entity that a chain comes past is what the answers of a chain have in common.
    return str(value[-1] if isinstance(value, tuple | list) and value else value)


def _labels(credit: CreditRule, groups: Sequence[Group]) -> Int[np.ndarray, " turn"]:
    """Verdicts of a credit: 1, 0, or UNKNOWN."""
    try:
        scores = flatten([credit(group) for group in groups], groups)
    except MissingInfoKeyError:
        return np.full(sum(len(e.turns) for g in groups for e in g.trajectories), UNKNOWN)
    return np.where(np.isnan(scores), UNKNOWN, (scores > SCORED_BAD).astype(int))
