"""The passages of the atlas and the typed facts behind them.

A passage states one fact (a list of land neighbours states several of one kind). Its title is the
subject, its text one short sentence made from the templates in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from calibadv_env.data.atlas.elements import chemical_elements
from calibadv_env.data.atlas.records import (
    CountryRecord,
    Places,
    clean_places,
    country_record,
    fold,
)
from calibadv_env.data.atlas.states import find_state, sovereign_states, states_by_code
from calibadv_env.protocol.passages import Passage

#: (kind of subject, relation) -> sentence. The relation is also what a searcher would type.
SENTENCES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("country", "capital"): "The capital of {subject} is {object}.",
        ("country", "currency"): "The currency of {subject} is the {object}.",
        ("country", "highest point"): "The highest point of {subject} is {object}.",
        ("country", "lowest point"): "The lowest point of {subject} is {object}.",
        ("country", "national anthem"): 'The national anthem of {subject} is "{object}".',
        ("country", "national holiday"): "The national holiday of {subject} is {object}.",
        ("country", "independence date"): "The independence date of {subject} is {object}.",
        ("country", "independence from"): "{subject} gained independence from {object}.",
        ("country", "internet domain"): "The internet domain of {subject} is {object}.",
        ("country", "land neighbor"): "The only land neighbor of {subject} is {object}.",
        ("country", "land neighbors"): "The land neighbors of {subject} are {object}.",
        ("airport", "city"): "{subject} is an airport that serves the city of {object}.",
        ("city", "country"): "{subject} is a place in the country of {object}.",
        ("site", "country"): "{subject} is a World Heritage Site in the country of {object}.",
        ("element", "country"): "{subject} is an element discovered in the country of {object}.",
        ("element", "year"): "{subject} is an element discovered in the year {object}.",
        ("element", "chemical symbol"): "The chemical symbol of {subject} is {object}.",
        ("element", "atomic number"): "The atomic number of {subject} is {object}.",
        ("airport", "IATA code"): "The IATA code of {subject} is {object}.",
        ("airport", "ICAO code"): "The ICAO code of {subject} is {object}.",
    }
)

#: Relation -> what its object is.
OBJECT_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "capital": "city",
        "currency": "currency",
        "highest point": "mountain",
        "lowest point": "lowland",
        "national anthem": "anthem",
        "national holiday": "holiday",
        "independence date": "date",
        "independence from": "country",
        "internet domain": "domain",
        "land neighbor": "country",
        "land neighbors": "country",
        "city": "city",
        "country": "country",
        "year": "year",
        "chemical symbol": "symbol",
        "atomic number": "number",
        "IATA code": "code",
        "ICAO code": "code",
    }
)

_WITH_ARTICLE = (" Depression", " Nile", " River")
MAX_LISTED_NEIGHBORS = 6
MAX_SENTENCE_WORDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasFact:
    """One relation between two named things, and the passage that states it.

    Attributes:
        subject: Name of the subject, without an article; the title of the passage.
        relation: One of the keys of ``OBJECT_KINDS``.
        object: Name or value; it stands in the passage as it is written here.
        passage_id: The passage.
        subject_kind: "country", "city", "airport", "site" or "element".
        object_aliases: Further forms of the object that count as answers.
        country_code: ISO code of the state that the fact belongs to, "" if none.
    """

    subject: str
    relation: str
    object: str
    passage_id: str
    subject_kind: str
    object_aliases: tuple[str, ...] = ()
    country_code: str = ""

    @property
    def object_kind(self) -> str:
        """Kind of thing that the object is."""
        return OBJECT_KINDS[self.relation]


class AtlasWorld:
    """Passages, facts, and the names that stand in each passage.

    Args:
        passages: In corpus order.
        facts: In the order of their passages.
        places: Homonyms by the airport table, if the world was compiled; a world
            read from the cache goes without.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        facts: Sequence[AtlasFact],
        places: Places | None = None,
    ) -> None:
        self.passages = tuple(passages)
        self.facts = tuple(facts)
        self.places = places

    @cached_property
    def facts_by_passage(self) -> Mapping[str, tuple[AtlasFact, ...]]:
        """Passage id -> the facts that it states."""
        grouped = _by_passage(self.facts)
        return MappingProxyType({key: tuple(facts) for key, facts in grouped.items()})

    @cached_property
    def names_by_kind(self) -> Mapping[str, tuple[str, ...]]:
        """Kind -> every name or value of that kind, sorted: what renaming may draw from."""
        names: dict[str, dict[str, None]] = {}
        for fact in self.facts:
            names.setdefault(fact.subject_kind, {})[fact.subject] = None
            names.setdefault(fact.object_kind, {})[fact.object] = None
        return MappingProxyType({kind: tuple(sorted(found)) for kind, found in names.items()})

    def entities_of(self, passage_id: str) -> tuple[str, ...]:
        """The names and values that stand in a passage, the subject first.

        Raises:
            KeyError: if there is no such passage.
        """
        facts = self.facts_by_passage[passage_id]
        names = [facts[0].subject, *(fact.object for fact in facts)]
        return tuple(dict.fromkeys(names))


def compile_world(
    factbook: Mapping[str, Mapping[str, Any]], airport_rows: Sequence[Mapping[str, str]]
) -> AtlasWorld:
    """The world of the raw data, as :mod:`calibadv_env.data.atlas.sources` reads them.

    Equal input gives an equal world, order included.
    """
    places = clean_places(airport_rows)
    records = [country_record(state, factbook[state.factbook_code]) for state in sovereign_states()]
    facts = [
        *(fact for record in records for fact in _country_facts(record)),
        *(fact for record in records for fact in _site_facts(record)),
        *_airport_facts(places),
        *_city_facts(places),
        *_element_facts(),
    ]
    return AtlasWorld(render_facts(facts), facts, places)


