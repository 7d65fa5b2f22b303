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
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from calibadv_env.common.jsonl import distinct
from calibadv_env.common.packed import PACKED_ENDS, unpacked_name
from calibadv_env.common.plugins import plugins
from calibadv_env.common.records.values import plain
from calibadv_env.data.base import QATask
from calibadv_env.data.questions.parsing import QuestionReading, Row
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.passage_records import PassageReading, distinct_passages

GROUP: Final = "calibadv_env.readers"
"""Group of the entry points by which other packages add formats."""

_PREFERRED: Final = ".jsonl"
"""Suffix of the file that counts where a folder holds one content in two formats."""

TaskSource: TypeAlias = str | Path | Sequence[str | Path] | Iterable[QATask | Mapping[str, Any]]
CorpusSource: TypeAlias = str | Path | Corpus | Iterable[Passage | Mapping[str, Any]]

_T = TypeVar("_T")


class Reader:
    """A format of questions, of documents, or of both.

    A subclass says what it reads by ``suffixes``, by ``prefix``, or by :meth:`reads`, and has
    :meth:`records`, whose keys are then understood as those of every file are; or, where the
    format itself says what is what, :meth:`rows`, :meth:`passages`, or both. It has no state.

    Attributes:
        name: Its name for ``calibadv data prepare --from``.
        suffixes: Ends of the names of its files, such as ``(".csv", ".tsv")``; ``.gz`` or
            another such end may follow.
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
        return unpacked_name(source.lower()).endswith(self.suffixes)

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

    def records(self, source: str, split: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The records of a source as they are, one by one, each with its place, in order.

        Args:
            source: A name that this reader reads.
            split: One of the values of :meth:`splits`; "" for all of a source.

        Raises:
            DataError: if the source cannot be read, with its place.
        """
        raise DataError(f"{source}: {self.name} holds no records")

    def has_questions(self, source: str) -> bool:
        """False if a source, by its form, can hold documents alone."""
        return True

    @property
    def has_records(self) -> bool:
        """True if questions and documents come of :meth:`records`."""
        return type(self).records is not Reader.records

    def rows(self, source: str, split: str = "") -> Iterator[Row]:
        """The questions of a source, one by one, in order.

        Args:
            source: A name that this reader reads.
            split: One of the values of :meth:`splits`; "" if it is not divided.

        Raises:
            DataError: if the source or a row is faulty, with its place.
        """
        if not self.has_records:
            raise DataError(f"{source}: {self.name} holds no questions")
        return QuestionReading().rows(self.records(source, split))

    def passages(self, source: str) -> Iterator[tuple[str, Passage]]:
        """The documents of a source, one by one, each with its place, in order.

        Raises:
            DataError: if the source or a row is faulty, with its place.
        """
        if not self.has_records:
            raise DataError(f"{source}: {self.name} holds no documents")
        return PassageReading().passages(self.records(source))


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


def data_suffixes() -> list[str]:
    """The ends of the names of files that some reader reads; that of JSON lines first."""
    readers = (*_built_in().values(), *_plugins())
    return sorted((s for reader in readers for s in reader.suffixes), key=_PREFERRED.__ne__)


def find_file(folder: Path, stem: str) -> Path | None:
    """The file of this name in a folder, in any format; of several the lines of JSON."""
    suffixes = data_suffixes()
    names = (f"{stem}{suffix}{packed}" for suffix in suffixes for packed in ("", *PACKED_ENDS))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_rows(
    source: str | Path, split: str = "", reading: QuestionReading | None = None
) -> Iterator[Row]:
    """The questions of a file, or of a name that a reader fetches.

    Raises:
        DataError: if the source is faulty, with file and line.
    """
    reader = find_reader(source)
    if not reader.has_records:
        return reader.rows(str(source), split)
    if not reader.has_questions(str(source)):
        raise DataError(
            f"{source}: this holds documents and no questions, so it can be named as the corpus"
        )
    return (reading or QuestionReading()).rows(reader.records(str(source), split))


def read_passages(
    source: str | Path, reading: PassageReading | None = None
) -> Iterator[tuple[str, Passage]]:
    """The documents of a file, or of a name that a reader fetches, each with its place.

    Raises:
        DataError: if the source is faulty, with file and line.
    """
    reader = find_reader(source)
    if not reader.has_records:
        return reader.passages(str(source))
    return (reading or PassageReading()).passages(reader.records(str(source)))


