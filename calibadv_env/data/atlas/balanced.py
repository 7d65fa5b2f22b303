"""Balanced splits: no country weighs much, long chains are common, nothing leaks from training.

A question belongs to the country that its last fact is about, or to the element (its cluster).
Every cluster has about as many questions as any other, so that a score is not that of two
countries, and an interval over clusters is a narrow one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from calibadv_env.data.atlas.chains import Chain, Hop, country_codes, kind_of
from calibadv_env.data.atlas.records import fold
from calibadv_env.data.atlas.selection import (
    country_clusters,
    hash_order,
    signature_of,
    stable_hash,
    task_records,
    tells_answer,
)
from calibadv_env.data.atlas.states import sovereign_states, states_by_code
from calibadv_env.data.atlas.world import AtlasWorld
from calibadv_env.data.names import SPLITS

NUM_COUNTRIES: Final[Mapping[str, int]] = MappingProxyType({"test": 88, "dev": 56})
"""Countries of the splits; the rest train, and with them those with the most airports."""
NUM_LARGE: Final = 16
"""Countries with the most airports, which all train: they have the most names to learn from."""
_ELEMENT_SHARES: Final = (("train", 40), ("dev", 60), ("test", 100))
_SALT: Final = "balanced-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most questions of a split that hang together.

    Attributes:
        per_cluster: With one last country or element, by the number of hops.
        per_kind: Of those with one start and one path.
        per_start: From one name, in the whole split.
        start_share: Share of a cluster's questions of a number of hops that start from one kind
            of thing (a code, a city), at most, rounded up.
    """

    per_cluster: Mapping[int, int]
    per_kind: int
    per_start: int
    start_share: float = 0.5


EVALUATED: Final = Quota(per_cluster={1: 2, 2: 3, 3: 5, 4: 5}, per_kind=1, per_start=2)
"""Quota of dev and test."""
TRAINED: Final = Quota(per_cluster={1: 24, 2: 30, 3: 72, 4: 72}, per_kind=8, per_start=4)
"""Quota of train."""

Chosen = tuple[str, Chain]
"""A split and a chain."""


def cluster_of_chain(chain: Chain) -> str:
    """The country that a chain's last fact is about, or the element."""
    last = chain[-1]
    element = last.object if last.is_inverse else last.subject
    is_of_element = last.gold[0].startswith("element:") and last.relation != "country"
    state = states_by_code().get(last.country_code)
    return element if is_of_element or state is None else state.name


def balanced_splits(world: AtlasWorld) -> dict[str, str]:
    """The split of every country, by its ISO code.

    Countries that are linked as only land neighbours go together. The largest train; the others
    are dealt by a hash of their codes, first to test, then to dev, then to train.
    """
    leaders = country_clusters(world)
    groups: dict[str, list[str]] = {}
    for state in sovereign_states():
        groups.setdefault(leaders.get(state.code, state.code), []).append(state.code)
    sizes = Counter(f.country_code for f in world.facts if f.relation == "city")
    large = {code for code, _ in sorted(sizes.items(), key=lambda n: (-n[1], n[0]))[:NUM_LARGE]}
    splits: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for leader in sorted(groups, key=lambda code: stable_hash(_SALT, code)):
        members = groups[leader]
        room = (s for s, most in NUM_COUNTRIES.items() if counts[s] + len(members) <= most)
        split = "train" if large.intersection(members) else next(room, "train")
        splits.update(dict.fromkeys(members, split))
        counts[split] += len(members)
    return splits


