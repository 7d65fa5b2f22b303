r"""All reading and writing of JSONL files: one JSON object a line, plain or gzip.

A file is read whole or not at all: the first bad line raises :class:`DataError` as
``file:line: reason``. Whether a file is gzip is told from its first two bytes, not its name.
Lines end at ``\n`` alone, so U+2028 and its like stay inside a text. Lines of white space are
skipped, a byte-order mark at the start is dropped.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

from calibadv_env.data.base import QATask
from calibadv_env.errors import DataError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_TASK_KEYS: Final = frozenset(
    {"id", "question", "golden_answers", "metadata", "gold_passages", "hops"}
)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads the records of a JSONL file one by one.

    Args:
        path: A plain or gzip file.

    Yields:
        The number of the line, from 1, and its object.

    Raises:
        DataError: if the file cannot be read, or a line is not a JSON object in valid UTF-8.
    """
    path = Path(path)
    try:
        stream = open_binary(path)
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
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot read the file: {error}") from error


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
    path = Path(path)
    handle, partial_name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    partial = Path(partial_name)
    try:
        with os.fdopen(handle, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    packed.writelines(_format_line(record) for record in records)
            else:
                raw.writelines(_format_line(record) for record in records)
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink()
        raise


def read_tasks(path: str | Path) -> list[QATask]:
    """Reads tasks in FlashRAG's format.

    Each line holds ``id``, ``question``, ``golden_answers`` and, if known, ``metadata`` (an
    object), ``gold_passages`` (for each hop a list of passage ids, any of which will do) and
    ``hops`` (by default the number of hops in ``gold_passages``). Any further key, such as
    ``choices``, is kept in the metadata under its own name.

    Args:
        path: A plain or gzip JSONL file.

    Returns:
        The tasks in file order, at least one.

    Raises:
        DataError: if the file cannot be read, is empty, has a malformed line or repeats an id.
    """
    tasks: list[QATask] = []
    seen: dict[str, int] = {}
    for number, record in read_jsonl(path):
        try:
            task = parse_task(record)
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        if task.id in seen:
            raise DataError(f"{path}:{number}: id {task.id!r} stands in line {seen[task.id]} too")
        seen[task.id] = number
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}:1: the file holds no task")
    return tasks


def write_tasks(path: str | Path, tasks: Iterable[QATask]) -> None:
    """Writes tasks so that :func:`read_tasks` gives them back.

    Args:
        path: The file to write, compressed if its name ends in ``.gz``.
        tasks: The tasks, in order.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if the metadata of a task cannot be written as JSON.
    """
    write_jsonl(path, (_task_record(task) for task in tasks))


def parse_task(record: Mapping[str, Any]) -> QATask:
    """Makes a task of one JSON object in the format of :func:`read_tasks`.

    Args:
        record: The object.

    Returns:
        The task.

    Raises:
        ValueError: if a key is missing or a value has the wrong type, naming the key.
    """
    answers = _string_list(record, "golden_answers")
    gold = record.get("gold_passages")
    gold = [] if gold is None else gold
    if not isinstance(gold, list):
        raise ValueError(f"gold_passages must be a list of lists, got {type(gold).__name__}")
    hops = record.get("hops")
    hops = len(gold) if hops is None else hops
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 0:
        raise ValueError(f"hops must be a whole number of at least 0, got {hops!r}")
    return QATask(
        id=text_field(record, "id"),
        question=text_field(record, "question"),
        golden_answers=answers,
        gold_passages=tuple(
            _string_list({f"gold_passages[{i}]": hop}, f"gold_passages[{i}]")
            for i, hop in enumerate(gold)
        ),
        hops=hops,
        metadata=_metadata(record),
    )


def text_field(record: Mapping[str, Any], key: str, *, allow_empty: bool = False) -> str:
    """Takes a string out of a record.

    Args:
        record: A JSON object.
        key: The key wanted.
        allow_empty: Whether the empty string will do.

    Returns:
        The string as it stands.

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


def open_binary(path: Path) -> IO[bytes]:
    """Opens a plain or gzip file; which it is is told from its first two bytes."""
    with path.open("rb") as raw:
        is_gzip = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if is_gzip else path.open("rb")


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


def _string_list(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if key not in record:
        raise ValueError(f"key {key!r} is missing")
    values = record[key]
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{key} must be a list of strings, got {type(values).__name__}")
    if not values:
        raise ValueError(f"{key} must not be empty")
    return tuple(text_field({f"{key}[{i}]": v}, f"{key}[{i}]") for i, v in enumerate(values))


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be an object, got {type(metadata).__name__}")
    extra = {key: value for key, value in record.items() if key not in _TASK_KEYS}
    for key in extra:
        if key in metadata:
            raise ValueError(f"key {key!r} stands in the line and in its metadata")
    return {**metadata, **extra}


def _task_record(task: QATask) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": task.id,
        "question": task.question,
        "golden_answers": list(task.golden_answers),
    }
    if task.gold_passages:
        record["gold_passages"] = [list(hop) for hop in task.gold_passages]
    if task.hops != len(task.gold_passages):
        record["hops"] = task.hops
    if task.metadata:
        record["metadata"] = dict(task.metadata)
    return record
