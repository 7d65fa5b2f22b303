"""Chains of facts: the reasoning behind every question of the atlas.

A chain starts at a name that the question mentions and follows one fact a hop. A hop is taken
only where it is unambiguous in the whole corpus, so that each chain has one answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from calibadv_env.data.atlas.records import fold
from calibadv_env.data.atlas.states import find_state
from calibadv_env.data.atlas.world import AtlasFact, AtlasWorld

#: Relations of countries that an answer may be taken from.
COUNTRY_FACTS = (
    "capital",
    "currency",
    "highest point",
    "lowest point",
    "national anthem",
    "national holiday",
    "independence date",
    "internet domain",
)
#: Relations that lead from one country to another.
COUNTRY_LINKS = ("land neighbor", "independence from")
#: Relations that also lead back from the value to the country.
INVERSES = ("capital", "highest point", "lowest point", "national anthem", "internet domain")
#: Holidays that too many countries share to be worth asking for.
_PLAIN_HOLIDAYS = (
    "Constitution Day",
    "Independence Day",
    "Independence Day Celebration",
    "National Day",
    "Republic Day",
)
#: Words that tell nothing about what a name hides.
_PLAIN_WORD_TABLE = """
airport and central city democratic international island islands mount national new north port
republic saint san south states the united
"""
_PLAIN_WORDS = frozenset(_PLAIN_WORD_TABLE.split())
_STEM_CHARS = 5
_MIN_RAW_OVERLAP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of a chain: look up a relation of a subject, find the object.

    Attributes:
        subject: Known before the hop.
        relation: Looked up.
        object: Known after the hop.
        is_inverse: If true, the fact reads the other way round in its passage.
        subject_kind: Kind of the subject.
        answers: The object and its further forms.
        gold: Ids of all passages that state the fact, sorted.
        country_code: The state that the fact belongs to, "" if none.
    """

    subject: str
    relation: str
    object: str
    is_inverse: bool
    subject_kind: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    country_code: str


Chain = tuple[Hop, ...]


class FactIndex:
    """Finds facts by subject or by object, and refuses ambiguous ones.

    Args:
        world: A compiled world (with places).
    """

    def __init__(self, world: AtlasWorld) -> None:
        self.world = world
        self._forward: dict[tuple[str, str], list[AtlasFact]] = {}
        self._inverse: dict[tuple[str, str], list[AtlasFact]] = {}
        self._subjects: dict[str, set[tuple[str, str]]] = {}
        self._objects: dict[str, set[tuple[str, str]]] = {}
        self._hops: dict[tuple[str, str, str], Hop | None] = {}
        for fact in world.facts:
            subject, value = fold(fact.subject), fold(fact.object)
            self._forward.setdefault((subject, fact.relation), []).append(fact)
            self._inverse.setdefault((value, fact.relation), []).append(fact)
            if fact.subject_kind in ("city", "site", "airport", "element", "country"):
                code = fact.country_code if fact.subject_kind != "country" else ""
                self._subjects.setdefault(subject, set()).add((fact.subject_kind, code))
            if fact.object_kind in ("city", "mountain", "lowland", "anthem"):
                self._objects.setdefault(value, set()).add((fact.object_kind, fact.country_code))

    def forward(self, subject: str, relation: str, kind: str) -> Hop | None:
        """The hop from a subject along a relation, None if there is none or it is ambiguous."""
        key = (subject, relation, kind)
        if key not in self._hops:
            self._hops[key] = self._forward_hop(subject, relation, kind)
        return self._hops[key]

    def _forward_hop(self, subject: str, relation: str, kind: str) -> Hop | None:
        facts = self._forward.get((fold(subject), relation), [])
        if not facts or len({fold(fact.object) for fact in facts}) > 1:
            return None
        if any(fact.subject_kind != kind and kind == "country" for fact in facts):
            return None
        if kind in ("city", "airport", "site") and not self._is_one_place(subject, kind):
            return None
        first = next((fact for fact in facts if fact.subject_kind == kind), None)
        if first is None or first.object in _PLAIN_HOLIDAYS:
            return None
        return _hop(first, facts, is_inverse=False)

    def inverse(self, value: str, relation: str) -> Hop | None:
        """The hop from a value back to the one subject that has it, None if there are more."""
        facts = self._inverse.get((fold(value), relation), [])
        if len({fact.subject for fact in facts}) != 1:
            return None
        return _hop(facts[0], facts, is_inverse=True)

    def airport_of(self, city: str, country_code: str) -> Hop | None:
        """The hop from a city to its airport, None if the table knows none or several."""
        places = self.world.places
        facts = self._inverse.get((fold(city), "city"), [])
        if places is None or len(facts) != 1 or facts[0].country_code != country_code:
            return None
        if places.airports_per_city.get((fold(city), country_code)) != 1:
            return None
        airport = self.forward(facts[0].subject, "city", "airport")
        if airport is None:
            return None
        return Hop(
            subject=airport.object,
            relation="airport",
            object=airport.subject,
            is_inverse=True,
            subject_kind="city",
            answers=(airport.subject,),
            gold=airport.gold,
            country_code=country_code,
        )

    def _is_one_place(self, name: str, kind: str) -> bool:
        """True if nothing else goes by this name in another country."""
        folded = fold(name)
        if find_state(name) is not None:
            return False
        codes = {code for _, code in self._subjects.get(folded, ())}
        codes |= {code for _, code in self._objects.get(folded, ())} if kind != "airport" else set()
        kinds = {found for found, _ in self._subjects.get(folded, ())}
        if kind == "city" and self.world.places is not None:
            codes |= set(self.world.places.city_countries.get(folded, ()))
        if kind == "airport":
            return len(self._forward[folded, "city"]) == 1 and kinds == {"airport"}
        return len(codes) == 1 and kinds <= {"city", "site"}


