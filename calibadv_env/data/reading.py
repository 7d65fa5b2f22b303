"""Tasks and corpora from whatever a user has them in: files, tables, folders, objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from calibadv_env.data.base import QATask, parse_task, read_tasks
from calibadv_env.data.names import SPLITS
from calibadv_env.data.sources.tables import is_table, read_document_table, read_task_table
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, parse_passage

TaskSource: TypeAlias = str | Path | Iterable[QATask | Mapping[str, Any]]
CorpusSource: TypeAlias = str | Path | Corpus | Iterable[Passage | Mapping[str, Any]]

CORPUS_STEMS = ("corpus", "documents")
"""Names of the file that holds the corpus of the tasks beside it."""

_TASK_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv")
_T = TypeVar("_T")


class Once(Generic[_T]):
    """What a function gives the first time; it is never called again, whatever happened.

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
        """Gives the value.

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
    """Whether a source is an iterable that is read once, at the first use."""
    return not isinstance(source, (str, Path, Corpus, Sequence, Mapping))


def find_file(folder: Path, stem: str) -> Path | None:
    """The file of this name in a folder: JSONL, plain or gzip, or a table."""
    paths = [folder / f"{stem}{suffix}" for suffix in _TASK_SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


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


def read_split(source: TaskSource, place: str) -> list[QATask]:
    """Reads tasks.

    Args:
        source: A JSONL file, a table, or an iterable of tasks or of dicts.
        place: What to call an iterable in errors, such as "quiz/train".

    Returns:
        The tasks, in order.

    Raises:
        DataError: if a file is faulty, with file and line.
        ValueError: if an item of an iterable is, with its position from 0.
    """
    if isinstance(source, (str, Path)):
        return _read_table(Path(source)) if is_table(source) else read_tasks(source)
    tasks: list[QATask] = []
    seen: dict[str, int] = {}
    for i, item in enumerate(source):
        task = item if isinstance(item, QATask) else _at(f"{place}[{i}]", parse_task, item)
        if task.id in seen:
            raise ValueError(f"{place}[{i}]: id {task.id!r} stands at {place}[{seen[task.id]}] too")
        seen[task.id] = i
        tasks.append(task)
    return tasks


def read_corpus(source: CorpusSource) -> Corpus:
    """Reads a corpus.

    Args:
        source: A JSONL file, a table, the folder of an index, a corpus, or an iterable of passages
            or of dicts.

    Returns:
        The corpus.

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
        return read_documents(source) if is_table(source) else Corpus.from_jsonl(source)
    passages = [
        item if isinstance(item, Passage) else _at(f"corpus[{i}]", parse_passage, item)
        for i, item in enumerate(source)
    ]
    return Corpus(passages)


def read_documents(path: str | Path) -> Corpus:
    """Reads a table of documents, each of which becomes one passage.

    Raises:
        DataError: if it is faulty, repeats an id or holds no document.
    """
    passages: dict[str, Passage] = {}
    for place, passage in read_document_table(path):
        if passage.id in passages:
            raise DataError(f"{place}: id {passage.id!r} stands twice")
        passages[passage.id] = passage
    if not passages:
        raise DataError(f"{path}:1: the table holds no document")
    return Corpus(list(passages.values()))


def _read_table(path: Path) -> list[QATask]:
    tasks: dict[str, QATask] = {}
    for place, _, task in read_task_table(path):
        if task.id in tasks:
            raise DataError(f"{place}: id {task.id!r} stands twice")
        tasks[task.id] = task
    if not tasks:
        raise DataError(f"{path}:1: the table holds no question")
    return list(tasks.values())


def _at(place: str, parse: Callable[[Mapping[str, Any]], _T], item: object) -> _T:
    if not isinstance(item, Mapping):
        kind = "QATask" if parse is parse_task else "Passage"
        raise ValueError(f"{place} must be a {kind} or a dict, got {type(item).__name__}")
    try:
        return parse(item)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
