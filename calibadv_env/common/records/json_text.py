"""Records of a JSON file: an object a line, or one list, or one object that holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.jsonl import read_jsonl
from calibadv_env.common.packed import DAMAGED, open_binary, unpacked_name
from calibadv_env.common.records.keys import KNOWN, QUESTION, find_key, squashed
from calibadv_env.errors import DataError

_CONTAINERS: Final = frozenset(
    {"data", "dataset", "questions", "examples", "rows", "records", "items", "instances"}
    | {"hits", "points", "matches", "result", "objects"}
    | {"texts", "chunks", "elements"}
    | {"results", "entries", "samples", "queries", "docs", "documents", "passages", "corpus"}
    | {"train", "dev", "valid", "validation", "val", "test"}
)
"""Keys of an object under which a file keeps its list of records."""
_SPLITS: Final = frozenset({"train", "dev", "valid", "validation", "val", "test"})
_DOCSTORE: Final = "docstore/data"
"""Key of LlamaIndex's stores, which keep their documents by id."""
_SPACE: Final = re.compile(r"[\s,]*")
_LINES_OF_TITLES: Final = 2
"""So many keys, at least, has an object that maps titles to texts."""


_LINE_ENDS: Final = (".jsonl", ".ndjson", ".jsonlines")
_QUESTION_MARKS: Final = ("?", "？", "؟")


def read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a JSON file, plain or gzip, each with ``file:line``.

    Lines of objects stream. Everything else is read whole: a list of objects, objects over
    several lines, one object that holds the list under a key such as ``data``, the columns of a
    data frame, or records by their id.

    Raises:
        DataError: if the file cannot be read or is malformed, as ``file:line: reason``.
    """
    if _is_lines(path):
        rows = read_jsonl(path)
        head = list(islice(rows, 2))
        if len(head) == 1:
            number, record = head[0]
            is_titles = not unpacked_name(path.name.lower()).endswith(_LINE_ENDS)
            yield from expanded(record, f"{path}:{number}", is_titles=is_titles)
            return
        for number, record in head:
            yield f"{path}:{number}", record
        for number, record in rows:
            yield f"{path}:{number}", record
        return
    yield from _read_whole(path)


def _is_lines(path: Path) -> bool:
    """True if the first line that is not blank is an object, or cannot begin a longer value."""
    try:
        with open_binary(path) as stream:
            line = next((line for line in stream if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
    except (OSError, *DAMAGED):
        return True
    text = line.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        return not isinstance(json.loads(text), list)
    except RecursionError:
        return True
    except ValueError:
        return not text.startswith((b"{", b"["))


def _read_whole(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open_binary(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not valid UTF-8: {error.reason} at byte {error.start}; `iconv -f WINDOWS-1252"
            f" -t UTF-8 {path.name} > NEW` makes it so, if it is Western European text"
        ) from error
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{path}:1: cannot read the file: {error}") from error
    decoder, position, line = json.JSONDecoder(), 0, 1
    is_rows = _begins_with_rows(decoder, text)
    in_list = False
    values: list[tuple[str, Any]] = []
    is_list = False
    while True:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        position = start
        if position >= len(text):
            if in_list:
                raise DataError(f"{path}:{line}: not valid JSON: the list has no end")
            break
        if text[position] == "[" and not in_list and not values and not is_rows:
            in_list, is_list, position = True, True, position + 1
            continue
        if text[position] == "]" and in_list:
            in_list, position = False, position + 1
            continue
        try:
            value, end = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise DataError(f"{path}:{line}: not valid JSON: nested too deeply") from error
        except json.JSONDecodeError as error:
            at = line + text.count("\n", position, error.pos)
            raise DataError(f"{path}:{at}: not valid JSON: {error.msg}") from error
        values.append((f"{path}:{line}", value))
        line += text.count("\n", position, end)
        position = end
    yield from _records_of(values, is_list=is_list)


def _begins_with_rows(decoder: json.JSONDecoder, text: str) -> bool:
    """True for a file with a list of plain values on every line."""
    start = _SPACE.match(text).end()  # type: ignore[union-attr]
    try:
        row, end = decoder.raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError):
        return False
    is_row = isinstance(row, list) and not any(isinstance(each, (dict, list)) for each in row[:1])
    return is_row and text[end:].lstrip().startswith("[")


def _from_rows(values: list[tuple[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a table in lists; the first may be its header, else columns are numbered."""
    first = values[0][1]
    is_header = all(isinstance(name, str) for name in first) and any(
        squashed(name) in KNOWN for name in first
    )
    for place, row in values[is_header:]:
        names = first if is_header else [str(i) for i in range(len(row))]
        yield place, dict(zip(names, row, strict=False))


