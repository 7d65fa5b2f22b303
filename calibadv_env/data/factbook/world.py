"""Pages of the World Factbook: sections, links, and lists of members. Pure.

Each of the 256 entries is a page. Its fields are sections, in the order of the source; before them
stand a section that lists the parts of the page, and one for each part that lists its fields. Names
of other pages in some fields are links. Organisations, and the waters that countries border, get
pages that list their members.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from calibadv_env.data.atlas.states import sovereign_states
from calibadv_env.data.factbook.text import joined, parts_of, plain, slug
from calibadv_env.protocol.passages import Passage

LINKED_FIELDS: Final = frozenset(
    {
        "land-boundaries",
        "location",
        "dependency-status",
        "dependent-areas",
        "exports-partners",
        "imports-partners",
    }
)
"""Sections in which names of pages are links."""

_ODD_NAMES: Final = {
    "ee": "European Union",
    "fk": "Falkland Islands",
    "gz": "Gaza Strip",
    "io": "British Indian Ocean Territory",
    "kt": "Christmas Island",
    "sh": "Saint Helena",
    "sv": "Svalbard",
    "um": "US Pacific Island Wildlife Refuges",
    "vq": "US Virgin Islands",
    "xx": "World",
}
"""Code of the source -> name of the page where the source has none, or one that is no name."""

_SHORT_NAMES: Final = {
    "US": "us",
    "USA": "us",
    "UK": "uk",
    "UAE": "ae",
    "Burma": "bm",
    "Turkey": "tu",
    "Czechia": "ez",
    "Cabo Verde": "cv",
}
"""Names that texts use -> code of the page."""

_WATER: Final = re.compile(
    r"(?:(?:North|South) (?:Atlantic|Pacific) Ocean|(?:Arctic|Indian) Ocean"
    r"|(?:[A-Z][a-z]+ ){1,3}Sea|Gulf of [A-Z][a-z]+|Persian Gulf|Bay of Bengal)"
)
_NO_MEMBERS: Final = re.compile(r"\(|^none$|^(?:UN|MIN|MONU)[A-Z]")
"""Other kinds of membership, and missions of the United Nations, which have no members."""

_MIN_MEMBERS: Final = 3
_MAX_MEMBERS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An entry of the source.

    Attributes:
        code: Its code in the source.
        name: Its name.
        id: Name of its page.
        fields: Id of each section -> title of the field and its parts.
        groups: Title of each part of the page -> ids of its sections.
    """

    code: str
    name: str
    id: str
    fields: Mapping[str, tuple[str, Mapping[str, str]]]
    groups: Mapping[str, tuple[str, ...]]

    def part(self, section: str, name: str = "") -> str:
        """The text of a part of a section, "" if there is none."""
        title_and_parts = self.fields.get(section)
        return title_and_parts[1].get(name, "") if title_and_parts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactbookWorld:
    """All pages.

    Attributes:
        pages: The entries by id, sorted.
        members: For organisations and waters the id of their page -> ids of the pages listed.
        lists: Id of these pages -> their title.
        neighbors: Id of a page -> ids of the pages that it has a land border with -> its length as
            the source writes it; only where every neighbour is a page.
        passages: Every section, in order.
    """

    pages: Mapping[str, Page]
    members: Mapping[str, tuple[str, ...]]
    lists: Mapping[str, str]
    neighbors: Mapping[str, Mapping[str, str]]
    passages: tuple[Passage, ...]


def compile_world(entries: Mapping[str, Mapping[str, Any]]) -> FactbookWorld:
    """Makes the pages of the entries of the source, by their codes."""
    made = [_page(code, entry) for code, entry in entries.items()]
    pages = {page.id: page for page in sorted(made, key=lambda page: page.id)}
    links = _Links(made)
    members, lists = _member_lists(pages)
    passages = [*_passages(pages, links, members), *_list_passages(pages, members, lists)]
    return FactbookWorld(
        pages=pages,
        members=members,
        lists=lists,
        neighbors={id_: found for id_, page in pages.items() if (found := _borders(page, links))},
        passages=tuple(passages),
    )


def _page(code: str, entry: Mapping[str, Mapping[str, Any]]) -> Page:
    states = {state.factbook_code: state.name for state in sovereign_states()}
    short = parts_of(entry.get("Government", {}).get("Country name", {}))
    name = _ODD_NAMES.get(code) or states.get(code) or short.get("conventional short form", "")
    fields: dict[str, tuple[str, Mapping[str, str]]] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for group, values in entry.items():
        ids = []
        for title, value in values.items():
            parts = parts_of(value)
            section = slug(title)
            # Some fields stand in two parts of an entry; the second adds nothing.
            if parts and section not in fields:
                fields[section] = (plain(title), parts)
                ids.append(section)
        if ids:
            groups[group] = tuple(ids)
    return Page(code=code, name=name, id=slug(name), fields=fields, groups=groups)