def all_chains(world: AtlasWorld) -> Iterator[Chain]:
    """Every sound chain of one to four hops in a fixed order; see :func:`is_sound`."""
    index = FactIndex(world)
    for fact in world.facts:
        for chain in _chains_from(index, fact):
            if is_sound(chain):
                yield chain


def is_sound(chain: Chain) -> bool:
    """Tells if a chain makes a question without a short cut or a give-away.

    Each hop begins at the very name that the hop before ends at, its relations differ, no passage
    serves two hops, and nothing on the way is named twice. Where there are several hops, the name
    that the question mentions shares no telling word with anything to be found; where there is
    one, it must not hold the answer.
    """
    relations = [hop.relation for hop in chain]
    passages = [passage for hop in chain for passage in hop.gold]
    names = [fold(chain[0].subject), *(fold(hop.object) for hop in chain)]
    if len(set(relations)) < len(relations) or len(set(passages)) < len(passages):
        return False
    if len(set(names)) < len(names) or any(a.object != b.subject for a, b in pairwise(chain)):
        return False
    if len(chain) > 1 and any(gives_away(chain[0].subject, hop.object) for hop in chain):
        return False
    return not any(is_mentioned(answer, chain[0].subject) for answer in chain[-1].answers)


def is_mentioned(answer: str, text: str) -> bool:
    """Tells if an answer stands in a text as whole words or, if not tiny, inside a word."""
    folded, where = fold(answer), fold(text)
    if len(folded) >= _MIN_RAW_OVERLAP and folded in where:
        return True
    return f" {folded} " in f" {where} "


def gives_away(name: str, hidden: str) -> bool:
    """Tells if a word of one name begins like a word of the other ("Kenya", "Kenyan")."""
    return not _stems(name).isdisjoint(_stems(hidden))


@cache
def _stems(name: str) -> frozenset[str]:
    """The beginnings of the telling words of a name."""
    words = [word for word in fold(name).split() if word not in _PLAIN_WORDS]
    return frozenset(word[:_STEM_CHARS] for word in words if len(word) >= _MIN_RAW_OVERLAP)


