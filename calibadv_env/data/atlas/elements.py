"""The 118 chemical elements, written from general knowledge (tables/elements.csv).

A year or a country is left empty where the element has been known since antiquity or where
sources disagree, so that every entry can be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from calibadv_env.data.atlas.sources import read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A chemical element.

    Attributes:
        name: English name.
        symbol: Chemical symbol.
        atomic_number: Its place in the periodic table.
        year: Year of discovery, "" if unknown or disputed.
        country_code: ISO code of the country of discovery, "" if unknown or disputed.
    """

    name: str
    symbol: str
    atomic_number: int
    year: str
    country_code: str


@cache
def chemical_elements() -> tuple[Element, ...]:
    """All elements by atomic number."""
    return tuple(
        Element(atomic_number=number, **row)
        for number, row in enumerate(read_table("elements"), start=1)
    )