def choose_balanced(
    chains: Iterable[Chain],
    splits: Mapping[str, str],
    is_found: Callable[[Chain], bool],
    quotas: Mapping[str, Quota] = MappingProxyType(
        {"train": TRAINED, "dev": EVALUATED, "test": EVALUATED}
    ),
) -> list[Chosen]:
    """The chains that become questions, each with its split.

    Train is chosen first, dev from chains without a name, a value or a passage of train, test from
    those without any of either. As many questions have three hops as have four, and no more have
    fewer.

    Args:
        chains: Sound chains.
        splits: The split of each country.
        is_found: Tells if searches find every hop.
        quotas: For each split.
    """
    ordered = sorted(chains, key=hash_order)
    seen: set[str] = set()
    chosen: list[Chosen] = []
    for split, quota in quotas.items():
        own = (chain for chain in ordered if _split_of(chain, splits) == split)
        found = _leveled(list(_within(own, quota, seen, is_found)))
        seen.update(name for chain in found for name in _names(chain))
        chosen += [(split, chain) for chain in found]
    return chosen


def balanced_records(
    chosen: Sequence[Chosen], prefix: str, words: Callable[[Hop], str] = attrgetter("relation")
) -> dict[str, list[dict[str, Any]]]:
    """The tasks of each split in the form of a JSONL file, each with its cluster.

    Args:
        chosen: The chains in the order of their ids.
        prefix: Of the ids.
        words: What the passages call the relation of a hop.
    """
    clusters = {signature_of(chain): cluster_of_chain(chain) for _, chain in chosen}
    records = task_records(chosen, prefix=prefix, clusters=clusters, words=words)
    # Neighbours in a file shall not be of one kind: a policy is trained in some order of its own,
    # but who looks at the first ten sees ten countries.
    return {
        split: sorted(records[split], key=lambda each: stable_hash("place", each["id"]))
        for split in SPLITS
    }


def _split_of(chain: Chain, splits: Mapping[str, str]) -> str | None:
    """The split that all countries of a chain share; that of its element if it has none."""
    codes = country_codes(chain)
    if codes:
        found = {splits[code] for code in codes}
        return found.pop() if len(found) == 1 else None
    bucket = stable_hash(_SALT, cluster_of_chain(chain)) % 100
    return next(split for split, below in _ELEMENT_SHARES if bucket < below)


def _names(chain: Chain) -> Iterator[str]:
    """Every name, value and passage of a chain."""
    yield fold(chain[0].subject)
    for hop in chain:
        yield from (fold(hop.object), *hop.gold)


def _within(
    chains: Iterable[Chain], quota: Quota, seen: set[str], is_found: Callable[[Chain], bool]
) -> Iterator[Chain]:
    """Chains as long as the quota has room for them, without what was seen before."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for chain in chains:
        hops, cluster, start = len(chain), cluster_of_chain(chain), chain[0].subject_kind
        room = quota.per_cluster.get(hops, 0)
        limits = {
            (hops, cluster): room,
            (hops, cluster, kind_of(chain)): quota.per_kind,
            (hops, cluster, "from", start): -int(-room * quota.start_share // 1),
            ("start", chain[0].subject): quota.per_start,
        }
        if any(counts[key] >= limit for key, limit in limits.items()):
            continue
        if not seen.isdisjoint(_names(chain)) or tells_answer(chain) or not is_found(chain):
            continue
        counts.update(limits.keys())
        yield chain


def _leveled(chains: Sequence[Chain]) -> list[Chain]:
    """As many of three hops as of four, and no more of fewer; surplus of the fullest clusters goes.

    Without chains of three and four hops all stay.
    """
    four = [chain for chain in chains if len(chain) == 4]
    three = [chain for chain in chains if len(chain) == 3]
    fewer = [chain for chain in chains if len(chain) < 3]
    size = min(len(four), len(three))
    if not size:
        return list(chains)
    kept = {signature_of(chain) for part in (four, three, fewer) for chain in _thinned(part, size)}
    return [chain for chain in chains if signature_of(chain) in kept]


def _thinned(chains: Sequence[Chain], size: int) -> list[Chain]:
    """At most so many, those first that are among the first of their cluster."""
    places: Counter[str] = Counter()
    ranked = []
    for number, chain in enumerate(chains):
        cluster = cluster_of_chain(chain)
        ranked.append((places[cluster], number, chain))
        places[cluster] += 1
    return [chain for _, _, chain in sorted(ranked, key=lambda each: each[:2])[:size]]
