"""Questions over the pages of the Factbook, with the sections that answer them. Pure.

Six kinds: a field of a page that is reached by links (``linked``), a field of the page that comes
first or last in a comparison (``compared``) or among the members of a set (``extreme``), the
members of a set that a field sets apart (``filtered``), a number made of two (``joined``), and a
field that the page which is reached does not have (``unanswerable``). No question names the page
that its answer stands on, unless it names others too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from calibadv_env.data.factbook.draws import Draws
from calibadv_env.data.factbook.fields import FIELDS, Field, Value, values_of
from calibadv_env.data.factbook.paths import Path, paths_from, steps_from
from calibadv_env.data.factbook.wordings import (
    APART,
    ASKED,
    COUNTED,
    LISTED,
    MEMBERS,
    NEIGHBORS,
    SHORE,
    TOGETHER,
    WINNER,
    Words,
    filled,
    same,
    sentences,
    worded,
)
from calibadv_env.data.factbook.world import FactbookWorld
from calibadv_env.protocol.pages import page_of

KINDS: Final[Mapping[str, int]] = {
    "linked": 9,
    "compared": 7,
    "extreme": 5,
    "filtered": 4,
    "joined": 5,
    "unanswerable": 2,
}
"""Kind -> questions of that kind that begin at each page, at most."""

MAX_HOPS: Final = 6
MAX_PER_END: Final = 45
"""Most questions whose last section stands on the same page: without it, the great trading nations
would be the end of every second question."""
_TRIES: Final = 12
_UNANSWERABLE: Final = ("unanswerable", "unknown", "not enough information")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its evidence.

    Attributes:
        kind: One of ``KINDS``.
        start: Id of the page that it begins at.
        texts: The question in each wording.
        answers: Accepted answers.
        answer_kind: How they are graded.
        gold: Ids of the sections that have to be read, in order.
        is_computed: Whether the answer is made of what stands there, and does not stand there.
    """

    kind: str
    start: str
    texts: Words
    answers: tuple[str, ...]
    answer_kind: str
    gold: tuple[str, ...]
    is_computed: bool = False

    def __post_init__(self) -> None:
        """Names every section once."""
        object.__setattr__(self, "gold", tuple(dict.fromkeys(self.gold)))


@dataclass(frozen=True)
class Facts:
    """All values of all fields.

    Attributes:
        world: The pages.
        values: For each field in ``FIELDS`` its value on each page that has a clean one.
    """

    world: FactbookWorld
    values: Mapping[Field, Mapping[str, Value]] = field(repr=False)

    @classmethod
    def of(cls, world: FactbookWorld) -> Facts:
        """Reads them."""
        return cls(world, {f: {v.page: v for v in values_of(f, world)} for f in FIELDS})

    @cached_property
    def numbers(self) -> tuple[Field, ...]:
        """Fields that can be compared."""
        return tuple(each for each in FIELDS if each.kind == "number")

    def usual_label(self, asked: Field) -> str:
        """The name of a field with the edition that most pages have, as other questions name it."""
        editions = Counter(value.edition for value in self.values[asked].values())
        [(edition, _)] = editions.most_common(1)
        return f"{asked.label} ({edition})" if edition else asked.label

    def name(self, page: str) -> str:
        """The name of a page."""
        return self.world.pages[page].name


def all_questions(world: FactbookWorld) -> list[Question]:
    """Every question, page by page; each chain of evidence with its answer stands once."""
    facts = Facts.of(world)
    found: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Question] = {}
    ends: Counter[str] = Counter()
    for start in world.pages:
        if start in ("world", "european-union"):
            continue
        for kind, count in KINDS.items():
            draws = Draws(f"{kind}/{start}")
            made = 0
            for _ in range(count * _TRIES):
                question = _MAKERS[kind](facts, start, draws) if made < count else None
                if question is None or not 2 <= len(question.gold) + _is_open(question) <= MAX_HOPS:
                    continue
                key = (question.kind, question.gold, question.answers)
                end = page_of(question.gold[-1])
                if key not in found and ends[end] < MAX_PER_END:
                    found[key] = question
                    ends[end] += 1
                    made += 1
    return list(found.values())


def _is_open(question: Question) -> bool:
    """True where the last section is one that is not there."""
    return question.kind == "unanswerable"


