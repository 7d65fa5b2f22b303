"""Readers of dataset formats, and tasks and corpora from whatever a user has them in.

A module in ``calibadv_env/data/sources`` declares the formats that it reads in a tuple ``READERS``.
Another package declares one by an entry point of the group ``calibadv_env.readers``::

    [project.entry-points."calibadv_env.readers"]
    squad = "my_package.squad:SquadReader"

Its format then works wherever a file of questions or documents is named: a path as a dataset,
``register_dataset``, folders of splits, and ``calibadv data prepare``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from calibadv_env.common.jsonl import distinct
from calibadv_env.common.plugins import plugins
from calibadv_env.data.base import QATask, parse_task
from calibadv_env.data.names import SPLITS
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, parse_passage

GROUP: Final = "calibadv_env.readers"
"""Group of the entry points by which other packages add formats."""

CORPUS_STEMS: Final = ("corpus", "documents")
"""Names of the file that holds the corpus of the tasks beside it."""

_PREFERRED: Final = ".jsonl"
"""Suffix of the file that counts where a folder holds one content in two formats."""

TaskSource: TypeAlias = str | Path | Iterable[QATask | Mapping[str, Any]]
CorpusSource: TypeAlias = str | Path | Corpus | Iterable[Passage | Mapping[str, Any]]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A question as a reader found it.

    Attributes:
        place: Where it stands, such as ``quiz.csv:7``, for messages.
        task: The task.
        split: Split that the row itself names, if it does.
    """

    place: str
    task: QATask
    split: Any = None