def _chains_from(index: FactIndex, fact: AtlasFact) -> Iterator[Chain]:
    """The chains whose first hop is this fact, read either way."""
    if fact.relation == "land neighbors":
        return
    first = index.forward(fact.subject, fact.relation, fact.subject_kind)
    if first is not None and fact.passage_id == first.gold[0]:
        yield (first,)
        if fact.subject_kind == "airport":
            yield from _from_airport(index, first)
        elif fact.relation == "country":
            yield from _from_country(index, (first,))
            airport = index.airport_of(fact.subject, fact.country_code)
            is_asked = airport is not None and not gives_away(airport.subject, airport.object)
            if airport is not None and is_asked and fact.subject_kind == "city":
                yield (airport,)
        elif fact.relation in COUNTRY_LINKS:
            yield from _final_facts(index, (first,))
    if fact.subject_kind == "country" and fact.relation in INVERSES:
        back = index.inverse(fact.object, fact.relation)
        if back is not None:
            yield (back,)
            yield from _from_country(index, (back,))
    elif fact.relation in ("chemical symbol", "atomic number"):
        yield from _from_element(index, fact)


def _from_airport(index: FactIndex, first: Hop) -> Iterator[Chain]:
    country = index.forward(first.object, "country", "city")
    if country is not None and country.country_code == first.country_code:
        yield (first, country)
        yield from _from_country(index, (first, country))


def _from_element(index: FactIndex, fact: AtlasFact) -> Iterator[Chain]:
    back = index.inverse(fact.object, fact.relation)
    if back is None:
        return
    yield (back,)
    for relation in ("year", "atomic number"):
        last = index.forward(fact.subject, relation, "element")
        if last is not None:
            yield (back, last)
    country = index.forward(fact.subject, "country", "element")
    if country is not None:
        yield (back, country)
        yield from _from_country(index, (back, country))


def _from_country(index: FactIndex, chain: Chain) -> Iterator[Chain]:
    """Goes on from a chain that ends at a country."""
    yield from _final_facts(index, chain)
    capital = index.forward(chain[-1].object, "capital", "country")
    airport = index.airport_of(capital.object, capital.country_code) if capital else None
    if capital is not None and airport is not None:
        yield (*chain, capital, airport)
    for relation in COUNTRY_LINKS:
        link = index.forward(chain[-1].object, relation, "country")
        if link is not None:
            yield (*chain, link)
            if len(chain) < 3 and find_state(link.object) is not None:
                yield from _final_facts(index, (*chain, link))


def _final_facts(index: FactIndex, chain: Chain) -> Iterator[Chain]:
    for relation in COUNTRY_FACTS:
        if relation == "independence date" and chain[-1].relation == "independence from":
            continue
        last = index.forward(chain[-1].object, relation, "country")
        if last is not None:
            yield (*chain, last)


def _hop(fact: AtlasFact, facts: list[AtlasFact], *, is_inverse: bool) -> Hop:
    gold = tuple(sorted({found.passage_id for found in facts}))
    if not is_inverse:
        return Hop(
            subject=fact.subject,
            relation=fact.relation,
            object=fact.object,
            is_inverse=False,
            subject_kind=fact.subject_kind,
            answers=(fact.object, *fact.object_aliases),
            gold=gold,
            country_code=fact.country_code,
        )
    state = find_state(fact.subject) if fact.subject_kind == "country" else None
    articled = (state.phrase, *state.aliases) if state else ()
    return Hop(
        subject=fact.object,
        relation=fact.relation,
        object=fact.subject,
        is_inverse=True,
        subject_kind=fact.object_kind,
        answers=tuple(dict.fromkeys((fact.subject, *articled))),
        gold=gold,
        country_code=fact.country_code,
    )


def country_codes(chain: Chain) -> tuple[str, ...]:
    """ISO codes of the states whose facts a chain uses, sorted."""
    return tuple(sorted({hop.country_code for hop in chain if hop.country_code}))


def kind_of(chain: Chain) -> str:
    """The kind of question: what it starts from and the relations, "^" for an inverse hop."""
    steps = [f"{hop.relation}{'^' if hop.is_inverse else ''}" for hop in chain]
    return f"{chain[0].subject_kind}:{' > '.join(steps)}"


def hop_key(hop: Hop) -> Mapping[str, str]:
    """The hop as it stands in a task's metadata."""
    return {"subject": hop.subject, "relation": hop.relation, "object": hop.object}