def _linked(facts: Facts, start: str, draws: Draws) -> Question | None:
    path = _path(facts, start, draws)
    asked = draws.pick(FIELDS)
    value = facts.values[asked].get(path.end) if path else None
    if path is None or value is None:
        return None
    texts = sentences(ASKED, field=same(_labelled(asked, value)), place=path.texts)
    return _question("linked", start, texts, asked, value, (*path.gold, value.section_id))


def _unanswerable(facts: Facts, start: str, draws: Draws) -> Question | None:
    path = _path(facts, start, draws)
    sections = facts.world.pages[path.end].fields if path else {}
    missing = [asked for asked in FIELDS if asked.section not in sections]
    if path is None or not missing:
        return None
    asked = draws.pick(missing)
    return Question(
        kind="unanswerable",
        start=start,
        texts=sentences(ASKED, field=same(facts.usual_label(asked)), place=path.texts),
        answers=_UNANSWERABLE,
        answer_kind="unanswerable",
        gold=path.gold,
    )


def _compared(facts: Facts, start: str, draws: Draws) -> Question | None:
    by = draws.pick(facts.numbers)
    first = facts.values[by].get(start)
    if first is None:
        return None
    others = [
        value
        for page, value in facts.values[by].items()
        if page != start and value.edition == first.edition and _are_apart(value, first)
    ]
    values = [first, *draws.some(others, 1 + draws.below(4))]
    names = _listed([facts.name(value.page) for value in sorted(values, key=lambda v: v.page)])
    return _of_winner("compared", facts, start, draws, by, values, (), same(names))


def _extreme(facts: Facts, start: str, draws: Draws) -> Question | None:
    by = draws.pick(facts.numbers)
    members, gold, words = _set_of(facts, start, draws)
    values = [facts.values[by][page] for page in members if page in facts.values[by]]
    if not 2 <= len(values) == len(members):
        return None
    return _of_winner("extreme", facts, start, draws, by, values, gold, words)


def _of_winner(
    kind: str,
    facts: Facts,
    start: str,
    draws: Draws,
    by: Field,
    values: Sequence[Value],
    gold: tuple[str, ...],
    words: Words,
) -> Question | None:
    """Asks for another field of the page that comes first or last."""
    is_highest = draws.below(2) == 0
    ranked = sorted(values, key=lambda value: -value.number if is_highest else value.number)
    if (
        len(ranked) < 2
        or not _are_apart(ranked[0], ranked[1])
        or len({v.edition for v in values}) > 1
    ):
        return None
    place, end = same("{}"), ranked[0].page
    way: tuple[str, ...] = ()
    steps = steps_from(facts.world, end)
    # One search for the question would list the answer of most comparisons: the winner is named
    # there, and so is the field. Four of five go one step further.
    if kind == "compared" and steps and draws.below(5) > 0:
        place, end, section = draws.pick(steps)
        way = (section,)
    asked = draws.pick([each for each in FIELDS if each.section != by.section])
    value = facts.values[asked].get(end)
    if value is None or (way and end in {each.page for each in values}):
        return None
    most = "greatest" if is_highest else "smallest"
    labelled = same(_labelled(by, ranked[0]))
    winner = worded(WINNER, words=words, most=same(most), field=labelled)
    texts = sentences(ASKED, field=same(_labelled(asked, value)), place=filled(place, winner))
    read = (*gold, *(each.section_id for each in values), *way, value.section_id)
    return _question(kind, start, texts, asked, value, read)


def _filtered(facts: Facts, start: str, draws: Draws) -> Question | None:
    by = draws.pick(facts.numbers)
    members, gold, words = _set_of(facts, start, draws)
    values = [facts.values[by][page] for page in members if page in facts.values[by]]
    ranked = sorted(values, key=lambda value: value.number)
    if not 3 <= len(values) == len(members) or len({value.edition for value in values}) > 1:
        return None
    place = 1 + draws.below(len(ranked) - 1)
    bound = ranked[place - 1]
    above = [value for value in values if value.number > bound.number]
    if not _are_apart(bound, ranked[place]) or len(above) == len(values):
        return None
    article = "an" if by.label[0] in "aeiou" else "a"
    limit = same(f"{article} {_labelled(by, bound)} above {bound.text}")
    read = (*gold, *(value.section_id for value in values))
    names = tuple(facts.name(value.page) for value in above)
    if draws.below(3) == 0:
        forms, answers, kind = COUNTED, (str(len(above)),), "number"
    else:
        forms, answers = LISTED, (", ".join(names),)
        kind = "list" if len(names) > 1 else "name"
    return Question(
        kind="filtered",
        start=start,
        texts=sentences(forms, words=words, limit=limit),
        answers=answers,
        answer_kind=kind,
        gold=read,
        is_computed=True,
    )


