"""Measures how evenly the questions of a split are spread, and how far they are new. Pure.

Questions that end at one country share its facts: a score over three hundred questions of which
forty end in China says less than three hundred questions seem to. The effective number of clusters
says how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import chain_of, cluster_of, gold_entities
from calibadv_env.data.preparing.audit import majority_share
from calibadv_env.protocol.normalizing import normalize_answer

ENTITY: Final = "entity"
"""Key of a task's metadata: the name that its question mentions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How the questions of a whole split are spread.

    Attributes:
        num_tasks: Questions of the split.
        num_clusters: Clusters, as :func:`calibadv_env.data.evidence.cluster_of` names them.
        effective_clusters: Inverse Simpson index, 1 over the sum of the squared shares of the
            clusters: the number of equally large clusters that would be as concentrated.
        largest_cluster: Name of the one with most questions.
        largest_share: Its share of the questions.
        hop_shares: Share of the questions of each number of hops; 0 stands for unknown.
        majority_share: Share of the questions that one constant answer gets right, at best.
        unseen_share: Share of the questions on whose way, start and answer included, no name or
            value stands that stands on the way of a training question, and no gold passage of
            one; None for the training split, and where tasks name neither.
    """

    num_tasks: int
    num_clusters: int
    effective_clusters: float
    largest_cluster: str
    largest_share: float
    hop_shares: Mapping[str, float]
    majority_share: float
    unseen_share: float | None


def measure_balance(tasks: Sequence[QATask], train: Sequence[QATask] | None) -> Balance:
    """Measures a split.

    Args:
        tasks: The split; at least one task.
        train: The training split; None where there is none, or ``tasks`` is it.
    """
    clusters = Counter(map(cluster_of, tasks))
    hops = Counter(task.hops for task in tasks)
    name, size = min(clusters.items(), key=lambda item: (-item[1], item[0]))
    total = len(tasks)
    return Balance(
        num_tasks=total,
        num_clusters=len(clusters),
        effective_clusters=effective_number(clusters.values()),
        largest_cluster=name,
        largest_share=size / total,
        hop_shares={str(number): hops[number] / total for number in sorted(hops)},
        majority_share=majority_share(tasks),
        unseen_share=None if train is None else _unseen_share(tasks, train),
    )


def effective_number(sizes: Iterable[int]) -> float:
    """Inverse Simpson index of some groups: ``1 / sum of (size / total)²``.

    Args:
        sizes: Number of members of each, at least one of them positive.
    """
    counts = list(sizes)
    total = sum(counts)
    return total * total / sum(count * count for count in counts)


def entities_of(task: QATask) -> Iterator[str]:
    """Names, values and gold passages on the way of a question, names in their normal form.

    There are none where a task names neither a chain, entities, evidence nor gold passages.
    """
    names = [str(hop["subject"]) for hop in chain_of(task, "subject")]
    if isinstance(task.metadata.get(ENTITY), str):
        names.append(task.metadata[ENTITY])
    yield from map(normalize_answer, (*names, *gold_entities(task)))
    for passages in task.gold_passages:
        yield from (f"passage {passage}" for passage in passages)


def _unseen_share(tasks: Sequence[QATask], train: Iterable[QATask]) -> float | None:
    own = [frozenset(entities_of(task)) for task in tasks]
    if not all(own):
        return None
    seen = {name for task in train for name in entities_of(task)}
    return sum(names.isdisjoint(seen) for names in own) / len(own)
