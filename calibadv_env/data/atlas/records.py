"""Cleans the raw data: Factbook entries to country records, airport rows to airports and cities.

Pure. A value that does not have a clean, single, lasting form is dropped, never repaired by guess.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from calibadv_env.data.atlas.aliases import spellings_of
from calibadv_env.data.atlas.currencies import (
    CODES_BY_STATE,
    STATES_WITHOUT_CURRENCY,
    currency_names,
)
from calibadv_env.data.atlas.states import State, find_state, states_by_code

MAX_NAME_CHARS = 40
MAX_NAME_WORDS = 6
MAX_CITY_CHARS = 24

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = rf"\d{{1,2}} (?:{_MONTHS}) \d{{4}}"

#: Several capitals, a capital that is moving, or one that is disputed.
_STATES_WITHOUT_CAPITAL = frozenset(
    {"BI", "BJ", "BO", "CI", "GQ", "ID", "IL", "LK", "MM", "NR", "SZ", "ZA"}
)
#: One mountain under several names, or a summit that newer surveys put elsewhere.
_STATES_WITHOUT_HIGHEST_POINT = frozenset({"AL", "BW", "CD", "CI", "CO", "GN", "IT", "MK", "XK"})
#: Realms that share the royal anthem with the United Kingdom and have a national one beside it,
#: and states whose anthem changed or has several titles.
_STATES_WITHOUT_ANTHEM = frozenset(
    {"AF", "AG", "AU", "BS", "BZ", "CA", "CH", "DK", "GD", "IQ", "KN", "LC", "NZ", "PT", "SB"}
    | {"SY", "TV", "VC", "XK", "ZW"}
)
_STATES_WITHOUT_INDEPENDENCE = frozenset({"GW", "PH", "RU", "XK"})
_STATES_WITHOUT_DOMAIN = frozenset({"XK", "GB"})

_WATERS = re.compile(
    r"Ocean|\bSea\b|Gulf|Strait|\bBay\b|junction|\bnear\b|delta|unnamed|location| and |/", re.I
)
_PLAIN_TITLE = re.compile(r"(?:the )?(?:\w+ )?(?:national anthem|hymn)|himno nacional$", re.I)
_MONARCHS = re.compile(r"birthday|accession|throne|king|queen|emperor|naadam", re.I)

#: Sites that lie in several states, under one name or several.
_SHARED_SITES = re.compile(
    r"beech forests|struve|tien.shan|roman empire|roman frontier|stećci|pile dwellings|corbusier"
    r"|venetian|silk roads|great spa|tserkvas|talamanca|la amistad|curonian|wadden|high coast"
    r"|pyrénées|mont perdu|białowie|heritage of mercury|siega verde|maloti|victoria falls|nimba"
    r"|sangha|arly|koutammakou|batammariba|stone circles of sene|turan|karakum|uvs nuur|dauria"
    r"|monte san giorgio|rhaetian|slovak karst|benevolence|moravian|belfries|center of rome"
    r"|jesuit|qhapaq|erzgebirge|muskau|kluane|wrangell|waterton|igua[zç][uú]|ohrid|neusiedl|vatican"
    r"|holy see|sundarbans|bagratid|transboundary|limes|qal.at|spa, liege|hyrcanian|phong nha"
    # In dependent territories, misprinted, or too common a name.
    r"|kujataa|aasivissuit|ancient ancient|elphanta|^grand canal$",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountryRecord:
    """Facts of the atlas about one state; "" or () where the source has no clean value.

    Attributes:
        state: The state.
        values: Relation -> value and further forms that count as answers.
        ruler: The state or former state it became independent from.
        neighbors: Land neighbours, by our names.
        has_all_neighbors: If true, every neighbour of the raw list was resolved to a state.
        heritage: Names of its World Heritage Sites.
    """

    state: State
    values: Mapping[str, tuple[str, ...]]
    ruler: str
    neighbors: tuple[str, ...]
    has_all_neighbors: bool
    heritage: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Airport:
    """An airport with an IATA code in a sovereign state."""

    iata: str
    name: str
    city: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Airports, and everything known about which country a city name stands for.

    Attributes:
        airports: Sorted by IATA code; a name may occur twice.
        city_countries: Folded city name -> ISO codes of all countries with such a place.
        airports_per_city: (folded city name, ISO code) -> number of airports, with or without
            an IATA code.
    """

    airports: tuple[Airport, ...]
    city_countries: Mapping[str, tuple[str, ...]]
    airports_per_city: Mapping[tuple[str, str], int]


@cache
def fold(text: str) -> str:
    """Folds case, accents and punctuation away, so that spellings of one name compare equal."""
    plain = unicodedata.normalize("NFKD", text)
    kept = "".join(char for char in plain if not unicodedata.combining(char))
    return " ".join(re.sub(r"[^\w]+", " ", kept.lower()).split())


def is_clean_name(name: str) -> bool:
    """Tells a name that is short, capitalised and free of notes, lists and codes."""
    return (
        2 <= len(name) <= MAX_NAME_CHARS
        and len(name.split()) <= MAX_NAME_WORDS
        and name[0].isupper()
        and not re.search(r"[()\[\];:/\\\d\"“”<>=&_|–—,?*#+]", name)
        and not re.search(r"\b(?:unnamed|unknown|none|closed|under construction)\b", name, re.I)
    )


