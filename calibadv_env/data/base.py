"""Tasks and the splits that they come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


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
