"""Codes of airports: further facts, which make longer chains possible.

The worlds of balanced splits hold them; the first atlas does not, since its files stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from calibadv_env.data.atlas.world import AtlasFact, AtlasWorld, render_facts

#: Relation -> column of the airport table.
CODES: Final[Mapping[str, str]] = {"IATA code": "iata", "ICAO code": "icao"}


def with_codes(world: AtlasWorld, airport_rows: Sequence[Mapping[str, str]]) -> AtlasWorld:
    """A compiled world with the codes of its airports as further facts, each in a passage.

    A code that two rows of the table share, and the code of an airport that shares its name, are
    left out: they lead to no one airport.
    """
    facts = [*world.facts, *_code_facts(world, airport_rows)]
    return AtlasWorld(render_facts(facts), facts, world.places)


def _code_facts(
    world: AtlasWorld, airport_rows: Sequence[Mapping[str, str]]
) -> Iterator[AtlasFact]:
    rows = {row["iata"]: row for row in airport_rows if row["iata"]}
    counts = {
        column: Counter(row[column] for row in airport_rows if row[column])
        for column in CODES.values()
    }
    airports = [fact for fact in world.facts if fact.subject_kind == "airport"]
    named = Counter(fact.subject for fact in airports)
    for fact in airports:
        row = rows[fact.passage_id.removeprefix("airport:")]
        for relation, column in CODES.items():
            code = row[column]
            is_plain = code.isascii() and code.isalnum()
            if not is_plain or counts[column][code] > 1 or named[fact.subject] > 1:
                continue
            yield AtlasFact(
                subject=fact.subject,
                relation=relation,
                object=code,
                passage_id=f"{fact.passage_id}:{column}",
                subject_kind="airport",
                country_code=fact.country_code,
            )
