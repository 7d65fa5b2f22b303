"""What the columns of a table without a header hold, by the look of its first rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any, Final, TypeAlias

_ROWS: Final = 50
"""Rows that are looked at."""
_MARKS: Final = ("?", "？", "؟")
_SHARE: Final = 0.5
_LONG_TITLE: Final = 120
"""Letters beyond which nothing is a title."""

Placed: TypeAlias = tuple[str, Mapping[str, Any]]


def peeked(records: Iterable[Placed]) -> tuple[list[Mapping[str, Any]], Iterator[Placed]]:
    """The first records if they are rows without a header, else none; and all of them again."""
    rest = iter(records)
    held = list(islice(rest, 1))
    if held and is_numbered(held[0][1]):
        held += islice(rest, _ROWS)
        return [record for _, record in held], chain(held, rest)
    return [], chain(held, rest)


def file_of(place: str) -> str:
    """The file of a place such as ``quiz.csv:7``; "" where the place names none."""
    return place.rpartition(":")[0]


def by_file(
    records: Iterable[Placed],
) -> Iterator[tuple[list[Mapping[str, Any]], Iterator[Placed]]]:
    """What :func:`peeked` gives, for each file of a stream anew; each is to be used up in turn."""
    for _, of_file in groupby(records, lambda placed: file_of(placed[0])):
        yield peeked(of_file)


def is_numbered(record: Mapping[str, Any]) -> bool:
    """True for a row whose keys are the numbers of its columns."""
    return bool(record) and list(record) == [str(i) for i in range(len(record))]


def passage_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of ``id``, ``title`` and ``text`` in rows of passages.

    The text is the longest. An id is the first column before or behind it that holds one word in
    every row, and each once; the title a short column beside them that is no number or address.
    MS MARCO's passages, DPR's ``psgs_w100`` and MS MARCO's documents are so understood.
    """
    columns = _columns(rows)
    spoken = [name for name in columns if _share(columns[name], _is_address) <= _SHARE]
    text = max(spoken, key=lambda name: (sum(map(len, columns[name])), name), default="")
    if not text:
        return {}
    found = {"text": text}
    others = [name for name in columns if name != text]
    number = next((name for name in others if _are_ids(columns[name])), None)
    if number is not None:
        found["id"] = number
    title = next((n for n in others if n != number and _are_titles(columns[n])), None)
    if title is not None:
        found["title"] = title
    return found


def question_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of ``id``, ``question`` and ``answers`` in rows of questions.

    The question is the first column of which most cells end in a question mark; the answer the
    only one beside it and the id. Empty where that leaves it open.
    """
    columns = _columns(rows)
    asked = [name for name, cells in columns.items() if _share(cells, _asks) > _SHARE]
    if not asked:
        return {}
    others = [name for name in columns if name != asked[0]]
    numbers = [name for name in others if len(others) > 1 and _are_ids(columns[name])]
    answers = [name for name in others if name not in numbers[:1]]
    if len(answers) != 1:
        return {}
    found = {"question": asked[0], "answers": answers[0]}
    return found | ({"id": numbers[0]} if numbers else {})


def said(columns: Mapping[str, str], flag: str) -> str:
    """A sentence on what was guessed, and how to say otherwise."""
    taken = ", ".join(f"column {number} is the {name}" for name, number in columns.items())
    given = ",".join(f"{name}={number}" for name, number in columns.items())
    return f"no header, so by the look of the rows {taken}; {flag} {given} says it"


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [str(row.get(name) or "").strip() for row in rows] for name in names}


def _share(cells: Sequence[str], is_so: Any) -> float:
    return sum(map(is_so, cells)) / len(cells) if cells else 0.0


def _asks(cell: str) -> bool:
    return cell.rstrip("\"' ").endswith(_MARKS)


def _is_address(cell: str) -> bool:
    return cell.startswith(("http://", "https://"))


def _are_ids(cells: Sequence[str]) -> bool:
    is_each_once = len(set(cells)) == len(cells)
    return is_each_once and all(cell and not any(map(str.isspace, cell)) for cell in cells)


def _are_titles(cells: Sequence[str]) -> bool:
    def is_none(cell: str) -> bool:
        is_number = cell.replace(".", "", 1).isdecimal()
        return not cell or is_number or _is_address(cell) or len(cell) > _LONG_TITLE

    return _share(cells, is_none) <= _SHARE
