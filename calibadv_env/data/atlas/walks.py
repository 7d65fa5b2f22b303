"""Chains of one to six facts over a world with the codes of its airports.

A walk goes on from what the last hop led to: a code leads to its airport, an airport to its city or
to a code, a city to its country or its airport, a country to its facts, its capital, its only land
neighbor or its former ruler, a symbol or number to its element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from calibadv_env.data.atlas.chains import (
    COUNTRY_FACTS,
    COUNTRY_LINKS,
    INVERSES,
    Chain,
    FactIndex,
    Hop,
    is_sound,
)
from calibadv_env.data.atlas.codes import CODES
from calibadv_env.data.atlas.selection import stable_hash
from calibadv_env.data.atlas.states import find_state
from calibadv_env.data.atlas.world import OBJECT_KINDS, AtlasFact, AtlasWorld

MAX_HOPS: Final = 6
MAX_STARTS: Final = 24
"""Airports, and cities, of one country that chains start from, so that none swamps the rest."""
_MANY: Final = ("airport", "city")
_INVERSE_STARTS: Final = (*INVERSES, *CODES, "chemical symbol", "atomic number")


def all_walks(world: AtlasWorld) -> Iterator[Chain]:
    """Every sound chain of at most :data:`MAX_HOPS` hops, in a fixed order."""
    index = FactIndex(world)
    starts = _starts(world.facts)
    for fact in world.facts:
        if fact.subject_kind in _MANY and _place_of(fact) not in starts:
            continue
        for first in _first_hops(index, fact):
            yield from _grown(index, (first,))


def _first_hops(index: FactIndex, fact: AtlasFact) -> Iterator[Hop]:
    """The hops that a walk may begin with, of one fact read either way."""
    if fact.relation == "land neighbors":
        return
    forward = index.forward(fact.subject, fact.relation, fact.subject_kind)
    if forward is not None and fact.passage_id == forward.gold[0]:
        yield forward
        if fact.subject_kind == "city" and fact.relation == "country":
            airport = index.airport_of(fact.subject, fact.country_code)
            if airport is not None:
                yield airport
    if fact.relation in _INVERSE_STARTS:
        back = index.inverse(fact.object, fact.relation)
        if back is not None:
            yield back


def _grown(index: FactIndex, chain: Chain) -> Iterator[Chain]:
    """A chain, if it is sound, and all that it can be continued to.

    A chain that is not sound is not continued, but for a first hop: what makes a poor question by
    itself ("Which airport serves Oslo?" Oslo Airport) may lead on to a good one.
    """
    if is_sound(chain):
        yield chain
    elif len(chain) > 1:
        return
    if len(chain) < MAX_HOPS:
        for hop in _next_hops(index, chain):
            yield from _grown(index, (*chain, hop))


def _next_hops(index: FactIndex, chain: Chain) -> Iterator[Hop]:
    last = chain[-1]
    found = last.object
    kind = _kind_of_object(last)
    hops: Iterable[Hop | None] = ()
    match kind:
        case "airport":
            hops = [index.forward(found, relation, "airport") for relation in ("city", *CODES)]
        case "city":
            hops = [
                index.forward(found, "country", "city") if last.relation != "capital" else None,
                index.airport_of(found, last.country_code),
            ]
        case "country":
            hops = _from_country(index, last)
        case "element":
            relations = ("country", "year", "atomic number", "chemical symbol")
            hops = [index.forward(found, relation, "element") for relation in relations]
    for hop in hops:
        if hop is not None and (kind != "city" or hop.country_code == last.country_code):
            yield hop


def _kind_of_object(hop: Hop) -> str:
    """Kind of what a hop leads to."""
    if not hop.is_inverse:
        return OBJECT_KINDS[hop.relation]
    if hop.relation in CODES or hop.relation == "airport":
        return "airport"
    return "element" if hop.relation in ("chemical symbol", "atomic number") else "country"


def _from_country(index: FactIndex, last: Hop) -> Iterator[Hop | None]:
    for relation in COUNTRY_FACTS:
        if relation != "independence date" or last.relation != "independence from":
            yield index.forward(last.object, relation, "country")
    if last.relation not in COUNTRY_LINKS:
        for relation in COUNTRY_LINKS:
            link = index.forward(last.object, relation, "country")
            yield link if link is not None and find_state(link.object) is not None else None


def _starts(facts: Iterable[AtlasFact]) -> set[str]:
    """Passages of at most so many airports and cities of each country, by hash."""
    places: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        if fact.subject_kind in _MANY and fact.relation in ("city", "country"):
            key = (fact.subject_kind, fact.country_code)
            places.setdefault(key, []).append(fact.passage_id)
    return {
        passage_id
        for found in places.values()
        for passage_id in sorted(found, key=lambda each: stable_hash("start", each))[:MAX_STARTS]
    }


def _place_of(fact: AtlasFact) -> str:
    """The passage that stands for the place of a fact: that of an airport's city, or its own."""
    return (
        ":".join(fact.passage_id.split(":")[:2])
        if fact.subject_kind == "airport"
        else (fact.passage_id)
    )
