"""Questions and documents in tables: CSV, TSV, and rows of any other origin.

A table of questions has the columns ``question`` and ``answer`` or ``answers``; one of documents
has ``text``. ``docs/datasets.md`` describes them.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.jsonl import open_binary
from calibadv_env.data.base import QATask, parse_task
from calibadv_env.data.reading import Reader, Row
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage

SEPARATOR: Final = "|"
"""Stands between the answers, or the documents, in one cell."""

_DELIMITERS: Final = (",", ";", "\t")
_CELL_LIMIT: Final = 2**31 - 1
_ANSWER_KEYS: Final = ("golden_answers", "answers", "answer")


def read_table(path: str | Path, required: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads the rows of a table with a header, one by one.

    The delimiter is a comma, a semicolon or a tab, whichever the header has. Blank rows are
    skipped, blank cells left out, a byte-order mark dropped.

    Args:
        path: A plain or gzip file in UTF-8.
        required: A column that must be there.

    Yields:
        The number of the row's last line, from 1, and its cells by column.

    Raises:
        DataError: if the file cannot be read, the column is missing, a column stands twice, or a
            row has more cells than the header.
    """
    path = Path(path)
    try:
        stream = open_binary(path)
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror}") from error
    old_limit = csv.field_size_limit(_CELL_LIMIT)
    number = 0
    try:
        with stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            lines = iter(text)
            header = next(lines, "")
            delimiter = max(_DELIMITERS, key=header.count)
            columns = next(csv.reader([header], delimiter=delimiter), [])
            columns = _checked_header(path, columns, required)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            for cells in reader:
                number = reader.line_num + 1
                row = _row(path, number, columns, cells)
                if row:
                    yield number, row
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not valid UTF-8 after line {number}: {error.reason}; save the table as UTF-8"
        ) from error
    except (csv.Error, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot read the table: {error}") from error
    finally:
        csv.field_size_limit(old_limit)


class TableReader(Reader):
    """Tables with a header: CSV and TSV."""

    name = "csv"
    suffixes = (".csv", ".tsv")

    def rows(self, source: str, split: str = "") -> Iterator[Row]:
        """Questions: see :func:`task_of_row`; the column ``split``, if there is one, says which.

        Raises:
            DataError: if the file or a row is faulty, as ``file:line: reason``.
        """
        for count, (number, cells) in enumerate(read_table(source, "question"), start=1):
            named = cells.pop("split", None)
            place = f"{source}:{number}"
            try:
                yield Row(place=place, task=task_of_row(cells, count), split=named)
            except ValueError as error:
                raise DataError(f"{place}: {error}") from error

    def passages(self, source: str) -> Iterator[tuple[str, Passage]]:
        """Documents, each one passage.

        The column ``text`` must be there, ``id`` and ``title`` may; without an ``id`` a document is
        called ``doc1``, ``doc2``, … by its place.

        Raises:
            DataError: if the file or a row is faulty, as ``file:line: reason``.
        """
        for count, (number, cells) in enumerate(read_table(source, "text"), start=1):
            if "text" not in cells:
                raise DataError(f"{source}:{number}: text must not be empty")
            passage = Passage(cells.get("id", f"doc{count}"), cells.get("title", ""), cells["text"])
            yield f"{source}:{number}", passage


READERS: Final = (TableReader(),)


def task_of_row(row: Mapping[str, Any], number: int) -> QATask:
    """The task of a row.

    Args:
        row: ``question``; the answers in ``golden_answers``, ``answers`` or ``answer`` (a list,
            or a text, which ``answers`` separates at ``|``); if known ``id``, ``documents`` (ids
            separated by ``|``, one a hop), ``gold_passages``, ``hops`` and ``metadata``. Whatever
            else it has goes into the metadata.
        number: Its place from 1, for a row without ``id``, which becomes ``row<number>``.

    Raises:
        ValueError: if a value is missing or has the wrong type, naming the column.
    """
    documents = row.get("documents")
    record = {key: value for key, value in row.items() if key not in _ANSWER_KEYS}
    key = next((key for key in _ANSWER_KEYS if row.get(key) is not None), None)
    if key is None:
        raise ValueError("a row must have an answer in the column answer or answers")
    value = row[key]
    if isinstance(value, str):
        value = _split_cell(value) if key == "answers" else [value]
    record["golden_answers"] = value
    record.setdefault("id", f"row{number}")
    if isinstance(record["id"], int) and not isinstance(record["id"], bool):
        record["id"] = str(record["id"])
    if isinstance(record.get("hops"), str) and record["hops"].strip().isdigit():
        record["hops"] = int(record["hops"])
    if isinstance(documents, str):
        del record["documents"]
        record["gold_passages"] = [[one] for one in _split_cell(documents)]
    return parse_task(record)


def _split_cell(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]


def _checked_header(path: Path, cells: list[str], required: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if required not in columns:
        raise DataError(f"{path}:1: the header must have a column {required!r}, got {columns}")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise DataError(f"{path}:1: each column must stand once in the header, got {twice} twice")
    return columns


def _row(path: Path, number: int, columns: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) > len(columns):
        raise DataError(
            f"{path}:{number}: a row must have at most {len(columns)} cells, got {len(cells)}; put "
            "a cell that holds the delimiter between double quotes"
        )
    pairs = zip(columns, cells, strict=False)
    return {column: cell.strip() for column, cell in pairs if column and cell.strip()}