def read_split(
    source: TaskSource, place: str, split: str = "", reading: QuestionReading | None = None
) -> list[QATask]:
    """Reads tasks, at least one, in order.

    Args:
        source: A file, a name that a reader fetches, several files, or an iterable of tasks or
            of dicts, such as a data frame.
        place: Name of an iterable in errors, such as "quiz/train".
        split: Split of the source, by the source's own name, if it is divided.
        reading: Its rules and counts; None for the usual ones.

    Raises:
        DataError: if a file is faulty, with file and line.
        ValueError: if an item of an iterable is, with its position from 0.
    """
    reading = reading or QuestionReading()
    paths = _paths(source)
    if paths:
        rows = (row for path in paths for row in read_rows(path, split, reading))
        tasks = list(distinct((row.place, row.task) for row in rows))
        if not tasks:
            where = f"{paths[0]}{split and f' {split}'}"
            raise DataError(f"{where}: there is no question in it{reading.left_out()}")
        return tasks
    try:
        return list(distinct(_items(source, place, reading)))
    except DataError as error:
        raise ValueError(str(error)) from error


def read_corpus(source: CorpusSource, reading: PassageReading | None = None) -> Corpus:
    """Reads a corpus.

    Args:
        source: A file, a name that a reader fetches, the folder of an index, a folder of
            documents, a corpus, or an iterable of passages or of dicts, such as a data frame.
        reading: Its rules and counts; None for the usual ones.

    Raises:
        DataError: if a file is faulty, with file and line.
        ValueError: if an item of an iterable is, with its position from 0, or there is none.
    """
    if isinstance(source, Corpus):
        return source
    reading = reading or PassageReading()
    if isinstance(source, (str, Path)):
        if Path(source).is_dir() and find_reader(source).name != "folder":
            from calibadv_env.retrieval.disk_corpus import DiskCorpus

            return DiskCorpus(source)
        return corpus_of(read_passages(source, reading), str(source))
    items = list(frame_rows(source))
    try:
        return Corpus(list(distinct_passages(_passages(items, reading))))
    except DataError as error:
        raise ValueError(str(error)) from error


def _passages(items: Sequence[Any], reading: PassageReading) -> Iterator[tuple[str, Passage]]:
    """The passages among the items of an iterable, and those of the records among them."""
    places = [f"corpus[{i}]" for i in range(len(items))]
    if not any(isinstance(item, Passage) for item in items):
        named = zip(places, items, strict=True)
        yield from reading.passages((p, _mapping(p, "Passage", item)) for p, item in named)
        return
    for place, item in zip(places, items, strict=True):
        if isinstance(item, Passage):
            yield place, item
        else:
            yield from reading.passages([(place, _mapping(place, "Passage", item))])


def corpus_of(passages: Iterable[tuple[str, Passage]], source: str) -> Corpus:
    """Passages with their places as a corpus.

    Raises:
        DataError: if an id stands twice, or there is none.
    """
    found = list(distinct_passages(passages))
    if not found:
        raise DataError(f"{source}: there is no document in it")
    return Corpus(found)


def frame_rows(source: Any) -> Iterable[Any]:
    """The rows of a data frame (pandas, polars) or an Arrow table; other things as they are."""
    if hasattr(source, "to_pylist"):
        return source.to_pylist()  # type: ignore[no-any-return]
    if hasattr(source, "iterrows"):
        return source.to_dict("records")  # type: ignore[no-any-return]
    if hasattr(source, "to_dicts"):
        return source.to_dicts()  # type: ignore[no-any-return]
    return source  # type: ignore[no-any-return]


def is_frame(source: object) -> bool:
    """True for a table of another package, which can be read more than once."""
    names = ("to_pylist", "iterrows", "to_dicts", "column_names")
    return any(hasattr(source, name) for name in names)


def _paths(source: TaskSource) -> list[str | Path]:
    """The files, or the name, that a source is; [] for an iterable of tasks."""
    if isinstance(source, (str, Path)):
        return [source]
    is_files = isinstance(source, (list, tuple)) and bool(source)
    files: list[Any] = list(source) if is_files else []
    return files if all(isinstance(one, (str, Path)) for one in files) else []


def _items(source: Any, place: str, reading: QuestionReading) -> Iterator[tuple[str, QATask]]:
    """The tasks among the items of an iterable, and those of the records among them."""
    items = list(frame_rows(source))
    places = [f"{place}[{i}]" for i in range(len(items))]
    if not any(isinstance(item, QATask) for item in items):
        named = zip(places, items, strict=True)
        rows = reading.rows((p, _mapping(p, "QATask", item)) for p, item in named)
        yield from ((row.place, row.task) for row in rows)
        return
    for where, item in zip(places, items, strict=True):
        if isinstance(item, QATask):
            yield where, item
        else:
            record = _mapping(where, "QATask", item)
            yield from ((row.place, row.task) for row in reading.rows([(where, record)]))


def _mapping(place: str, kind: str, item: object) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise ValueError(f"{place} must be a {kind} or a dict, got {type(item).__name__}")
    record: Mapping[str, Any] = plain(item)
    return record
