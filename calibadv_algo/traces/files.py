"""Reads files of logged rollouts: records of any shape, in JSON lines or JSON, also packed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.conversation import is_conversation
from calibadv_algo.traces.fields import lookup
from calibadv_algo.traces.message_lines import are_messages, as_record
from calibadv_algo.traces.reader import TraceReader, find_reader, reader_named, readers
from calibadv_env.common.packed import DAMAGED, PackedError, open_binary, unpacked_name

SUFFIXES: Final = (".jsonl", ".json", ".ndjson", ".eval")
"""Ends of the names of logs; ``.gz`` or another such end may follow."""

_CONTAINERS: Final = (
    "samples", "rollouts", "trajectories", "results", "data", "records", "items", "episodes",
    "outputs", "responses", "generations", "traces", "examples", "predictions",
)  # fmt: skip
"""Fields of an object that hold a list of records."""

_SAMPLE: Final = 20
"""Lines by which it is told whether each is a message."""
_ZIP: Final = b"PK\x03\x04"
_LFS: Final = "version https://git-lfs.github.com/spec"

Records = Iterator[tuple[str, Mapping[str, Any]]]


# ---- Files ---------------------------------------------------------------------------------------


def log_files(source: Path) -> list[Path]:
    """The files of a source: itself, or the logs in a folder or in its ``trajectories``.

    Where a folder holds none, those in the folders within it. Those with numbers for names stand
    in the order of the numbers.

    Raises:
        TraceError: if there is none.
    """
    if source.is_file():
        return [source]
    found, inner = _logs(source.glob("*")), _logs((source / "trajectories").glob("*"))
    # Settings and sums of a run of ours lie beside its trajectories as .json.
    if inner and not any(".jsonl" in path.name for path in found):
        return inner
    if found:
        return found
    deeper = _logs(source.rglob("*")) if source.is_dir() else []
    if deeper:
        return deeper
    what = "holds no .jsonl, .json or .eval file" if source.is_dir() else "is missing"
    raise TraceError(f"{source} {what}")


def _logs(paths: Iterator[Path]) -> list[Path]:
    found = [
        path
        for path in paths
        if unpacked_name(path.name.lower()).endswith(SUFFIXES)
        and path.is_file()
        and not path.name.startswith(".")
    ]
    return sorted(found, key=_natural)


def stem_of(path: Path) -> str:
    """The name of a file without its suffixes."""
    return Path(unpacked_name(path.name)).stem


def _natural(path: Path) -> tuple[str, int, str]:
    stem = stem_of(path)
    return (str(path.parent), int(stem) if stem.isdigit() else -1, path.name)


# ---- Records -------------------------------------------------------------------------------------


def iterate_records(path: Path) -> Records:
    """Reads the objects of a file: JSON lines, a list, one object, or the samples of an ``.eval``.

    The content tells which; gzip is told by its first bytes. A list of messages is one record.

    Yields:
        Place (file and line, or number in the list) and object; empty lines are passed over.

    Raises:
        TraceError: if the file cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as raw:
            is_zip = raw.read(4) == _ZIP
        yield from _zipped(path) if is_zip and _is_inspect(path) else _plain(path)
    except PackedError as error:
        raise TraceError(str(error)) from error
    except (OSError, *DAMAGED, NotImplementedError) as error:
        raise TraceError(f"{path}: cannot read the file: {error}") from error


def _plain(path: Path) -> Records:
    with open_binary(path) as stream:
        head = _decoded(stream.readline(), path, 1).strip()
        while not head and (line := stream.readline()):
            head = _decoded(line, path, 1).strip()
    if head.startswith(_LFS):
        raise TraceError(f"{path}: is a Git LFS pointer, not the file; get it with `git lfs pull`")
    is_whole = head[:1] == "[" or (head[:1] == "{" and not _is_value(head))
    if is_whole and unpacked_name(path.name.lower()).endswith((".jsonl", ".ndjson")):
        # JSON lines with a fault in the first line are more likely than a spread-out object.
        is_whole = head in ("[", "{")
    if is_whole:
        yield from _whole(path)
        return
    rows = _lines(path)
    first = list(islice(rows, _SAMPLE))
    if are_messages([record for _, record in first]):
        yield first[0][0], as_record(record for _, record in chain(first, rows))
        return
    yield from chain(first, rows)


def _is_value(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path) -> Records:
    with open_binary(path) as lines:
        for number, raw in enumerate(lines, start=1):
            line = _decoded(raw, path, number)
            if line.strip():
                where = f"{path}:{number}"
                yield where, _object(_parsed(line, where), where)


def _whole(path: Path) -> Records:
    with open_binary(path) as stream:
        text = _decoded(stream.read(), path, None)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise TraceError(f"{path}:1: nested too deeply") from error
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and is_conversation(value) and not any(map(find_reader, value)):
        values = [{"messages": value}]
    for number, each in enumerate(values, start=1):
        where = f"{path}:{number}"
        yield where, _object(each, where)


def _is_inspect(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.startswith("samples/") for name in archive.namelist())


