"""The passages that a retriever searches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from calibadv_env.common.jsonl import write_jsonl
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.passage_records import (
    PassageReading,
    distinct_passages,
    parse_record,
    read_passages,
)


class Corpus:
    """An immutable, ordered list of passages with look-up by id.

    Args:
        passages: The passages; their order breaks ties between equal scores.

    Raises:
        ValueError: if there is none, or two share an id.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)
        if not self._passages:
            raise ValueError("passages must not be empty")
        self._index = {passage.id: i for i, passage in enumerate(self._passages)}
        if len(self._index) != len(self._passages):
            twice = next(p.id for i, p in enumerate(self._passages) if self._index[p.id] != i)
            raise ValueError(f"ids of passages must be unique, got {twice!r} twice")

    @classmethod
    def from_jsonl(cls, path: str | Path, reading: PassageReading | None = None) -> Corpus:
        r"""Reads a corpus from a file, in file order: JSON lines, or any other form.

        A line is ``{"id", "title", "text"}``, or ``{"id", "contents"}`` where the first line of
        the contents is the title, with the quotes round it taken off (``"Title"\ntext``);
        contents of a single line are a text without a title. Records of other corpora are
        understood as :mod:`calibadv_env.retrieval.passage_records` says; their other keys are
        ignored, and passages without text are left out, with a warning.

        Raises:
            DataError: if the file cannot be read, is empty, has a malformed line or repeats an
                id; the message begins with ``file:line:``.
        """
        passages = list(distinct_passages(read_passages(path, reading)))
        if not passages:
            raise DataError(f"{path}: there is no passage in it")
        return cls(passages)

    def to_jsonl(self, path: str | Path) -> None:
        """Writes lines of ``{"id", "title", "text"}``, compressed if the name ends in ``.gz``.

        Raises:
            OSError: if the file cannot be written.
        """
        write_jsonl(path, ({"id": p.id, "title": p.title, "text": p.text} for p in self._passages))

    @property
    def passages(self) -> Sequence[Passage]:
        """The passages in order."""
        return self._passages

    @cached_property
    def sha256(self) -> str:
        r"""Hash of the content, equal for equal passages in equal order.

        It is taken over one line ``["id","title","text"]`` a passage: compact JSON with
        non-ASCII characters escaped, ended by ``\n``.
        """
        digest = hashlib.sha256()
        for passage in self._passages:
            row = [passage.id, passage.title, passage.text]
            digest.update(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n")
        return digest.hexdigest()

    def by_id(self, passage_id: str) -> Passage:
        """The passage of an id.

        Raises:
            KeyError: if the corpus has no such passage.
        """
        return self.passages[self.index_of(passage_id)]

    def index_of(self, passage_id: str) -> int:
        """The position of a passage.

        Raises:
            KeyError: if the corpus has no such passage.
        """
        if passage_id not in self._index:
            raise KeyError(f"the corpus has no passage {passage_id!r}")
        return self._index[passage_id]

    def __len__(self) -> int:
        """Number of passages."""
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        """Goes through the passages in order."""
        return iter(self._passages)

    def __contains__(self, passage_id: object) -> bool:
        """True if a passage has this id."""
        return passage_id in self._index

    def __eq__(self, other: object) -> bool:
        """True if the other one holds equal passages in equal order."""
        return isinstance(other, Corpus) and self._passages == other._passages

    def __hash__(self) -> int:
        """Agrees with equality."""
        return hash(self.sha256)

    def __repr__(self) -> str:
        """Names the size, not the content."""
        return f"Corpus({len(self)} passages)"


def parse_passage(record: Mapping[str, Any]) -> Passage:
    """The passage of one JSON object in a format of :meth:`Corpus.from_jsonl`.

    Raises:
        ValueError: if a key is missing or a value has the wrong type, naming the key.
    """
    return parse_record(record)


def indexed_text(passage: Passage) -> str:
    """The text that a lexical index sees: the title, if there is one, then the body."""
    return f"{passage.title}. {passage.text}" if passage.title else passage.text
