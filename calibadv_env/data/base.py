"""Tasks and the splits that they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from calibadv_env.common.jsonl import distinct, read_parsed, text_field, write_jsonl
from calibadv_env.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class QATask:
    """A question, the answers that count, and the evidence for them.

    Attributes:
        id: Unique within the dataset.
        question: The bare question.
        golden_answers: Accepted answers, at least one.
        gold_passages: For each hop in order the ids of the passages that state its fact, any of
            which will do; empty when the dataset does not know.
        hops: Number of reasoning steps, 0 when unknown.
        metadata: Whatever else the dataset says.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    gold_passages: tuple[tuple[str, ...], ...] = ()
    hops: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a task that could never be answered."""
        if not self.id:
            raise ValueError("id must not be empty")
        if not self.golden_answers:
            raise ValueError(f"golden_answers of task {self.id!r} must not be empty")


class TaskSet(Sequence[QATask]):
    """An ordered split of a dataset with look-up by id.

    Raises:
        ValueError: if it is empty or two tasks share an id.
    """

    def __init__(self, tasks: Sequence[QATask], *, name: str, split: str) -> None:
        self.name = name
        self.split = split
        self._tasks = tuple(tasks)
        if not self._tasks:
            raise ValueError(f"split {split!r} of dataset {name!r} is empty")
        self._index = MappingProxyType({task.id: i for i, task in enumerate(self._tasks)})
        if len(self._index) != len(self._tasks):
            raise ValueError(f"two tasks of split {split!r} of dataset {name!r} share an id")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._tasks[index]

    def __iter__(self) -> Iterator[QATask]:
        return iter(self._tasks)

    def index_of(self, task_id: str) -> int:
        """Position of a task.

        Raises:
            KeyError: if the split has no such task.
        """
        if task_id not in self._index:
            raise KeyError(f"split {self.split!r} of dataset {self.name!r} has no task {task_id!r}")
        return self._index[task_id]


_TASK_KEYS: Final = frozenset(
    {"id", "question", "golden_answers", "metadata", "gold_passages", "hops"}
)


def read_tasks(path: str | Path) -> list[QATask]:
    """Reads tasks in FlashRAG's format from a plain or gzip JSONL file, in file order.

    Each line holds ``id``, ``question``, ``golden_answers`` and, if known, ``metadata`` (an
    object), ``gold_passages`` (for each hop a list of passage ids, any of which will do) and
    ``hops`` (by default the number of hops in ``gold_passages``). Any further key, such as
    ``choices``, is kept in the metadata under its own name.

    Raises:
        DataError: if the file cannot be read, is empty, has a malformed line or repeats an id.
    """
    tasks = list(distinct(read_parsed(path, parse_task)))
    if not tasks:
        raise DataError(f"{path}: there is no question in it")
    return tasks


def write_tasks(path: str | Path, tasks: Iterable[QATask]) -> None:
    """Writes tasks so that :func:`read_tasks` gives them back; compressed to a name in ``.gz``.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if the metadata of a task cannot be written as JSON.
    """
    write_jsonl(path, (_task_record(task) for task in tasks))


def parse_task(record: Mapping[str, Any]) -> QATask:
    """The task of one JSON object in the format of :func:`read_tasks`.

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
