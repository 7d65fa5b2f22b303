"""Tasks and passages in files whose hash is known: a line is parsed when it is asked for.

Nothing is checked before it is used, so this is for files that are known to be right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from calibadv_env.data.base import QATask, TaskSet, parse_task
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, parse_passage

_T = TypeVar("_T")


class _Lines(Sequence[_T], Generic[_T]):
    """The records of JSON lines in order; each is parsed once, when it is asked for."""

    def __init__(self, content: bytes, parse: Callable[[dict[str, Any]], _T]) -> None:
        self._lines = content.splitlines()
        self._parse = parse
        self._parsed: dict[int, _T] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> _T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[_T]: ...

    def __getitem__(self, index: int | slice) -> _T | Sequence[_T]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        found = self._parsed.get(place)
        if found is None:
            found = self._parsed.setdefault(place, self._parse(json.loads(self._lines[place])))
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


class LineTasks(TaskSet):
    """A split in JSON lines.

    Args:
        content: The file.
        name: Name of the dataset.
        split: Name of the split.
        parse: Makes the task of a line's JSON object.
    """

    def __init__(
        self,
        content: bytes,
        *,
        name: str,
        split: str,
        parse: Callable[[dict[str, Any]], QATask] = parse_task,
    ) -> None:
        self.name = name
        self.split = split
        self._lines = _Lines(content, parse)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._lines[index]

    def __iter__(self) -> Iterator[QATask]:
        return iter(self._lines)

    @cached_property
    def _index(self) -> dict[str, int]:  # type: ignore[override]
        return {task.id: place for place, task in enumerate(self)}


class LineCorpus(Corpus):
    """A corpus in JSON lines.

    Attributes:
        index_cache: Folder that indexes of it may be kept in.

    Args:
        content: The file.
        sha256: Its hash, as :attr:`Corpus.sha256` takes it.
        index_cache: Folder that indexes of it may be kept in.
    """

    def __init__(self, content: bytes, sha256: str, index_cache: Path) -> None:
        self._lines = _Lines(content, parse_passage)
        self._sha256 = sha256
        self.index_cache = index_cache

    @property
    def passages(self) -> Sequence[Passage]:
        """The passages in order."""
        return self._lines

    @cached_property
    def _passages(self) -> tuple[Passage, ...]:  # type: ignore[override]
        return tuple(self._lines)

    @cached_property
    def _index(self) -> dict[str, int]:  # type: ignore[override]
        return {passage.id: place for place, passage in enumerate(self._lines)}

    @property
    def sha256(self) -> str:
        """The hash that is known."""
        return self._sha256

    def __len__(self) -> int:
        """Number of passages."""
        return len(self._lines)

    def __iter__(self) -> Iterator[Passage]:
        """Goes through the passages in order."""
        return iter(self._lines)
