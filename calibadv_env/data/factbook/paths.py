"""Ways from one page to another by what the first one says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from calibadv_env.data.factbook.wordings import (
    AIRCRAFT,
    CAPITAL,
    EXPORTS,
    IMPORTS,
    INTERNET,
    LONGEST_BORDER,
    ONLY_BORDER,
    OWNER,
    SHORTEST_BORDER,
    Words,
    filled,
    same,
)
from calibadv_env.data.factbook.world import FactbookWorld

_PARTNER: Final = re.compile(r"\[?(?P<name>[^%\[\]()]+?)(?:\]\([^)]*\))? (?P<share>\d+)%")
_TERRITORY: Final = re.compile(r"\[[^\]]+\]\((?P<page>[^)]+)\)")


@dataclass(frozen=True, slots=True)
class Path:
    """A description of a page by another one.

    Attributes:
        texts: The description in each wording, such as "the country with the longest land border
            with Norway".
        end: Id of the page that is meant.
        gold: Sections that have to be read to find it, in order.
        is_named: Whether it begins with the name of a page.
    """

    texts: Words
    end: str
    gold: tuple[str, ...]
    is_named: bool = False


def paths_from(world: FactbookWorld, start: str) -> tuple[Path, ...]:
    """All ways from a page of one or two steps, with the page named or described."""
    return _Paths.over(world).from_page(start)


def steps_from(world: FactbookWorld, page: str) -> tuple[tuple[Words, str, str], ...]:
    """Steps from a page: words with a place for it, the end, and the section that says so."""
    return _Paths.over(world).steps(page)


class _Paths:
    """Every way between the pages of a world, worked out as it is asked for."""

    _latest: _Paths | None = None

    def __init__(self, world: FactbookWorld) -> None:
        self.world = world
        self._texts = {passage.id: passage.text for passage in world.passages}
        self._names = {page.name: page.id for page in world.pages.values()}
        self.from_page = lru_cache(maxsize=None)(self._from_page)
        self.steps = lru_cache(maxsize=None)(lambda page: tuple(self._steps(page)))
        self._unique = {
            section: _unique_values(world, section, part) for section, part, _ in _DESCRIPTIONS
        }

    @classmethod
    def over(cls, world: FactbookWorld) -> _Paths:
        """Those of a world, kept for the next call."""
        if cls._latest is None or cls._latest.world is not world:
            cls._latest = cls(world)
        return cls._latest

    def _from_page(self, start: str) -> tuple[Path, ...]:
        found: list[Path] = []
        for way in self._beginnings(start):
            steps = [
                Path(filled(texts, way.texts), end, (*way.gold, section), way.is_named)
                for texts, end, section in self.steps(start)
            ]
            found += steps
            for step in steps:
                found += [
                    Path(filled(texts, step.texts), end, (*step.gold, section), way.is_named)
                    for texts, end, section in self.steps(step.end)
                    if end != start
                ]
            if not way.is_named:
                found.append(way)
        return tuple(found)

    def _beginnings(self, start: str) -> Iterator[Path]:
        """The page by its name, and by facts that hold for no other page."""
        yield Path(same(self.world.pages[start].name), start, (), is_named=True)
        for section, part, texts in _DESCRIPTIONS:
            value = self.world.pages[start].part(section, part)
            if self._unique[section].get(value) == start:
                yield Path(filled(texts, same(value)), start, (f"{start}#{section}",))

    def _steps(self, page: str) -> Iterator[tuple[Words, str, str]]:
        """Words, end and section of each step from a page."""
        borders = {k: _km(v) for k, v in self.world.neighbors.get(page, {}).items()}
        ranked = sorted(borders, key=lambda each: -borders[each])
        where = _at(page, "land-boundaries")
        if len(ranked) > 1 and borders[ranked[0]] > 1.03 * borders[ranked[1]]:
            yield LONGEST_BORDER, ranked[0], where
        if len(ranked) > 1 and 1.03 * borders[ranked[-1]] < borders[ranked[-2]]:
            yield SHORTEST_BORDER, ranked[-1], where
        if len(ranked) == 1:
            yield ONLY_BORDER, ranked[0], where
        for section, words in _TRADE:
            end = self._main_partner(f"{page}#{section}")
            if end is not None:
                yield words, end, _at(page, section)
        status = self._texts.get(f"{page}#dependency-status", "")
        owner = _TERRITORY.findall(status)
        if len(owner) == 1:
            yield OWNER, owner[0], _at(page, "dependency-status")

    def _main_partner(self, section: str) -> str | None:
        """The first partner, if it leads the second."""
        partners = [
            (match["name"].strip(), int(match["share"]), match.group())
            for match in _PARTNER.finditer(self._texts.get(section, ""))
        ]
        if len(partners) < 2 or partners[0][1] <= partners[1][1]:
            return None
        linked = _TERRITORY.match(self._texts[section])
        return linked["page"] if linked else None


_TRADE: Final = (("exports-partners", EXPORTS), ("imports-partners", IMPORTS))

_DESCRIPTIONS: Final = (
    ("capital", "name", CAPITAL),
    ("civil-aircraft-registration-country-code-prefix", "", AIRCRAFT),
    ("internet-country-code", "", INTERNET),
)
"""Section, part and words of facts by which a page can be told."""

_NAMELIKE: Final = re.compile(r"[A-Z0-9.][\w.’' -]{1,30}")


def _unique_values(world: FactbookWorld, section: str, part: str) -> Mapping[str, str]:
    """Values that stand on one page only -> that page."""
    pages: dict[str, list[str]] = {}
    for page in world.pages.values():
        value = page.part(section, part)
        if _NAMELIKE.fullmatch(value):
            pages.setdefault(value, []).append(page.id)
    return {value: ids[0] for value, ids in pages.items() if len(ids) == 1}


def _at(page: str, section: str) -> str:
    return f"{page}#{section}"


def _km(text: str) -> float:
    return float(text.removesuffix(" km").replace(",", ""))