def _joined(facts: Facts, start: str, draws: Draws) -> Question | None:
    by = draws.pick([each for each in facts.numbers if each.unit != "%" or draws.below(4) == 0])
    named = [path for path in paths_from(facts.world, start) if path.is_named]
    path = draws.pick(named) if named else None
    first = facts.values[by].get(start)
    second = facts.values[by].get(path.end) if path else None
    if path is None or first is None or second is None or first.edition != second.edition:
        return None
    if path.end == start or not _are_apart(first, second):
        return None
    parts = {"field": same(_labelled(by, first)), "first": same(facts.name(start))}
    if draws.below(2) == 0:
        number = abs(first.number - second.number)
        forms = APART
    else:
        number = first.number + second.number
        forms = TOGETHER
        if by.unit in ("%", "years", "births", "deaths", "children", "liters", "$", "m"):
            return None
    answer = _number(number)
    unit = by.unit
    said = f"${answer}" if unit == "$" else f"{answer}{unit}" if unit == "%" else f"{answer} {unit}"
    return Question(
        kind="joined",
        start=start,
        texts=sentences(forms, **parts, place=path.texts),
        answers=tuple(dict.fromkeys((said.strip(), answer))),
        answer_kind="number",
        gold=(*path.gold, first.section_id, second.section_id),
        is_computed=True,
    )


_MAKERS: Final[Mapping[str, Callable[[Facts, str, Draws], Question | None]]] = {
    "linked": _linked,
    "compared": _compared,
    "extreme": _extreme,
    "filtered": _filtered,
    "joined": _joined,
    "unanswerable": _unanswerable,
}


def _path(facts: Facts, start: str, draws: Draws) -> Path | None:
    paths = paths_from(facts.world, start)
    return draws.pick(paths) if paths else None


def _set_of(facts: Facts, start: str, draws: Draws) -> tuple[list[str], tuple[str, ...], Words]:
    """A set that is listed on a page: neighbours, or members of an organisation with the start."""
    world = facts.world
    options: list[tuple[list[str], str, Words]] = []
    neighbors = world.neighbors.get(start, {})
    if 2 <= len(neighbors) <= MAX_HOPS - 2:
        words = filled(NEIGHBORS, same(facts.name(start)))
        options.append((list(neighbors), f"{start}#land-boundaries", words))
    for name, members in world.members.items():
        if start in members and 3 <= len(members) <= MAX_HOPS - 2:
            title = world.lists[name].removesuffix(" (organization)")
            is_water = title == world.lists[name]
            options.append(
                (list(members), name, filled(SHORE if is_water else MEMBERS, same(title)))
            )
    if not options:
        return [], (), same("")
    members_, section, words = draws.pick(options)
    return members_, (section,), words


def _question(
    kind: str, start: str, texts: Words, asked: Field, value: Value, gold: tuple[str, ...]
) -> Question:
    """A question whose answer stands in its last section."""
    bare = value.text
    if asked.kind == "number":
        bare = value.text.removesuffix(asked.unit).strip()
    return Question(
        kind=kind,
        start=start,
        texts=texts,
        answers=tuple(dict.fromkeys((value.text, bare))),
        answer_kind=asked.kind,
        gold=gold,
    )


def _labelled(asked: Field, value: Value) -> str:
    return f"{asked.label} ({value.edition})" if value.edition else asked.label


def _are_apart(first: Value, second: Value) -> bool:
    """True if two numbers differ by more than rounding."""
    return abs(first.number - second.number) > 0.03 * max(abs(first.number), abs(second.number))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: float) -> str:
    """A number as the source would write it."""
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return text or "0"