def _records_of(
    values: list[tuple[str, Any]], *, is_list: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    if len(values) == 1 and isinstance(values[0][1], dict):
        yield from expanded(values[0][1], values[0][0], is_titles=not is_list)
        return
    if values and all(isinstance(value, list) for _, value in values):
        yield from _from_rows(values)
        return
    for place, value in values:
        if isinstance(value, str):
            yield place, {"text": value}
        elif isinstance(value, dict):
            yield place, value
        else:
            raise DataError(f"{place}: a list must hold JSON objects, got {type(value).__name__}")


def expanded(
    record: dict[str, Any], place: str, *, is_titles: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records that the only object of a file holds; itself if it is one.

    It may hold them in a list under a key such as ``data``, for each split one, as columns of
    equal length, as columns by row (pandas), by their id, or be a map from titles to texts or
    from questions to answers.

    Args:
        record: The object.
        place: Where it stands.
        is_titles: If false, it is no map from titles to texts, since it stands in a list or line.
    """
    question = find_key(record, QUESTION)
    if question is not None and isinstance(record[question], str):
        yield place, record
        return
    if isinstance(record.get(_DOCSTORE), dict):
        record = record[_DOCSTORE]
    found = [k for k, v in record.items() if squashed(k) in _CONTAINERS and _is_rows(v)]
    if "columns" in record and isinstance(record.get("data"), list) and not found:
        for number, row in enumerate(record["data"]):
            yield f"{place}: row {number}", dict(zip(record["columns"], row, strict=False))
    elif (inner := _lone_holder(record)) is not None:
        yield from expanded(inner, place)
    elif any(_by_id(v) for k, v in record.items() if squashed(k) in _SPLITS):
        for key, records in record.items():
            if squashed(key) in _SPLITS and _by_id(records):
                for name, row in records.items():
                    own = {"split": key} if "id" in row else {"split": key, "id": name}
                    yield f"{place}: {key}.{name}", {**own, **row}
    elif found:
        for key in found:
            split = {"split": key} if len(found) > 1 or squashed(key) in _SPLITS else {}
            for number, row in enumerate(record[key]):
                inner = row.get("row") if isinstance(row.get("row"), dict) else row
                yield f"{place}: {key}[{number}]", {**split, **inner}
    else:
        yield from _from_maps(record, place, is_titles=is_titles)


def _lone_holder(record: dict[str, Any]) -> dict[str, Any] | None:
    """The object under a key such as ``data`` that holds the list in its turn; None if none."""
    found = [v for k, v in record.items() if squashed(k) in _CONTAINERS and isinstance(v, dict)]
    is_holder = len(found) == 1 and any(
        squashed(k) in _CONTAINERS and _is_rows(v) for k, v in found[0].items()
    )
    return found[0] if is_holder else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _by_id(value: Any) -> bool:
    """True for records by their id, as ASQA has those of a split."""
    return isinstance(value, dict) and bool(value) and all(
        isinstance(row, dict) and find_key(row, QUESTION) is not None for row in value.values()
    )  # fmt: skip


def _from_chroma(record: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of what Chroma's ``collection.get()`` gives."""
    names, texts, metadatas = (_flat(record.get(k)) for k in ("ids", "documents", "metadatas"))
    rows = zip(names, texts, metadatas or [None] * len(names), strict=False)
    for number, (name, text, metadata) in enumerate(rows):
        own = metadata if isinstance(metadata, dict) else {}
        yield f"{place}: documents[{number}]", {**own, "id": name, "text": text}


def _flat(value: Any) -> list[Any]:
    """A list, of which a query's answers are lists themselves."""
    values = value if isinstance(value, list) else []
    is_nested = bool(values) and all(isinstance(each, list) for each in values)
    return [item for each in values for item in each] if is_nested else values


def _is_chroma(record: dict[str, Any]) -> bool:
    names, texts = _flat(record.get("ids")), _flat(record.get("documents"))
    return bool(names) and len(names) == len(texts) and all(isinstance(name, str) for name in names)


def _from_maps(
    record: dict[str, Any], place: str, *, is_titles: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    values = list(record.values())
    named = any(squashed(key) in KNOWN for key in record)
    if _is_chroma(record):
        yield from _from_chroma(record, place)
        return
    if {"inputs", "outputs"} <= set(record):  # LangSmith's, one example
        yield place, record
        return
    if values and all(isinstance(v, dict) and v for v in values):
        keys = list(values[0])
        if named and all(list(v) == keys for v in values):
            for key in keys:
                yield f"{place}: row {key}", {name: column[key] for name, column in record.items()}
            return
        if any(squashed(str(key)) in KNOWN or key == "__data__" for key in keys):
            for key, value in record.items():
                own = {} if "id" in value or "_id" in value else {"id": key}
                yield f"{place}: {key!r:.80}", {**own, **value}
            return
    if len(values) > 1 and named and all(isinstance(v, list) for v in values):
        sizes = {len(v) for v in values}
        if len(sizes) == 1:
            columns = ["question" if squashed(k) == "questions" else k for k in record]
            for number, row in enumerate(zip(*values, strict=True)):
                yield f"{place}: row {number}", dict(zip(columns, row, strict=True))
            return
    if record and all(key.strip().endswith(_QUESTION_MARKS) for key in record):
        for key, value in record.items():
            yield f"{place}: {key!r:.80}", {"question": key, "answers": value}
        return
    if (
        is_titles
        and not named
        and len(values) >= _LINES_OF_TITLES
        and all(_is_text(v) for v in values)
    ):
        for key, value in record.items():
            text = value if isinstance(value, str) else " ".join(s.strip() for s in value)
            yield f"{place}: {key!r:.80}", {"title": key, "text": text}
        return
    yield place, record


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
