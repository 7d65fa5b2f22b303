"""``atlas-homonyms``: places that share their name with others, which a searcher must tell apart.

Real homonyms: the airport table knows San Jose in Costa Rica and in the United States. A question
names the place and says in which country it lies, or describes that country, so that it has to be
found first. A passage about the airport of such a place says the country too; a search for the
name alone finds the airports of its namesakes as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from calibadv_env.data.atlas.balanced import (
    Quota,
    balanced_records,
    balanced_splits,
    choose_balanced,
)
from calibadv_env.data.atlas.chains import (
    Chain,
    FactIndex,
    Hop,
    gives_away,
    is_mentioned,
    is_sound,
)
from calibadv_env.data.atlas.codes import CODES
from calibadv_env.data.atlas.compiling import Searches, base_world, files_of
from calibadv_env.data.atlas.records import fold
from calibadv_env.data.atlas.states import states_by_code
from calibadv_env.data.atlas.walks import all_walks
from calibadv_env.data.atlas.wording import HOMONYM
from calibadv_env.data.atlas.world import AtlasFact, AtlasWorld, phrase
from calibadv_env.data.compiled import Files

_SENTENCE: Final = "{airport} is an airport that serves the city of {city} in {country}."
_ASKED: Final = Quota(per_cluster={1: 2, 2: 6, 3: 10, 4: 10}, per_kind=3, per_start=4)
_TRAINED: Final = Quota(per_cluster=dict.fromkeys(range(1, 5), 80), per_kind=30, per_start=8)
_MAX_HOPS: Final = 4


def compile_homonyms() -> Files:
    """The files of ``atlas-homonyms``."""
    world = base_world()
    served = homonym_airports(world)
    passages = [
        replace(passage, text=_text(served[passage.id])) if passage.id in served else passage
        for passage in world.passages
    ]
    chains = homonym_chains(world, served)
    quotas = {"train": _TRAINED, "dev": _ASKED, "test": _ASKED}
    find = Searches(passages).find
    chosen = choose_balanced(chains, balanced_splits(world), find, quotas)
    return files_of(world, balanced_records(chosen, "homonym"), passages)


def homonym_airports(world: AtlasWorld) -> dict[str, AtlasFact]:
    """The facts of airports that serve a place with a namesake in another country, by passage.

    Places that several airports of their country serve are left out.
    """
    served = [f for f in world.facts if f.subject_kind == "airport" and f.relation == "city"]
    countries: dict[str, set[str]] = {}
    airports: dict[tuple[str, str], list[AtlasFact]] = {}
    for fact in served:
        countries.setdefault(fold(fact.object), set()).add(fact.country_code)
        airports.setdefault((fold(fact.object), fact.country_code), []).append(fact)
    return {
        found[0].passage_id: found[0]
        for (city, _), found in airports.items()
        if len(countries[city]) > 1 and len(found) == 1
    }


def homonym_chains(world: AtlasWorld, served: Mapping[str, AtlasFact]) -> Iterator[Chain]:
    """Chains that come past a place with namesakes: to its country, to its airport, to a code.

    Args:
        world: The world with its codes.
        served: What :func:`homonym_airports` gives.
    """
    index = FactIndex(world)
    ways: dict[str, list[Chain]] = {}
    for chain in all_walks(world):
        last = chain[-1]
        if len(chain) <= _MAX_HOPS - 1 and last.country_code and _leads_to_country(last):
            ways.setdefault(last.object, []).append(chain)
    for fact in served.values():
        country = states_by_code()[fact.country_code].name
        place = _place_hop(fact, country)
        codes = [index.forward(fact.subject, code, "airport") for code in CODES]
        ends: list[Chain] = [(place,), *((place, code) for code in codes if code is not None)]
        for way in ((), *ways.get(country, ())):
            for end in ends:
                if len(way) + len(end) <= _MAX_HOPS and _is_sound(way, end, fact):
                    yield (*way, *end)


def _leads_to_country(hop: Hop) -> bool:
    if hop.relation == "country":
        return True
    return hop.is_inverse and hop.gold[0].startswith("country:")


def _place_hop(fact: AtlasFact, country: str) -> Hop:
    """From a place, named with its country, to its airport."""
    return Hop(
        subject=f"{fact.object}, {country}",
        relation="airport",
        object=fact.subject,
        is_inverse=True,
        subject_kind=HOMONYM,
        answers=(fact.subject,),
        gold=(fact.passage_id,),
        country_code=fact.country_code,
    )


def _is_sound(way: Chain, end: Chain, fact: AtlasFact) -> bool:
    """True if the way to the country is no short cut to the place, and tells no answer."""
    hops = (*way, *end)
    passages = [gold for hop in hops for gold in hop.gold]
    relations = [hop.relation for hop in hops]
    if len(set(passages)) < len(passages) or len(set(relations)) < len(relations):
        return False
    if way and (not is_sound(way) or fold(way[0].subject) == fold(fact.object)):
        return False
    if end[-1].relation == "airport" and gives_away(fact.object, end[-1].object):
        return False
    named = f"{way[0].subject if way else ''} {fact.object}"
    return not any(is_mentioned(answer, named) for answer in end[-1].answers)


def _text(fact: AtlasFact) -> str:
    country = phrase(states_by_code()[fact.country_code].name)
    return _SENTENCE.format(airport=fact.subject, city=fact.object, country=country)
