r"""Lines of JSON: one object a line, plain or compressed.

A file is read whole or not at all: the first bad line raises :class:`DataError` as
``file:line: reason``. How a file is compressed is told from its first bytes, not its name.
Lines end at ``\n`` alone, so U+2028 and its like stay inside a text. Lines of white space are
skipped, a byte-order mark at the start is dropped.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from calibadv_env.common.files import atomic_file
from calibadv_env.common.packed import DAMAGED, open_binary
from calibadv_env.errors import DataError

_T = TypeVar("_T")


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


_Named = TypeVar("_Named", bound=_HasId)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a plain or compressed JSONL file, each with the number of its line, from 1.

    Raises:
        DataError: if the file cannot be read, or a line is not a JSON object in valid UTF-8.
    """
    path = Path(path)
    try:
        stream = open_binary(path)
    except DAMAGED as error:
        raise DataError(f"{path}:1: cannot read the file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror}") from error
    number = 0
    try:
        with stream as lines:
            for number, line in enumerate(lines, start=1):
                record = _parse_line(line, is_first=number == 1)
                if record is not None:
                    yield number, record
    except _LineError as error:
        raise DataError(f"{path}:{number}: {error}") from error.__cause__
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{path}:{number + 1}: cannot read the file: {error}") from error


def read_parsed(
    path: str | Path, parse: Callable[[Mapping[str, Any]], _T]
) -> Iterator[tuple[str, _T]]:
    """The values that a function makes of a JSONL file's records, each with its ``file:line``.

    Raises:
        DataError: as for :func:`read_jsonl`, or with the place where ``parse`` raises ValueError.
    """
    for number, record in read_jsonl(path):
        try:
            yield f"{path}:{number}", parse(record)
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error


def distinct(rows: Iterable[tuple[str, _Named]]) -> Iterator[_Named]:
    """The items of pairs of place and item, whose ids must differ.

    Raises:
        DataError: at an id that came before, with both places.
    """
    places: dict[str, str] = {}
    for place, item in rows:
        if item.id in places:
            raise DataError(f"{place}: id {item.id!r} stands at {places[item.id]} too")
        places[item.id] = place
        yield item


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records, one a line, and puts the file in place only when it is complete.

    The same records give the same bytes; a name that ends in ``.gz`` is compressed.

    Args:
        path: The file to write; its folder must exist.
        records: Objects that JSON can hold.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if a record holds what JSON or UTF-8 cannot.
    """
    lines = (_format_line(record) for record in records)
    with atomic_file(path, "wb") as raw:
        if Path(path).suffix == ".gz":
            # Neither name nor time of the file, so that equal records give equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                packed.writelines(lines)
        else:
            raw.writelines(lines)


def text_field(record: Mapping[str, Any], key: str, *, allow_empty: bool = False) -> str:
    """A string of a record as it stands, checked.

    Args:
        record: A JSON object.
        key: The key wanted.
        allow_empty: If true, the empty string will do.

    Raises:
        ValueError: if the key is missing, or its value is no string, empty, or holds half of a
            surrogate pair, which no UTF-8 file can hold.
    """
    if key not in record:
        raise ValueError(f"key {key!r} is missing")
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {type(value).__name__}")
    if not allow_empty and not value.strip():
        raise ValueError(f"{key} must not be empty")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{key} holds an unpaired surrogate") from error
    return value


class _LineError(Exception):
    """One line is bad; the reader adds the place."""


def _parse_line(line: bytes, *, is_first: bool) -> dict[str, Any] | None:
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise _LineError(f"not valid UTF-8: {error.reason} at byte {error.start}") from error
    if not text.strip():
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _LineError(f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise _LineError(f"a line must hold a JSON object, got {type(record).__name__}")
    return record


def _format_line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except TypeError as error:
        raise ValueError(f"record cannot be written as JSON: {error}") from error