def render_facts(
    facts: Iterable[AtlasFact], sentences: Mapping[tuple[str, str], str] = SENTENCES
) -> list[Passage]:
    """The passages that state some facts, in the order in which they first come.

    Args:
        facts: Those of one passage may stand anywhere.
        sentences: Sentence of each kind of subject and relation.
    """
    grouped = _by_passage(facts)
    return [_render(passage_id, stated, sentences) for passage_id, stated in grouped.items()]


def cluster_of_fact(fact: AtlasFact) -> str:
    """Name of what questions that end at a fact hang together by: its country, or its element."""
    state = states_by_code().get(fact.country_code)
    is_of_country = fact.subject_kind != "element" or fact.relation == "country"
    return state.name if state is not None and is_of_country else fact.subject


def phrase(name: str) -> str:
    """A name as it stands inside a sentence: with "the" where a country's name takes it."""
    if name in ("Soviet Union", "Ottoman Empire") or name.endswith(_WITH_ARTICLE):
        return f"the {name}"
    state = find_state(name)
    return state.phrase if state and state.name == name else name


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _country_facts(record: CountryRecord) -> Iterator[AtlasFact]:
    for relation, forms in record.values.items():
        yield _country_fact(record, relation, forms[0], forms[1:])
    if record.ruler:
        yield _country_fact(record, "independence from", record.ruler, _aliases(record.ruler))
    if not record.has_all_neighbors:
        return
    if len(record.neighbors) == 1:
        name = record.neighbors[0]
        yield _country_fact(record, "land neighbor", name, _aliases(name))
    elif len(record.neighbors) <= MAX_LISTED_NEIGHBORS and _is_short(record):
        for name in record.neighbors:
            yield _country_fact(record, "land neighbors", name, _aliases(name))


def _is_short(record: CountryRecord) -> bool:
    names = [record.state.name, *record.neighbors]
    frame = SENTENCES["country", "land neighbors"].format(subject="", object="")
    return len(" ".join([frame, "and", *map(phrase, names)]).split()) <= MAX_SENTENCE_WORDS


def _country_fact(
    record: CountryRecord, relation: str, value: str, aliases: tuple[str, ...]
) -> AtlasFact:
    code = record.state.code
    return AtlasFact(
        subject=record.state.name,
        relation=relation,
        object=value,
        passage_id=f"country:{code}:{_slug(relation)}",
        subject_kind="country",
        object_aliases=aliases,
        country_code=code,
    )


def _site_facts(record: CountryRecord) -> Iterator[AtlasFact]:
    for site in record.heritage:
        yield AtlasFact(
            subject=site,
            relation="country",
            object=record.state.name,
            passage_id=f"site:{record.state.code}:{_slug(site)}",
            subject_kind="site",
            object_aliases=_aliases(record.state.name),
            country_code=record.state.code,
        )


def _airport_facts(places: Places) -> Iterator[AtlasFact]:
    for airport in places.airports:
        yield AtlasFact(
            subject=airport.name,
            relation="city",
            object=airport.city,
            passage_id=f"airport:{airport.iata}",
            subject_kind="airport",
            country_code=airport.state.code,
        )


def _city_facts(places: Places) -> Iterator[AtlasFact]:
    cities = {(airport.city, airport.state.code) for airport in places.airports}
    seen = set()
    for city, code in sorted(cities):
        passage_id = f"city:{code}:{_slug(city)}"
        if passage_id in seen:
            continue
        seen.add(passage_id)
        name = states_by_code()[code].name
        yield AtlasFact(
            subject=city,
            relation="country",
            object=name,
            passage_id=passage_id,
            subject_kind="city",
            object_aliases=_aliases(name),
            country_code=code,
        )


def _element_facts() -> Iterator[AtlasFact]:
    for element in chemical_elements():
        state = states_by_code().get(element.country_code)
        values = {
            "chemical symbol": element.symbol,
            "atomic number": str(element.atomic_number),
            "year": element.year,
            "country": state.name if state else "",
        }
        for relation, value in values.items():
            if value:
                yield AtlasFact(
                    subject=element.name,
                    relation=relation,
                    object=value,
                    passage_id=f"element:{element.symbol}:{_slug(relation)}",
                    subject_kind="element",
                    object_aliases=_aliases(value) if relation == "country" else (),
                    country_code=element.country_code,
                )


def _by_passage(facts: Iterable[AtlasFact]) -> dict[str, list[AtlasFact]]:
    grouped: dict[str, list[AtlasFact]] = {}
    for fact in facts:
        grouped.setdefault(fact.passage_id, []).append(fact)
    return grouped


def _render(
    passage_id: str, facts: Sequence[AtlasFact], sentences: Mapping[tuple[str, str], str]
) -> Passage:
    first = facts[0]
    names = [phrase(fact.object) for fact in facts]
    objects = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    sentence = sentences[first.subject_kind, first.relation]
    subject = phrase(first.subject) if first.subject_kind == "country" else first.subject
    text = capitalised(sentence.format(subject=subject, object=objects))
    return Passage(passage_id, first.subject, text.replace("D.C..", "D.C."))


def _aliases(name: str) -> tuple[str, ...]:
    """Further names of a state."""
    state = find_state(name)
    if state is None:
        return (f"the {name}", "USSR") if name == "Soviet Union" else ()
    articled = () if state.phrase == state.name else (state.phrase,)
    return (*articled, *state.aliases)


def _slug(text: str) -> str:
    return fold(text).replace(" ", "-")
