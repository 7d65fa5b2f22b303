"""Rows of tables: CSV and TSV, with a header or without."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Final

from calibadv_env.common.packed import DAMAGED, open_binary
from calibadv_env.common.records.keys import KNOWN, squashed
from calibadv_env.errors import DataError

_DELIMITERS: Final = ("\t", ",", ";")
_RARE: Final = "|"
"""Parts the cells only where a known name stands between two of it."""
_WORDS_OF_A_NAME: Final = 4
_LINES_ABOVE: Final = 8
"""So many lines, at most, are looked through for the header."""
_CELL_LIMIT: Final = 2**31 - 1
_LINES_OF_A_CELL: Final = 200
"""So far on, at most, a quotation mark at the beginning of a cell is looked for its partner."""


def read_table(
    path: str | Path, required: str = "", *, keep_blank: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads the rows of a table, one by one.

    The delimiter is a comma, a semicolon or a tab, whichever the header has. A table whose first
    line holds no known name, but a number, a list or a sentence, has no header; its columns are
    then called "0", "1", ….
    Between tabs a quotation mark is an ordinary sign, unless it surrounds the whole cell.
    Blank rows are skipped, blank cells left out, a byte-order mark dropped; so are a line ``sep=;``
    of a spreadsheet, and a few lines of remarks above a header with known names.

    Args:
        path: A plain or gzip file in UTF-8, or in UTF-16 with its mark.
        required: A column that must be there; "" for none.
        keep_blank: If true, a blank cell is a blank text.

    Yields:
        The number of the row's last line, from 1, and its cells by column.

    Raises:
        DataError: if the file cannot be read, the column is missing, a column stands twice, or a
            row has more cells than the header.
    """
    path = Path(path)
    try:
        stream = open_binary(path)
    except DAMAGED as error:
        raise DataError(f"{path}:1: cannot read the file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror}") from error
    old_limit = csv.field_size_limit(_CELL_LIMIT)
    number = 0
    try:
        with stream, io.TextIOWrapper(stream, encoding=_encoding(path), newline="") as text:
            lines = iter(text)
            above, held = (0, []) if required else _first_lines(lines)
            lines = chain(held, lines)
            header = next(lines, "")
            delimiter = _delimiter(header)
            names = next(csv.reader([header], delimiter=delimiter), [])
            has_header = bool(required) or not _is_data(names)
            columns = _checked_header(path, names, required) if has_header else _numbered(names)
            rest = lines if has_header else chain([header], lines)
            rows = _tab_rows(rest, columns) if delimiter == "\t" else _csv_rows(rest, delimiter)
            for count, cells in rows:
                number = count + has_header + above
                row = _row(path, number, columns, cells)
                if row and keep_blank:
                    row = {name: row.get(name, "") for name in columns if name}
                if row:
                    yield number, row
    except UnicodeError as error:
        raise DataError(_bad_encoding(path, number, error)) from error
    except (csv.Error, OSError, *DAMAGED) as error:
        raise DataError(f"{path}:{number + 1}: cannot read the table: {error}") from error
    finally:
        csv.field_size_limit(old_limit)


def _bad_encoding(path: Path, number: int, error: UnicodeError) -> str:
    return (
        f"{path}: not valid UTF-8 after line {number}: {getattr(error, 'reason', error)}; save the "
        f"table as UTF-8 (`iconv -f WINDOWS-1252 -t UTF-8 {path.name} > NEW`, if it is Western "
        "European text)"
    )


def _first_lines(lines: Iterator[str]) -> tuple[int, list[str]]:
    """The first line of a table and some after it, and the number of lines above it.

    Blank lines stand above it; so do ``sep=;``, and remarks of one cell above a header.
    """
    held = list(islice(lines, _LINES_ABOVE))
    first = next((i for i, line in enumerate(held) if line.strip()), len(held))
    for number in range(first + 1, len(held)):
        delimiter = _delimiter(held[number])
        is_header = sum(squashed(c) in KNOWN for c in held[number].split(delimiter)) > 1
        above = held[first:number]
        if is_header and all(_is_remark(line, delimiter) for line in above):
            return number, held[number:]
    return first, held[first:]


def _is_remark(line: str, delimiter: str) -> bool:
    cells = [cell for cell in line.split(delimiter) if cell.strip()]
    is_mark = line.lower().startswith("sep=")
    return is_mark or (len(cells) < 2 and not any(squashed(cell) in KNOWN for cell in cells))


def _delimiter(header: str) -> str:
    """The sign that the first line is parted by.

    It is the one that leaves a known name standing alone; in a line without any the tab if there
    is one, since texts hold commas and hardly ever tabs.
    """
    marks = (*_DELIMITERS, _RARE)
    known = [mark for mark in marks if any(squashed(c) in KNOWN for c in header.split(mark)[1:])]
    if not known and "\t" in header:
        return "\t"
    return max(known or _DELIMITERS, key=header.count)


def _is_data(cells: list[str]) -> bool:
    """True for a first line that is no header."""
    if any(squashed(cell) in KNOWN for cell in cells):
        return False
    return any(
        cell.strip().isdigit()
        or cell.startswith(("[", "http://", "https://"))
        or cell.rstrip().endswith("?")
        or len(cell.split()) > _WORDS_OF_A_NAME
        for cell in cells
    )


def _encoding(path: Path) -> str:
    with open_binary(path) as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _csv_rows(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    for cells in reader:
        yield reader.line_num, cells


def _tab_rows(lines: Iterator[str], columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows between tabs. Most such files quote nothing; those of pandas quote as CSV does."""
    waiting: list[str] = []
    number = 0
    while True:
        line = waiting.pop(0) if waiting else next(lines, "")
        if not line:
            return
        number += 1
        cells = line.rstrip("\r\n").split("\t")
        if _is_open(cells):
            held = [line]
            while sum(part.count('"') for part in held) % 2 and len(held) < _LINES_OF_A_CELL:
                following = waiting.pop(0) if waiting else next(lines, "")
                if not following:
                    break
                held.append(following)
            joined = _joined(held, len(columns))
            if joined is not None:
                number += len(held) - 1
                yield number, joined
                continue
            waiting = held[1:] + waiting
        yield number, [_unquoted(cell) for cell in cells]


def _is_open(cells: list[str]) -> bool:
    """True if a cell begins with a quotation mark whose partner is not in it."""
    return any(cell.startswith('"') and cell.count('"') % 2 for cell in cells)


def _joined(lines: list[str], num_columns: int) -> list[str] | None:
    """The cells of a row over several lines; None if they are no such row."""
    try:
        rows = list(csv.reader(lines, delimiter="\t", strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 and len(rows[0]) == num_columns else None


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    is_quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _numbered(cells: list[str]) -> list[str]:
    return [str(i) for i in range(len(cells))]


def _checked_header(path: Path, cells: list[str], required: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if required and required not in columns:
        raise DataError(f"{path}:1: the header must have a column {required!r}, got {columns}")
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise DataError(f"{path}:1: each column must stand once in the header, got {twice} twice")
    return columns


def _row(path: Path, number: int, columns: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
        raise DataError(
            f"{path}:{number}: a row must have at most {len(columns)} cells, got {len(cells)}; put "
            "a cell that holds the delimiter between double quotes"
        )
    pairs = zip(columns, cells, strict=False)
    return {column: cell.strip() for column, cell in pairs if column and cell.strip()}