class _Links:
    """Finds names of pages in texts."""

    def __init__(self, pages: Sequence[Page]) -> None:
        by_code = {page.code: page.id for page in pages}
        self.ids = {page.name: page.id for page in pages if page.code != "xx"}
        for state in sovereign_states():
            for name in state.aliases:
                if len(name) > 3 and name[0].isupper():
                    self.ids.setdefault(name, by_code[state.factbook_code])
        self.ids |= {name: by_code[code] for name, code in _SHORT_NAMES.items()}
        names = sorted(self.ids, key=lambda name: (-len(name), name))
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])")

    def marked(self, text: str, own: str) -> str:
        """The text with the first mention of each other page as a link."""
        seen = {own}

        def mark(match: re.Match[str]) -> str:
            target = self.ids[match.group()]
            if target in seen:
                return match.group()
            seen.add(target)
            return f"[{match.group()}]({target})"

        return self._pattern.sub(mark, text)


def _passages(
    pages: Mapping[str, Page], links: _Links, members: Mapping[str, tuple[str, ...]]
) -> Iterator[Passage]:
    """The sections of all entries, page by page."""
    for page in pages.values():
        yield Passage(page.id, page.name, f"Parts: {', '.join(_headings(page).values())}.")
        headings = _headings(page)
        for group, sections in page.groups.items():
            if len(sections) > 1:
                text = f"Sections: {', '.join(sections)}."
                yield Passage(f"{page.id}#{headings[group]}", f"{page.name}: {group}", text)
            for section in sections:
                title, parts = page.fields[section]
                text = joined(parts, title)
                if section in LINKED_FIELDS:
                    text = links.marked(text, page.id)
                    text = _WATER.sub(lambda m: _water_link(m, members), text)
                if section == "international-organization-participation":
                    text = _organisation_links(text, members)
                yield Passage(f"{page.id}#{section}", f"{page.name}: {title}", text)


def _headings(page: Page) -> dict[str, str]:
    """Id of the section that lists each part's fields: the field itself where there is but one."""
    return {
        group: sections[0] if len(sections) == 1 else _heading(group, page)
        for group, sections in page.groups.items()
    }


def _heading(group: str, page: Page) -> str:
    return slug(group) if slug(group) not in page.fields else f"{slug(group)}-part"


def _water_link(match: re.Match[str], members: Mapping[str, tuple[str, ...]]) -> str:
    water = slug(match.group())
    return f"[{match.group()}]({water})" if water in members else match.group()


def _organisation_links(text: str, members: Mapping[str, tuple[str, ...]]) -> str:
    names = text.split(", ")
    return ", ".join(
        f"[{name}]({slug(name)})" if "(" not in name and slug(name) in members else name
        for name in names
    )


def _member_lists(
    pages: Mapping[str, Page],
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Pages that organisations and waters have in common, and the titles of their lists."""
    members: dict[str, list[str]] = {}
    lists: dict[str, str] = {}
    for page in pages.values():
        organisations = page.part("international-organization-participation").split(", ")
        full = [name for name in organisations if name and not _NO_MEMBERS.search(name)]
        waters = [found.group() for found in _WATER.finditer(page.part("location"))]
        titles = [(n, f"{n} (organization)") for n in full] + [(n, n) for n in waters]
        for name, title in titles:
            if slug(name) not in pages and page.id not in members.get(slug(name), ()):
                members.setdefault(slug(name), []).append(page.id)
                lists.setdefault(slug(name), title)
    kept = {k: tuple(v) for k, v in sorted(members.items()) if len(v) in _sizes()}
    return kept, {name: lists[name] for name in kept}


def _sizes() -> range:
    return range(_MIN_MEMBERS, _MAX_MEMBERS + 1)


def _list_passages(
    pages: Mapping[str, Page], members: Mapping[str, tuple[str, ...]], lists: Mapping[str, str]
) -> Iterator[Passage]:
    """The pages that list members."""
    for name, ids in members.items():
        head = "Members" if lists[name].endswith(")") else "Countries and areas that lie on it"
        listed = ", ".join(f"[{pages[each].name}]({each})" for each in ids)
        yield Passage(name, lists[name], f"{head}: {listed}.")


_BORDER: Final = re.compile(r"(?P<name>[^\d;]+?) (?P<length>[\d,.]+ km)")


def _borders(page: Page, links: _Links) -> dict[str, str]:
    """Land neighbours with the length of the border; none if one is no page or stands twice."""
    found: dict[str, str] = {}
    for border in filter(None, page.part("land-boundaries", "border countries").split("; ")):
        match = _BORDER.fullmatch(border.strip())
        target = links.ids.get(match["name"].strip()) if match else None
        if match is None or target is None or target in found:
            return {}
        found[target] = match["length"]
    return found
