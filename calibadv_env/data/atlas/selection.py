"""Which chains become questions, and in which split they stand.

Everything is decided by hashes of the chains themselves: the same chains give the same choice in
whatever order they come.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from calibadv_env.data.atlas.chains import Chain, Hop, country_codes, hop_key, kind_of
from calibadv_env.data.atlas.lexical import ExactBm25
from calibadv_env.data.atlas.states import find_state
from calibadv_env.data.atlas.wording import paraphrases
from calibadv_env.data.atlas.world import AtlasWorld
from calibadv_env.protocol.answers import contains_words

SPLITS = ("train", "dev", "test")
TOP_K = 3

_SALT = "atlas-2987"
_TRAIN_SHARE = 70
_DEV_SHARE = 10


@dataclass(frozen=True, slots=True)
class Caps:
    """The most questions of one number of hops, so that no country and no kind dominates.

    Attributes:
        total: In all.
        per_family: With one start and one path up to the last relation.
        per_kind: With one start and one path.
        per_source: In which one country is the first on the path.
        per_target: In which one country is the last on the path.
        per_start: From one name.
        per_answer: With one answer.
    """

    total: int
    per_family: int
    per_kind: int
    per_source: int
    per_target: int
    per_start: int
    per_answer: int


CAPS: Mapping[int, Caps] = MappingProxyType(
    {
        # hops: total, family, kind, source, target, start, answer
        1: Caps(3000, 600, 500, 90, 90, 9, 36),
        2: Caps(4000, 1200, 220, 70, 80, 3, 36),
        3: Caps(2200, 1200, 180, 60, 140, 3, 30),
        4: Caps(800, 500, 180, 60, 180, 3, 30),
    }
)
"""The caps by the number of hops."""


def split_of_chain(chain: Chain, clusters: Mapping[str, str]) -> str | None:
    """The split that all countries of a chain belong to.

    Args:
        chain: The chain.
        clusters: As :func:`country_clusters` gives them.

    Returns:
        The split, or None if the countries belong to different ones. A chain without a country
        (about an element that no country is credited with) goes by the element.
    """
    codes = country_codes(chain)
    if not codes:
        hop = chain[0]
        return split_of_name(hop.object if hop.is_inverse else hop.subject)
    splits = {split_of_name(clusters.get(code, code)) for code in codes}
    return splits.pop() if len(splits) == 1 else None


@cache
def split_of_name(name: str) -> str:
    """The split of a country or an element, by hash."""
    bucket = stable_hash(_SALT, name) % 100
    if bucket < _TRAIN_SHARE:
        return "train"
    return "dev" if bucket < _TRAIN_SHARE + _DEV_SHARE else "test"


def country_clusters(world: AtlasWorld) -> dict[str, str]:
    """Groups countries that are linked as only land neighbours, so that a split holds both.

    Each one's ISO code is mapped to the code that stands for its group; lone countries are left
    out.
    """
    leaders: dict[str, str] = {}

    def leader(code: str) -> str:
        while leaders.get(code, code) != code:
            code = leaders[code]
        return code

    for fact in world.facts:
        state = find_state(fact.object) if fact.relation == "land neighbor" else None
        if state is not None:
            first, second = sorted((leader(fact.country_code), leader(state.code)))
            leaders[second] = first
            leaders.setdefault(first, first)
    return {code: leader(code) for code in sorted(leaders)}


def select_chains(world: AtlasWorld, chains: Iterable[Chain]) -> list[tuple[str, Chain]]:
    """The sound chains that become questions, each with its split, in the order of their hashes.

    A chain is taken if its countries share a split, the searches that follow it find every hop
    among the first ``TOP_K`` passages, and the caps leave room. Candidates are looked at in the
    order of their hashes.
    """
    clusters = country_clusters(world)
    search = ExactBm25(world.passages)
    found: dict[tuple[str, str, tuple[str, ...]], bool] = {}

    def is_found(hop: Hop) -> bool:
        key = (hop.subject, hop.relation, hop.gold)
        if key not in found:
            found[key] = search.is_within(oracle_query(hop), hop.gold, TOP_K)
        return found[key]

    counts: Counter[tuple[Any, ...]] = Counter()
    chosen = []
    for chain in sorted(chains, key=hash_order):
        split = split_of_chain(chain, clusters)
        limits = _limits(chain)
        has_room = all(counts[key] < limit for key, limit in limits.items())
        if split is None or not has_room or tells_answer(chain):
            continue
        if not all(map(is_found, chain)):
            continue
        counts.update(limits.keys())
        chosen.append((split, chain))
    return chosen


def oracle_query(hop: Hop) -> str:
    """Query of a perfect searcher for a hop."""
    return f"{hop.subject} {hop.relation}"


def task_records(
    chosen: Sequence[tuple[str, Chain]],
    *,
    prefix: str = "atlas",
    clusters: Mapping[str, str] | None = None,
    words: Callable[[Hop], str] = attrgetter("relation"),
) -> dict[str, list[dict[str, Any]]]:
    """The tasks of each split in the form of a JSONL file, ids in the order of the choice.

    Args:
        chosen: Chains with their splits.
        prefix: Of the ids.
        clusters: Cluster of each chain by its signature, for the metadata; None leaves it out.
        words: What the passages call the relation of a hop.
    """
    records: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    seen = set()
    for number, (split, chain) in enumerate(chosen):
        wordings = paraphrases(chain)
        question = wordings[stable_hash("wording", signature_of(chain)) % len(wordings)]
        if question in seen:
            continue
        seen.add(question)
        records[split].append(
            {
                "id": f"{prefix}-{number:06d}",
                "question": question,
                "golden_answers": list(dict.fromkeys(chain[-1].answers)),
                "gold_passages": [list(hop.gold) for hop in chain],
                "hops": len(chain),
                "metadata": {
                    "kind": kind_of(chain),
                    "paraphrases": list(wordings),
                    "chain": [{**hop_key(hop), "relation": words(hop)} for hop in chain],
                    "entity": chain[0].subject,
                    **({} if clusters is None else {"cluster": clusters[signature_of(chain)]}),
                },
            }
        )
    return records


def tells_answer(chain: Chain) -> bool:
    """Tells if an answer stands in a wording of the question, read as answers are compared."""
    return any(
        contains_words(wording, answer)
        for wording in paraphrases(chain)
        for answer in chain[-1].answers
    )


def _limits(chain: Chain) -> dict[tuple[Any, ...], int]:
    """Quotas that a chain counts towards, and their sizes."""
    hops = len(chain)
    caps = CAPS[hops]
    codes = [hop.country_code for hop in chain if hop.country_code]
    family = kind_of(chain[:-1]) if hops > 1 else chain[0].subject_kind
    # Airports get half: each of them answers one kind of question alone.
    share = 2 if chain[-1].relation == "airport" else 1
    limits: dict[tuple[Any, ...], int] = {
        (hops,): caps.total,
        (hops, "family", family): caps.per_family,
        (hops, "kind", kind_of(chain)): caps.per_kind,
        (hops, "start", chain[0].subject): caps.per_start,
        (hops, "answer", chain[-1].object): caps.per_answer // share,
    }
    if codes:
        limits[hops, "source", codes[0]] = caps.per_source
        limits[hops, "target", codes[-1]] = caps.per_target
    return limits


def signature_of(chain: Chain) -> str:
    """A text that tells a chain from all others."""
    return "|".join([kind_of(chain), *(f"{hop.subject}>{hop.object}" for hop in chain)])


def hash_order(chain: Chain) -> tuple[int, str]:
    """Key of an order of chains that their own hashes decide."""
    signature = signature_of(chain)
    return (stable_hash("order", signature), signature)


def stable_hash(salt: str, text: str) -> int:
    """64 bits that are the same on every machine."""
    digest = hashlib.sha256(f"{salt}|{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