class Reader:
    """A format of questions, of documents, or of both.

    A subclass says what it reads by ``suffixes``, by ``prefix``, or by :meth:`reads`, and has
    :meth:`rows`, :meth:`passages`, or both. It has no state.

    Attributes:
        name: Its name for ``calibadv data prepare --from``.
        suffixes: Ends of the names of its files, such as ``(".csv", ".tsv")``; ``.gz`` may follow.
        prefix: Beginning of names that are no paths, such as ``hf:``. What is named so is fetched
            when it is first used, not when it is registered.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""

    def reads(self, source: str) -> bool:
        """True if the name of a source is one of this format; other readers may then not have it.

        Args:
            source: A name or a path; the file need not be there.
        """
        if self.prefix:
            return source.startswith(self.prefix)
        return source.lower().removesuffix(".gz").endswith(self.suffixes)

    def check(self, source: str) -> None:
        """Refuses a malformed name, before anything is read.

        Raises:
            ValueError: if it is malformed.
        """

    def splits(self, source: str) -> dict[str, str]:
        """The splits that a source is divided into.

        Args:
            source: A name that this reader reads.

        Returns:
            For each split "train", "dev", "test" or other its name in the source; empty for one
            that is not divided, such as a lone file.

        Raises:
            DataError: if the source cannot be read.
        """
        return {}

    def rows(self, source: str, split: str = "") -> Iterator[Row]:
        """The questions of a source, one by one, in order.

        Args:
            source: A name that this reader reads.
            split: One of the values of :meth:`splits`; "" if it is not divided.

        Raises:
            DataError: if the source or a row is faulty, with its place.
        """
        raise DataError(f"{source}: {self.name} holds no questions")

    def passages(self, source: str) -> Iterator[tuple[str, Passage]]:
        """The documents of a source, one by one, each with its place, in order.

        Raises:
            DataError: if the source or a row is faulty, with its place.
        """
        raise DataError(f"{source}: {self.name} holds no documents")

    def corpus(self, source: str) -> Corpus:
        """The documents of a source as a corpus.

        Raises:
            DataError: if the source is faulty, repeats an id or holds no document.
        """
        passages: dict[str, Passage] = {}
        for place, passage in self.passages(source):
            if passage.id in passages:
                raise DataError(f"{place}: id {passage.id!r} stands twice")
            passages[passage.id] = passage
        if not passages:
            raise DataError(f"{source}: there is no document in it")
        return Corpus(list(passages.values()))


def find_reader(source: str | Path) -> Reader:
    """The reader of a name or a path.

    It is the first that reads it: those of this package by name, then those of others; lines of
    JSON where none does.

    Raises:
        DataError: if another package cannot be imported.
    """
    own, text = _built_in(), str(source)
    found = next((reader for reader in own.values() if reader.reads(text)), None)
    return found or next((r for r in _plugins() if r.reads(text)), own["jsonl"])


def reader_named(name: str) -> Reader | None:
    """The reader of a name, such as "csv"; None if there is none."""
    return _built_in().get(name) or next((r for r in _plugins() if r.name == name), None)


def is_fetched(source: object) -> bool:
    """True for a name that begins with the prefix of a reader, and is no path."""
    return isinstance(source, str) and bool(find_reader(source).prefix)


@cache
def _built_in() -> dict[str, Reader]:
    """The readers of ``calibadv_env/data/sources`` by name."""
    package = importlib.import_module("calibadv_env.data.sources")
    found: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        declared: tuple[Reader, ...]
        declared = getattr(importlib.import_module(module.name), "READERS", ())
        found |= {reader.name: reader for reader in declared}
    return found


def _plugins() -> list[Reader]:
    """The readers of other packages, whose names are those of their entry points."""
    found = []
    for plugin in plugins(GROUP).values():
        kind = plugin.load()
        reader = kind() if isinstance(kind, type) else kind
        if not isinstance(reader, Reader):
            raise DataError(f"{plugin.origin} must give a Reader, got {reader!r:.80}")
        found.append(reader)
    return found


class Once(Generic[_T]):
    """Value of a function, which is called the first time and never again, whatever happened.

    For a function that uses something up, such as a generator. Not safe for threads by itself.

    Args:
        make: The function.
        what: Names it in the error of later calls, if the first one failed.
    """

    def __init__(self, make: Callable[[], _T], what: str) -> None:
        self._make: Callable[[], _T] | None = make
        self._what = what
        self._value: list[_T] = []
        self._failure = ""

    def __call__(self) -> _T:
        """The value.

        Raises:
            DataError: if the first call failed, then and ever after.
        """
        if self._make is not None:
            make, self._make = self._make, None
            try:
                self._value.append(make())
            except ValueError as error:
                self._failure = str(error)
                raise DataError(str(error)) from error
            except BaseException as error:
                self._failure = f"{self._what} could not be read: {error}"
                raise
        if not self._value:
            raise DataError(self._failure)
        return self._value[0]


def is_lazy(source: object) -> bool:
    """True for an iterable that is read once, at the first use."""
    return not isinstance(source, (str, Path, Corpus, Sequence, Mapping))


def find_file(folder: Path, stem: str) -> Path | None:
    """The file of this name in a folder, in any format; of several the lines of JSON."""
    readers = (*_built_in().values(), *_plugins())
    suffixes = sorted((s for reader in readers for s in reader.suffixes), key=_PREFERRED.__ne__)
    names = (f"{stem}{suffix}{packed}" for suffix in suffixes for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def split_files(folder: Path) -> dict[str, TaskSource]:
    """The files of a folder by split.

    Raises:
        DataError: if it holds none.
    """
    files = {split: find_file(folder, split) for split in SPLITS}
    found: dict[str, TaskSource] = {split: path for split, path in files.items() if path}
    if not found:
        raise DataError(f"{folder}: the folder holds none of train.jsonl, dev.jsonl, test.jsonl")
    return found


def corpus_file(folder: Path) -> Path | None:
    """The file that holds the corpus of the tasks in a folder, if there is one."""
    paths = (find_file(folder, stem) for stem in CORPUS_STEMS)
    return next((path for path in paths if path), None)


def read_split(source: TaskSource, place: str, split: str = "") -> list[QATask]:
    """Reads tasks, at least one, in order.

    Args:
        source: A file, a name that a reader fetches, or an iterable of tasks or of dicts.
        place: Name of an iterable in errors, such as "quiz/train".
        split: Split of the source, by the source's own name, if it is divided.

    Raises:
        DataError: if a file is faulty, with file and line.
        ValueError: if an item of an iterable is, with its position from 0.
    """
    if isinstance(source, (str, Path)):
        rows = find_reader(source).rows(str(source), split)
        tasks = list(distinct((row.place, row.task) for row in rows))
        if not tasks:
            raise DataError(f"{source}{split and f' {split}'}: there is no question in it")
        return tasks
    items = (
        (where, item if isinstance(item, QATask) else _at(where, parse_task, item))
        for where, item in ((f"{place}[{i}]", item) for i, item in enumerate(source))
    )
    try:
        return list(distinct(items))
    except DataError as error:
        raise ValueError(str(error)) from error


def read_corpus(source: CorpusSource) -> Corpus:
    """Reads a corpus.

    Args:
        source: A file, a name that a reader fetches, the folder of an index, a corpus, or an
            iterable of passages or of dicts.

    Raises:
        DataError: if a file is faulty, with file and line.
        ValueError: if an item of an iterable is, with its position from 0, or there is none.
    """
    if isinstance(source, Corpus):
        return source
    if isinstance(source, (str, Path)):
        if Path(source).is_dir():
            from calibadv_env.retrieval.disk_corpus import DiskCorpus

            return DiskCorpus(source)
        return find_reader(source).corpus(str(source))
    passages = [
        item if isinstance(item, Passage) else _at(f"corpus[{i}]", parse_passage, item)
        for i, item in enumerate(source)
    ]
    return Corpus(passages)


def _at(place: str, parse: Callable[[Mapping[str, Any]], _T], item: object) -> _T:
    if not isinstance(item, Mapping):
        kind = "QATask" if parse is parse_task else "Passage"
        raise ValueError(f"{place} must be a {kind} or a dict, got {type(item).__name__}")
    try:
        return parse(item)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