def _zipped(path: Path) -> Records:
    """The samples of an ``.eval`` of Inspect, which is a zip of JSON files."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("samples/")]
        for name in sorted(names):
            where = f"{path}:{name}"
            yield where, _object(_parsed(_decoded(archive.read(name), path, None), where), where)


def _decoded(raw: bytes, path: Path, number: int | None) -> str:
    try:
        return raw.decode("utf-8-sig" if number in (1, None) else "utf-8")
    except UnicodeDecodeError as error:
        line = "" if number is None else f":{number}"
        raise TraceError(f"{path}{line}: not UTF-8: {error.reason}") from error


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{where}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise TraceError(f"{where}: nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise TraceError(f"{where}: not valid JSON: {error}") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{where}: must be an object, got {type(value).__name__}")
    return value


# ---- Rollouts ------------------------------------------------------------------------------------


def iterate_episodes(
    path: Path, place: Place, wanted: TraceReader | None
) -> Iterator[list[LoggedEpisode]]:
    """The rollouts of every record of a file.

    Args:
        path: The file.
        place: Step and fields, which hold for all records.
        wanted: The reader; None tells it by every record.

    Raises:
        TraceError: naming file and line, if a record cannot be read.
    """
    named = next((kind for name, kind in _NAMED if name in place.fields), None)
    if wanted is None and named is not None:
        wanted = reader_named(named)
    reader = wanted
    for where, record in iterate_records(path):
        named_records = [] if wanted else _by_name(record)
        found = None if named_records else wanted or find_reader(record)
        inner = named_records or (unpacked(record) if found is None else [])
        if found is None and not inner and reader is None:
            raise UnknownShapeError(_unknown(record, where))
        reader = found or reader
        here = Place(where=where, step=place.step, group_by=place.group_by, fields=place.fields)
        if not inner:
            if reader is None:
                raise UnknownShapeError(_unknown(record, where))
            yield reader.episodes(record, here)
            continue
        episodes: list[LoggedEpisode] = []
        for number, each in enumerate(inner, start=1):
            nested = find_reader(each)
            if nested is None:
                raise UnknownShapeError(_unknown(each, f"{where}, record {number}"))
            spot = Place(where=f"{where}, record {number}", step=here.step, group_by=here.group_by,
                         fields=here.fields)  # fmt: skip
            episodes += nested.episodes(each, spot)
        yield episodes


class UnknownShapeError(TraceError):
    """A record is of no shape that is known."""


def unpacked(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records in an object that holds several: in a list, or one by name.

    Each has the simple fields of the object too, where it has none of its own, as in
    ``{"question": …, "rollouts": [{"messages": …}, …]}``. Lists that run side by side, as in
    ``{"prompt": …, "responses": ["…", "…"], "scores": [1, 0]}``, are records of one item each.
    """
    shared = {k: v for k, v in record.items() if not _is_records(v)}
    for key in (*_CONTAINERS, *record):
        value = record.get(key)
        if _is_records(value):
            inner = [{**shared, **each} for each in value]  # type: ignore[union-attr]
            if find_reader(inner[0]) is not None:
                return inner
    inner = _side_by_side(record)
    if inner and find_reader(inner[0]) is not None:
        return inner
    values = list(record.values())
    if values and all(isinstance(each, Mapping) for each in values) and find_reader(values[0]):
        return [{"id": name, **each} for name, each in record.items()]
    if values and all(_is_records(each) for each in values) and find_reader(values[0][0]):
        return [{"id": name, **each} for name, many in record.items() for each in many]
    return []


def _by_name(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rollouts of an object that holds nothing else, each under a name; [] for another one."""
    values = list(record.values())
    if not values or not all(isinstance(each, Mapping) and find_reader(each) for each in values):
        return []
    if len(values) == 1:
        return [dict(values[0])]
    return [{"id": name, **each} for name, each in record.items()]


def _is_records(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)
    )


def _side_by_side(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = ("responses", "outputs", "completions", "response", "output", "generations",
             "messages", "trajectories")  # fmt: skip
    name = next((each for each in names if _is_many(record.get(each))), None)
    if name is None:
        return []
    number = len(record[name])
    lists = {
        k
        for k, v in record.items()
        if k == name or (k in _PER_ROLLOUT and isinstance(v, list) and len(v) == number)
    }
    single = {"responses": "response", "outputs": "output", "completions": "completion",
              "generations": "generation", "trajectories": "trajectory"}  # fmt: skip
    return [
        {single.get(k, k): v[i] if k in lists else v for k, v in record.items()}
        for i in range(number)
    ]


_NAMED: Final = (("messages", "messages"), ("response", "search-r1"))
"""Readers of the records of which the user named the field with the rollout."""

_PER_ROLLOUT: Final = frozenset(
    {"score", "scores", "reward", "rewards", "em", "f1", "acc", "correct", "is_correct",
     "prediction", "pred", "preds", "predictions"}
)  # fmt: skip


def _is_many(value: Any) -> bool:
    """True for several responses: texts, or conversations."""
    return isinstance(value, list) and bool(value) and (
        all(isinstance(each, str) for each in value) or all(map(is_conversation, value))
    )  # fmt: skip


def _unknown(record: Mapping[str, Any], where: str) -> str:
    if isinstance(lookup(record, "response.body"), Mapping):
        return (
            f"{where}: a reply of the batch API without the messages that it replies to; put each "
            "request's body, which has the same custom_id in the file that was sent, beside it: "
            '{"custom_id": …, "body": {"messages": […]}, "response": {…}}'
        )
    known = "; ".join(f"{each.needs} ({each.name})" for each in readers() if each.needs)
    return (
        f"{where}: no known format: a rollout needs {known}; got the fields {sorted(record)[:12]}. "
        "--field messages=NAME or --field response=NAME names the field that holds the rollout"
    )
