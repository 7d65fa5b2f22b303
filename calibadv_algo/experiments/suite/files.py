"""The folder of a suite's evaluation: what was asked for, and what came of it so far.

``settings.json`` holds everything that determines the numbers; ``records/NAME.jsonl`` one line an
episode, in a fixed order, added a chunk at a time and flushed to disk. A process may be killed at
any moment: what a crash left of an unfinished chunk is taken off again, and the chunk is played
anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.training.evaluation import EvalRecord, record_from_json, record_to_json
from calibadv_algo.training.resumption import flat_settings, shown_value
from calibadv_env.common.files import naming, sync_folder, write_text

FORMAT: Final = 1
SETTINGS: Final = "settings.json"
RECORDS: Final = "records"
_SHOWN: Final = 60


class SuiteError(CalibadvAlgoError):
    """The folder of an evaluation is damaged, or holds another evaluation."""


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new evaluation, or compares them with those that are there.

    Args:
        folder: Made if need be.
        settings: Everything that determines the numbers, as plain JSON.

    Raises:
        SuiteError: if the folder holds an evaluation with other settings; every difference is
            named.
    """
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if path.is_file():
        found = _read_settings(path)
        differences = compare_settings(found, wanted)
        if differences:
            raise SuiteError(
                f"{folder} holds an evaluation with other settings: {'; '.join(differences)}. "
                "Give the settings that it was begun with to finish it, or another --output-dir "
                "to begin a new one"
            )
        return
    if any((folder / RECORDS).glob("*.jsonl")):
        raise SuiteError(f"{folder} holds records without {SETTINGS}; give another --output-dir")
    write_text(path, json.dumps({"format": FORMAT, "settings": wanted}, indent=2) + "\n")


def compare_settings(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Differences of found and wanted settings, each as ``name 1 there, 2 here``, by name."""
    old, new = dict(flat_settings(found)), dict(flat_settings(wanted))
    return [
        f"{name} {shown_value(old.get(name))} there, {shown_value(new.get(name))} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def read_records(path: Path, expected: Sequence[str], chunk: int) -> list[EvalRecord]:
    """Reads the finished chunks of a file, and takes off what a crash left behind them.

    Args:
        path: The file; it need not exist.
        expected: Ids of the tasks of all episodes, in their order.
        chunk: Episodes that were added at a time, at least 1.

    Returns:
        The records of whole chunks, and of the last one if it is finished; of an unfinished one
        none, and its lines are gone from the file.

    Raises:
        SuiteError: if a line within is damaged, or is of another task than expected.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    num_kept = len(lines) if len(lines) == len(expected) else len(lines) // chunk * chunk
    if len(lines) > len(expected):
        raise SuiteError(f"{path}: {len(lines)} records for {len(expected)} episodes")
    records = []
    for number, (line, task_id) in enumerate(zip(lines[:num_kept], expected, strict=False), 1):
        try:
            record = record_from_json(line.decode("utf-8"))
        except ValueError as error:
            raise SuiteError(f"{path}:{number}: {error}") from error
        if record.task_id != task_id:
            raise SuiteError(
                f"{path}:{number}: the record is of task {record.task_id!r}, not of {task_id!r}"
            )
        records.append(record)
    _cut(path, sum(len(line) for line in lines[:num_kept]))
    return records


def append_chunk(path: Path, records: Sequence[EvalRecord]) -> None:
    """Adds the records of a whole chunk and has them on disk before it returns.

    File and folder are made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with naming(path), path.open("ab") as stream:
        stream.write("".join(map(record_to_json, records)).encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        sync_folder(path.parent)
        sync_folder(path.parent.parent)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {content['format']!r}")
        settings: dict[str, Any] = content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"{path}: cannot read the settings: {error}") from error
    return settings


def _cut(path: Path, size: int) -> None:
    """Shortens a file, if it is longer."""
    if path.stat().st_size > size:
        with path.open("r+b") as stream:
            stream.truncate(size)
            os.fsync(stream.fileno())
