"""Reads files of logged rollouts and finds out which rollouts belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_algo.traces.base import GROUP_KEYS, LoggedEpisode, TraceError, TraceFormat
from calibadv_algo.traces.messages import is_messages, read_messages
from calibadv_algo.traces.search_r1 import is_search_r1, read_search_r1
from calibadv_algo.traces.verifiers import is_verifiers, read_verifiers

Sign = Callable[[Mapping[str, Any]], bool]
"""True for a record of a format."""

Reader = Callable[[Mapping[str, Any], str, int, str | None], list[LoggedEpisode]]
"""Rollouts of a record, given its place, its step if it has none, and a field to group by."""

FORMATS: Final[dict[TraceFormat, tuple[Sign, Reader]]] = {
    "verifiers": (is_verifiers, read_verifiers),
    "messages": (is_messages, read_messages),
    "search-r1": (is_search_r1, read_search_r1),
}
"""Sign and reader of each format, in the order in which the signs are looked for."""

PROMPT: Final = "prompt"
"""Groups by identical prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """The rollouts of one file.

    Attributes:
        path: The file.
        format: Its format.
        groups: Rollouts that belong together, by the id of their group, in order.
        grouped_by: The field that says so, or ``prompt``.
        num_left_out: Records without a rollout: failed before the policy wrote anything.
    """

    path: Path
    format: TraceFormat
    groups: Mapping[str, tuple[LoggedEpisode, ...]]
    grouped_by: str
    num_left_out: int


def log_files(source: Path) -> list[Path]:
    """The files of a source: itself, or the JSON lines in a folder or in its ``trajectories``.

    Those with numbers for names stand in the order of the numbers.

    Raises:
        TraceError: if there is none.
    """
    if source.is_file():
        return [source]
    for folder in (source, source / "trajectories"):
        found = [path for path in folder.glob("*.jsonl") if path.is_file()]
        if found:
            return sorted(found, key=_natural)
    what = "holds no .jsonl file" if source.is_dir() else "is missing"
    raise TraceError(f"{source} {what}")


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdigit() else -1, path.name)


def iterate_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Reads the objects of a file: JSON lines, or with the suffix .json a list.

    Yields:
        Place (file and line, or number in the list) and object; empty lines are passed over.

    Raises:
        TraceError: if the file cannot be read, or a line is not a JSON object.
    """
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            rows = enumerate(values if isinstance(values, list) else [values], start=1)
            yield from ((f"{path}:{number}", _object(value, f"{path}:{number}"))
                        for number, value in rows)  # fmt: skip
            return
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, _object(_parsed(line, where), where)
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8: {error.reason}") from error


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{where}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise TraceError(f"{where}: nested too deeply") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{where}: must be an object, got {type(value).__name__}")
    return value


def detect_format(record: Mapping[str, Any], where: str) -> TraceFormat:
    """The format of a record, by its fields.

    Raises:
        TraceError: if it is none that is known.
    """
    for name, (is_it, _) in FORMATS.items():
        if is_it(record):
            return name
    raise TraceError(
        f"{where}: no known format: a rollout needs prompt and response (search-r1), messages "
        f"(messages), or what vf-eval writes (verifiers); got the fields {sorted(record)[:12]}"
    )


def read_log(
    path: Path, format: TraceFormat | None = None, *, group_by: str | None = None
) -> LogFile:
    """The rollouts of one file, in groups.

    Args:
        path: The file.
        format: Its format; None tells it by the first record.
        group_by: Field that names the group of a rollout, with dots for fields within fields, or
            ``prompt``. None takes the first of the usual fields that all records have and that
            joins at least two of them, else the prompt. Rollouts of different steps are never
            joined.

    Raises:
        TraceError: naming file and line, if a line cannot be read; if there is no rollout; if
            ``group_by`` is missing somewhere.
    """
    step = int(path.stem) if path.stem.isdigit() else 0
    episodes: list[LoggedEpisode] = []
    num_left_out = 0
    for where, record in iterate_records(path):
        format = format or detect_format(record, where)
        _, read = FORMATS[format]
        found = read(record, where, step, group_by)
        num_left_out += not found
        episodes += found
    if not episodes or format is None:
        raise TraceError(f"{path}: holds no rollout")
    key = group_by or _telling_key(episodes)
    groups: dict[str, list[LoggedEpisode]] = {}
    for episode in episodes:
        name = _short(episode.prompt) if key == PROMPT else episode.fields.get(key)
        if name is None:
            raise TraceError(f"{episode.where}: has no field {key!r} to group by")
        groups.setdefault(f"{path.stem}/{episode.step}/{name}", []).append(episode)
    return LogFile(
        path=path,
        format=format,
        groups={name: tuple(members) for name, members in groups.items()},
        grouped_by=key,
        num_left_out=num_left_out,
    )


def _short(prompt: str) -> str:
    """A name for a prompt."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _telling_key(episodes: Sequence[LoggedEpisode]) -> str:
    """The first field that all have and that joins some of them; else the prompt."""
    for key in GROUP_KEYS:
        names = [(episode.step, episode.fields.get(key)) for episode in episodes]
        if all(name is not None for _, name in names) and len(set(names)) < len(names):
            return key
    return PROMPT
