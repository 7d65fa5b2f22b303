"""Facts that questions are made of: values of fields that have one clean form. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from calibadv_env.data.factbook.world import FactbookWorld, Page

FieldKind = Literal["number", "name", "list"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field that can be asked for.

    Attributes:
        section: Id of its section.
        part: Name of the part with the value, "" for a field without parts.
        label: Its name in a question.
        kind: What its values are.
        unit: Unit of a number, as it follows the number; "$" stands before it.
    """

    section: str
    part: str
    label: str
    kind: FieldKind = "number"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a field on a page.

    Attributes:
        page: Id of the page.
        section_id: Where it stands.
        text: As it stands there, without its edition.
        number: The number that it is; 0 for a name or a list.
        edition: Year or years of the figure, such as "2024 est."; "" for what lasts.
    """

    page: str
    section_id: str
    text: str
    number: float = 0.0
    edition: str = ""


FIELDS: Final = (
    Field("area", "total", "total area", unit="sq km"),
    Field("area", "land", "land area", unit="sq km"),
    Field("coastline", "", "length of the coastline", unit="km"),
    Field("land-boundaries", "total", "total length of the land boundaries", unit="km"),
    Field("elevation", "mean elevation", "mean elevation", unit="m"),
    Field("land-use", "forest", "share of forest in the land", unit="%"),
    Field("irrigated-land", "", "irrigated land", unit="sq km"),
    Field("population", "total", "total population"),
    Field("population-growth-rate", "", "population growth rate", unit="%"),
    Field("median-age", "total", "median age", unit="years"),
    Field("birth-rate", "", "birth rate per 1,000 people", unit="births"),
    Field("death-rate", "", "death rate per 1,000 people", unit="deaths"),
    Field("infant-mortality-rate", "total", "infant mortality per 1,000 births", unit="deaths"),
    Field("maternal-mortality-ratio", "", "maternal mortality per 100,000 births", unit="deaths"),
    Field("life-expectancy-at-birth", "total population", "life expectancy at birth", unit="years"),
    Field("total-fertility-rate", "", "total fertility rate", unit="children"),
    Field("urbanization", "urban population", "share of the urban population", unit="%"),
    Field("obesity-adult-prevalence-rate", "", "adult obesity rate", unit="%"),
    Field("alcohol-consumption-per-capita", "total", "alcohol consumption a head", unit="liters"),
    Field("tobacco-use", "total", "share of tobacco users", unit="%"),
    Field("real-gdp-per-capita", "Real GDP per capita 2024", "real GDP per capita", unit="$"),
    Field("real-gdp-growth-rate", "Real GDP growth rate 2024", "real GDP growth rate", unit="%"),
    Field(
        "inflation-rate",
        "Inflation rate (consumer prices) 2024",
        "inflation rate of consumer prices",
        unit="%",
    ),
    Field("unemployment-rate", "Unemployment rate 2024", "unemployment rate", unit="%"),
    Field("internet-users", "percent of population", "share of internet users", unit="%"),
    Field("electricity", "installed generating capacity", "installed power capacity", unit="kW"),
    Field("carbon-dioxide-emissions", "total emissions", "total CO2 emissions", unit="tonnes"),
    Field("total-renewable-water-resources", "", "renewable water resources", unit="cubic meters"),
    Field("telephones-mobile-cellular", "total subscriptions", "number of mobile subscriptions"),
    Field("airports", "", "number of airports"),
    Field("railways", "total", "length of the railways", unit="km"),
    Field("merchant-marine", "total", "number of merchant ships"),
    Field("ports", "total ports", "number of ports"),
    Field("capital", "name", "capital", "name"),
    Field(
        "civil-aircraft-registration-country-code-prefix",
        "",
        "prefix of civil aircraft registrations",
        "name",
    ),
    Field("internet-country-code", "", "internet country code", "name"),
    Field("elevation", "highest point", "highest point", "name"),
    Field("national-color", "", "national colors", "list"),
    Field("exports-commodities", "", "top five export commodities", "list"),
)
"""Everything that is asked for."""

_EDITION: Final = re.compile(r"\s*\((?P<years>(?:19|20)\d\d(?:[-/]\d+)?(?: est\.)?)\)$")
_QUANTITY: Final = re.compile(
    r"(?P<money>\$)?(?P<number>-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?)"
    r"(?P<factor> (?:million|billion|trillion))?(?P<rest>%?(?: ?[a-zA-Z0-9,/ ]*))"
)
_FACTORS: Final = {"": 1.0, " million": 1e6, " billion": 1e9, " trillion": 1e12}
_NAME: Final = re.compile(r"[A-Z0-9.][\w.’' -]{0,30}")
_ITEM: Final = re.compile(r"[a-z][a-z '-]{2,30}")
_HEIGHT: Final = re.compile(r" -?[\d,.]+ m$")


def values_of(field: Field, world: FactbookWorld) -> Iterator[Value]:
    """The clean values of a field, page by page; others are left out, never repaired."""
    for page in world.pages.values():
        value = value_of(field, page)
        if value is not None and page.id not in ("world", "european-union"):
            yield value


def value_of(field: Field, page: Page) -> Value | None:
    """The value of a field on a page, None if it has no clean form."""
    text = page.part(field.section, field.part)
    edition = _EDITION.search(text)
    bare = text[: edition.start()] if edition else text
    years = edition["years"] if edition else ""
    where = f"{page.id}#{field.section}"
    if field.kind == "number":
        found = _QUANTITY.fullmatch(bare)
        if found is None or (field.unit == "$") != bool(found["money"]):
            return None
        number = float(found["number"].replace(",", "")) * _FACTORS[found["factor"] or ""]
        shown = f"{found['money'] or ''}{found['number']}{found['factor'] or ''}"
        unit = "" if field.unit == "$" else field.unit
        text = f"{shown}{unit}" if unit == "%" else f"{shown} {unit}".strip()
        return Value(page.id, where, text, number, years)
    if field.kind == "name":
        bare = _HEIGHT.sub("", bare) if field.part == "highest point" else bare
        return Value(page.id, where, bare) if _NAME.fullmatch(bare) else None
    items = bare.split(", ")
    is_clean = 2 <= len(items) <= 5 and all(_ITEM.fullmatch(item) for item in items)
    return Value(page.id, where, bare, edition=years) if is_clean else None