def country_record(state: State, entry: Mapping[str, Any]) -> CountryRecord:
    """The clean record of a state's Factbook entry, given as nested sections."""
    values = {
        "capital": _capital(state, entry),
        "currency": _currency(state, entry),
        "highest point": _highest_point(state, entry),
        "lowest point": _lowest_point(entry),
        "national anthem": _anthem(state, entry),
        "national holiday": _holiday(entry),
        "independence date": _independence_date(state, entry),
        "internet domain": _domain(state, entry),
    }
    neighbors, is_complete = _neighbors(entry)
    return CountryRecord(
        state=state,
        values={
            relation: _unique(forms[0], *spellings_of(relation, forms[0]), *forms[1:])
            for relation, forms in values.items()
            if forms
        },
        ruler=_ruler(state, entry),
        neighbors=neighbors,
        has_all_neighbors=is_complete,
        heritage=_heritage(entry),
    )


def date_forms(date: str) -> tuple[str, ...]:
    """The British and the American form of a date such as "12 December 1963"."""
    day, month, year = date.split()
    return (date, f"{month} {day}, {year}")


def _field(entry: Mapping[str, Any], *path: str) -> str:
    node: Any = entry
    for key in path:
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    text = node.get("text", "") if isinstance(node, Mapping) else ""
    text = re.sub(r"<br\s*/?>", " ; ", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return " ".join(text.split()).strip(" ;")


def _capital(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    text = _field(entry, "Government", "Capital", "name")
    if state.code in _STATES_WITHOUT_CAPITAL or not text:
        return ()
    if state.code == "US":
        return ("Washington, D.C.", "Washington", "Washington DC")
    name = re.split(r" in Romanian|[;(]", text)[0].strip()
    other = re.search(r"\(([^()]+)\)", text)
    spellings = re.split(r"[,/]", other.group(1)) if other and name != "Kyiv" else []
    aliases = [spelling.strip() for spelling in spellings if _is_alias(spelling.strip())]
    plain = _without_accents(name)
    return _unique(name, plain, *aliases) if is_clean_name(name) else ()


def _currency(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    if state.code in STATES_WITHOUT_CURRENCY:
        return ()
    match = re.search(r"\(([A-Z]{2,3})[)/]", _field(entry, "Economy", "Exchange rates", "Currency"))
    code = CODES_BY_STATE.get(state.code, match.group(1) if match else "")
    names = currency_names().get(code, ())
    return (*names, code) if names else ()


def _is_alias(name: str) -> bool:
    return is_clean_name(name) and not re.search(r" in | or |Tenerife", name)


def _highest_point(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    text = _field(entry, "Geography", "Elevation", "highest point")
    match = re.match(r"(?P<name>.+?),? (?P<height>[\d,]{2,6})(?: m\b|$)", text)
    if not match or state.code in _STATES_WITHOUT_HIGHEST_POINT:
        return ()
    full = match.group("name")
    if full == "Aoraki/Mount Cook":
        return ("Aoraki", "Mount Cook", full)
    name = re.split(r" \(| on ", full)[0].removesuffix(" South").strip()
    name = name.replace("Mt. ", "Mount ")
    if not is_clean_name(name) or " range" in name or " of " in name:
        return ()
    other = re.search(r"\(([^()]+)\)", full)
    alias = other.group(1) if other and _is_alias(other.group(1)) else name
    return _unique(name, alias, _without_accents(name))


def _lowest_point(entry: Mapping[str, Any]) -> tuple[str, ...]:
    text = _field(entry, "Geography", "Elevation", "lowest point")
    bare = " ".join(re.sub(r"\([^()]*\)", "", text).split())
    name = re.split(r" -?[\d.,]+(?: m\b|$)", bare)[0].strip().replace(" river", " River")
    is_wanted = is_clean_name(name) and not _WATERS.search(text.split(";")[0])
    return _unique(name, _without_accents(name)) if is_wanted else ()


def _anthem(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    if state.code in _STATES_WITHOUT_ANTHEM:
        return ()
    text = _field(entry, "Government", "National anthem(s)", "title")
    match = re.match(r"[\"“]([^\"“”]+)[\"”]\s*(?:\(([^()\"“”]+)\))?$", text)
    if not match:
        return ()
    title, translation = match.group(1).strip(" ,"), (match.group(2) or "").strip()
    is_wanted = len(title) <= MAX_NAME_CHARS and len(title.split()) <= 7
    is_wanted = is_wanted and not _PLAIN_TITLE.match(title)
    if _PLAIN_TITLE.match(translation) or find_state(translation) is not None:
        translation = ""
    return _unique(title, translation, _without_accents(title)) if is_wanted else ()


def _holiday(entry: Mapping[str, Any]) -> tuple[str, ...]:
    text = _field(entry, "Government", "National holiday")
    match = re.match(rf"([^;,()]+?)(?: \([^()]*\))?, \d{{1,2}} (?:{_MONTHS}) \(\d{{4}}\)$", text)
    if not match or _MONARCHS.search(text) or "Fédération" in text:
        return ()
    name = match.group(1).strip()
    return (name,) if is_clean_name(name) and " or " not in name else ()


def _independence_match(state: State, entry: Mapping[str, Any]) -> re.Match[str] | None:
    if state.code in _STATES_WITHOUT_INDEPENDENCE:
        return None
    text = re.sub(r"; notable earlier dates?:.*$", "", _field(entry, "Government", "Independence"))
    match = re.match(rf"({_DATE}) \(from (?:the )?([^()]+)\)$", text)
    if not match:
        return None
    holiday = _field(entry, "Government", "National holiday")
    celebrated = re.search(
        rf"Independence[^,;]*, (\d{{1,2}} (?:{_MONTHS}))(?: \((\d{{4}})\))?", holiday
    )
    if celebrated and " ".join(filter(None, celebrated.groups())) not in match.group(1):
        return None
    return match


def _independence_date(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    match = _independence_match(state, entry)
    return date_forms(match.group(1)) if match else ()


def _ruler(state: State, entry: Mapping[str, Any]) -> str:
    match = _independence_match(state, entry)
    if not match:
        return ""
    ruler = match.group(2).strip()
    found = find_state(ruler)
    if found:
        return found.name
    return ruler if ruler in ("Soviet Union", "Yugoslavia", "Ottoman Empire") else ""


def _domain(state: State, entry: Mapping[str, Any]) -> tuple[str, ...]:
    domain = _field(entry, "Communications", "Internet country code")
    is_wanted = re.fullmatch(r"\.[a-z]{2}", domain) and state.code not in _STATES_WITHOUT_DOMAIN
    return (domain,) if is_wanted else ()


def _neighbors(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    text = _field(entry, "Geography", "Land boundaries", "border countries")
    listed = [
        re.sub(r"^and ", "", raw.strip(" ;,"))
        for raw in re.findall(r"([A-Z][^;,\d]*?)\s*(?:\([^()]*\)\s*)*[\d.,]+ km", text)
    ]
    states = [find_state(name) for name in listed]
    resolved = sorted({state.name for state in states if state})
    return tuple(resolved), bool(states) and all(states)


def _heritage(entry: Mapping[str, Any]) -> tuple[str, ...]:
    text = _field(entry, "Government", "National heritage", "selected World Heritage Site locales")
    sites = []
    for raw in text.split(";"):
        name = re.sub(r"(?:\s*\([cnm]\))+$", "", raw.strip()).strip()
        name = name.replace("–", "-").replace("’", "'")
        name = re.sub(r"^The ", "", name)
        is_wanted = is_clean_name(name.replace(",", ".")) and not _SHARED_SITES.search(name)
        if is_wanted and find_state(name) is None:
            sites.append(name)
    return tuple(dict.fromkeys(sites))


def clean_places(rows: Sequence[Mapping[str, str]]) -> Places:
    """The airports with an IATA code and clean names in sovereign states, by the airport table.

    With them comes what the whole table says about the names of cities.
    """
    countries: dict[str, set[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    airports = []
    for row in rows:
        city = fold(row["city"])
        if city:
            countries.setdefault(city, set()).add(row["country"])
            counts[city, row["country"]] = counts.get((city, row["country"]), 0) + 1
        airport = _airport(row)
        if airport:
            airports.append(airport)
    return Places(
        airports=tuple(sorted(airports, key=lambda airport: airport.iata)),
        city_countries={city: tuple(sorted(codes)) for city, codes in sorted(countries.items())},
        airports_per_city=counts,
    )


#: Regions whose country is disputed on the ground.
_DISPUTED_REGIONS = frozenset({"Abkhazia", "Crimea"})
_DISPUTED_AIRPORTS = frozenset({"ECN"})
_NO_CITIES = re.compile(
    r"\b(?:island|islands|isl|is|atoll|base|camp|mine|ranch|field|lodge|afb|county|resort|station"
    r"|airport|mission|reef|cay|lake|park|village|creek|landing|area|complex|platform|city of)\b",
    re.I,
)


def _airport(row: Mapping[str, str]) -> Airport | None:
    state = states_by_code().get(row["country"])
    name = " ".join(row["name"].replace("’", "'").split())
    city = " ".join(row["city"].replace("’", "'").split())
    is_wanted = (
        state is not None
        and re.fullmatch(r"[A-Z]{3}", row["iata"])
        and is_clean_name(name)
        and is_clean_name(city)
        and re.search(r"\b(?:Airport|Airfield|Airpark|Aerodrome)$", name)
        and not re.search(r"airport .*airport", name, re.I)
        and not _NO_CITIES.search(city)
        and len(city) <= MAX_CITY_CHARS
        and row["subd"] not in _DISPUTED_REGIONS
        and row["iata"] not in _DISPUTED_AIRPORTS
    )
    if not is_wanted or state is None:
        return None
    return Airport(iata=row["iata"], name=name, city=city, state=state)


def _without_accents(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text)
    return "".join(char for char in plain if not unicodedata.combining(char))


def _unique(*forms: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(form for form in forms if form))
