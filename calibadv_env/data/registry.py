"""Datasets by name: the built-in ones, and those that a user registers.

A process holds each dataset, corpus and index once, however many environments use it. A process
started by *fork* inherits them. One started by *spawn* begins empty: there the registration has
to run again. ``gymnasium.make("my_module:DeepSearch-MyTrivia-v0")``, called in the worker, imports
the module that calls :func:`register_dataset`; or name the folder of the data instead of a
registered dataset, which needs no registration at all.
"""

from __future__ import annotations

import importlib
import pickle
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from gymnasium.envs.registration import register
from gymnasium.envs.registration import registry as gymnasium_registry

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.files import parse_task, read_tasks
from calibadv_env.errors import DataError
from calibadv_env.retrieval import is_remote, make_retriever, remote_retriever
from calibadv_env.retrieval.base import Passage, Retriever
from calibadv_env.retrieval.corpus import Corpus, parse_passage

SPLITS: Final = ("train", "dev", "test")
"""The usual splits, and the names of their files in a folder."""

EVAL: Final = "eval"
"""Stands for the split that a dataset is evaluated on; see :attr:`Dataset.eval_split`."""

_BUILT_IN: Final = {
    "atlas": ("calibadv_env.data.atlas", "load_dataset"),
    "atlas-wiki": ("calibadv_env.data.atlas", "load_wiki_dataset"),
    "toy": ("calibadv_env.data.toy", "load_dataset"),
    "NQ": ("calibadv_env.data.benchmarks", "load_nq"),
    "TriviaQA": ("calibadv_env.data.benchmarks", "load_triviaqa"),
    "PopQA": ("calibadv_env.data.benchmarks", "load_popqa"),
    "HotpotQA": ("calibadv_env.data.benchmarks", "load_hotpotqa"),
    "2WikiMultihopQA": ("calibadv_env.data.benchmarks", "load_2wikimultihopqa"),
    "MuSiQue": ("calibadv_env.data.benchmarks", "load_musique"),
    "Bamboogle": ("calibadv_env.data.benchmarks", "load_bamboogle"),
}
"""Name -> module and function that makes the dataset. Upper and lower case are told apart only
where a user has registered a name that differs from one of these by nothing else."""
_BUILT_IN_BY_LOWER: Final = {name.lower(): name for name in _BUILT_IN}
_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")

TaskSource: TypeAlias = str | Path | Sequence[QATask | Mapping[str, Any]]
CorpusSource: TypeAlias = str | Path | Corpus | Sequence[Passage | Mapping[str, Any]]
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named splits of tasks and the corpus that holds their evidence.

    What is loaded or built is kept, once a process, and threads may share a dataset. A pickle
    holds the name alone, so it can only be read where the name is known.

    Attributes:
        name: What :func:`get_dataset` knows it by.
        splits: The splits there are.
        load_tasks: Loads one of these splits; called at most once a split.
        load_corpus: Loads the corpus; called at most once.
        lone_split: The split that stands for all of train, dev and test, if there is one.
        description: One line for people.
    """

    _: KW_ONLY
    name: str
    splits: tuple[str, ...]
    load_tasks: Callable[[str], TaskSet]
    load_corpus: Callable[[], Corpus]
    lone_split: str | None = None
    description: str = ""
    _cache: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuses a dataset without splits."""
        if not self.splits:
            raise ValueError(f"splits of dataset {self.name!r} must not be empty")
        if self.lone_split is not None and self.lone_split not in self.splits:
            raise ValueError(f"lone_split must be one of {self.splits}, got {self.lone_split!r}")

    def __reduce__(self) -> tuple[Callable[[str], Dataset], tuple[str]]:
        """Pickles by name."""
        if get_dataset(self.name) is not self:
            raise pickle.PicklingError(f"dataset {self.name!r} is not the registered one")
        return get_dataset, (self.name,)

    @property
    def eval_split(self) -> str:
        """The split to evaluate on: test, else dev, else train, else the first one."""
        return next((s for s in ("test", "dev", "train") if s in self.splits), self.splits[0])

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split.

        Args:
            split: One of ``splits``; where ``lone_split`` is set, also "train", "dev" or "test",
                which then all mean the lone split; or "eval" for ``eval_split``. The ``split`` of
                what is returned names the one that was meant.

        Returns:
            The tasks, the same object at every call.

        Raises:
            ValueError: if there is no such split.
            DataError: if the data is faulty, or a task names a gold passage that the corpus
                does not hold.
        """
        if split == EVAL and EVAL not in self.splits:
            split = self.eval_split
        if split not in self.splits:
            if self.lone_split is None or split not in SPLITS:
                known = ", ".join(self.splits)
                raise ValueError(f"split of dataset {self.name!r} must be {known}, got {split!r}")
            split = self.lone_split
        return self._once("tasks", split, lambda: self._checked_tasks(split))

    def corpus(self) -> Corpus:
        """The corpus, the same object at every call.

        Raises:
            DataError: if the data is faulty.
        """
        return self._once("corpus", "", self.load_corpus)

    def retriever(self, spec: str | Retriever = "bm25") -> Retriever:
        """The retriever over the corpus, built once for each name.

        Args:
            spec: As for :func:`calibadv_env.retrieval.make_retriever`; an object is given back.

        Raises:
            ValueError: if the name is unknown.
            MissingDependencyError: if the package behind the name is not installed.
        """
        if not isinstance(spec, str):
            return make_retriever(spec, self.corpus())
        if is_remote(spec):
            return self._once("retriever", spec, lambda: remote_retriever(spec))
        return self._once("retriever", spec, lambda: make_retriever(spec, self.corpus()))

    def _once(self, kind: str, key: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            if (kind, key) not in self._cache:
                self._cache[kind, key] = make()
            value: _T = self._cache[kind, key]
            return value

    def _checked_tasks(self, split: str) -> TaskSet:
        tasks = self.load_tasks(split)
        for task in tasks:
            for hop in task.gold_passages:
                for passage_id in hop:
                    if passage_id not in self.corpus():
                        raise DataError(
                            f"gold_passages of task {task.id!r} in split {split!r} of dataset "
                            f"{self.name!r} must be in the corpus, got {passage_id!r}"
                        )
        return tasks


_datasets: dict[str, Dataset] = {}
_folders: dict[Path, Dataset] = {}
_registry_lock: Final = threading.RLock()


def get_dataset(name: str) -> Dataset:
    """The dataset of a name.

    Args:
        name: A built-in dataset (in any case: "hotpotqa" is "HotpotQA"), one given to
            :func:`register_dataset`, or a folder in the form that function takes. A text counts
            as a folder if it has a path separator in it.

    Returns:
        The dataset, the same object at every call.

    Raises:
        ValueError: if nothing has this name.
        DataError: if the folder, or the data behind a built-in name, is missing or faulty.
    """
    with _registry_lock:
        if name in _datasets:
            return _datasets[name]
        name = _BUILT_IN_BY_LOWER.get(name.lower(), name)
        if name in _datasets:
            return _datasets[name]
        if name in _BUILT_IN:
            module, function = _BUILT_IN[name]
            _datasets[name] = getattr(importlib.import_module(module), function)()
            return _datasets[name]
        if "/" in name or "\\" in name:
            folder = Path(name).resolve()
            if folder not in _folders:
                if not folder.is_dir():
                    raise DataError(f"{folder}: there is no such folder")
                _folders[folder] = _load(str(folder), folder, None)
            return _folders[folder]
    known = ", ".join(repr(known) for known in list_datasets())
    raise ValueError(f"dataset must be one of {known} or the path of a folder, got {name!r}")


def list_datasets() -> tuple[str, ...]:
    """The names that are known, in alphabetical order."""
    return tuple(sorted({*_BUILT_IN, *_datasets}))


def register_dataset(
    name: str,
    path_or_tasks: TaskSource | Mapping[str, TaskSource],
    corpus: CorpusSource | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Makes ``DeepSearch-<Name>-v0`` from tasks and a corpus.

    Everything is read and checked at once, so a dataset that is registered is a sound one; if
    anything is wrong, nothing is registered.

    Args:
        name: Letters and digits in words joined by ``-`` or ``_``. In the id each word begins
            with a capital: "my-trivia" and "MyTrivia" both give ``DeepSearch-MyTrivia-v0``.
        path_or_tasks: One JSONL file or one sequence of tasks (of :class:`QATask`, or of dicts
            with the keys of such a file), which becomes the split "test" and is also given when
            "train" or "dev" is asked for; or a folder with some of ``train.jsonl``,
            ``dev.jsonl`` and ``test.jsonl`` (or ``.jsonl.gz``); or a mapping from split to file
            or sequence. :func:`calibadv_env.data.files.read_tasks` describes the files.
        corpus: A JSONL file (see :meth:`Corpus.from_jsonl`), a :class:`Corpus`, or a sequence of
            :class:`Passage` or of dicts. May be left out for a folder that holds
            ``corpus.jsonl`` or ``corpus.jsonl.gz``.
        overwrite: Whether a dataset already registered under this name gives way.

    Returns:
        The id of the environment.

    Raises:
        ValueError: if the name is malformed or taken, or an argument has the wrong form.
        DataError: if a file is missing or malformed (with file and line), or a task names a
            gold passage that the corpus does not hold (with the task).
    """
    env_id = env_id_of(name)
    with _registry_lock:
        _refuse_taken_name(name, env_id, overwrite=overwrite)
        dataset = _load(name, path_or_tasks, corpus)
        _datasets[name] = dataset
        gymnasium_registry.pop(env_id, None)
        register_env_id(env_id, name)
    return env_id


def built_in_datasets() -> tuple[str, ...]:
    """The names that are known without registration, in alphabetical order."""
    return tuple(sorted(_BUILT_IN))


def register_env_id(env_id: str, dataset: str | None = None) -> None:
    """Registers an id with Gymnasium.

    Args:
        env_id: The id, such as ``DeepSearch-Toy-v0``.
        dataset: The dataset that the id stands for; None leaves the choice to the environment's
            own default.
    """
    register(
        id=env_id,
        entry_point="calibadv_env.env:DeepSearchEnv",
        vector_entry_point="calibadv_env.vector:DeepSearchVectorEnv",
        kwargs={} if dataset is None else {"dataset": dataset},
    )


def env_id_of(name: str) -> str:
    """The id of the environment for a dataset.

    Args:
        name: As for :func:`register_dataset`.

    Returns:
        ``DeepSearch-<Name>-v0``.

    Raises:
        ValueError: if the name is malformed.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name must be ASCII letters and digits in words joined by '-' or '_', got {name!r}"
        )
    camel = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", name))
    return f"DeepSearch-{camel}-v0"


def _refuse_taken_name(name: str, env_id: str, *, overwrite: bool) -> None:
    for taken in list_datasets():
        if env_id_of(taken) != env_id:
            continue
        if taken in _BUILT_IN:
            raise ValueError(f"name must not be that of a built-in dataset, got {name!r}")
        if taken != name:
            raise ValueError(f"name {name!r} gives the id {env_id} of the dataset {taken!r}")
        if not overwrite:
            raise ValueError(f"dataset {name!r} is already registered; pass overwrite=True")


def _load(
    name: str,
    source: TaskSource | Mapping[str, TaskSource],
    corpus_source: CorpusSource | None,
) -> Dataset:
    """Reads and checks everything."""
    lone_split = None
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        sources = _split_files(Path(source))
        if corpus_source is None:
            corpus_source = _jsonl_file(Path(source), "corpus")
    elif isinstance(source, Mapping):
        sources = dict(source)
    else:
        sources, lone_split = {"test": source}, "test"
    if corpus_source is None:
        raise ValueError(f"corpus of dataset {name!r} must be given")
    if not sources:
        raise ValueError(f"splits of dataset {name!r} must not be empty")
    corpus = _read_corpus(corpus_source)
    splits = {
        split: TaskSet(_read_split(tasks, f"{name}/{split}"), name=name, split=split)
        for split, tasks in sources.items()
    }
    dataset = Dataset(
        name=name,
        splits=tuple(splits),
        load_tasks=splits.__getitem__,
        load_corpus=lambda: corpus,
        lone_split=lone_split,
    )
    for split in splits:
        dataset.tasks(split)
    return dataset


def _split_files(folder: Path) -> dict[str, TaskSource]:
    files = {split: _jsonl_file(folder, split) for split in SPLITS}
    found: dict[str, TaskSource] = {split: path for split, path in files.items() if path}
    if not found:
        raise DataError(f"{folder}: the folder holds none of train.jsonl, dev.jsonl, test.jsonl")
    return found


def _jsonl_file(folder: Path, stem: str) -> Path | None:
    paths = [folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz"]
    return next((path for path in paths if path.is_file()), None)


def _read_corpus(source: CorpusSource) -> Corpus:
    if isinstance(source, Corpus):
        return source
    if isinstance(source, (str, Path)):
        if Path(source).is_dir():
            from calibadv_env.retrieval.disk_corpus import DiskCorpus

            return DiskCorpus(source)
        return Corpus.from_jsonl(source)
    passages = []
    for i, item in enumerate(source):
        if isinstance(item, Passage):
            passages.append(item)
        elif isinstance(item, Mapping):
            passages.append(_at(f"corpus[{i}]", parse_passage, item))
        else:
            raise ValueError(f"corpus[{i}] must be a Passage or a dict, got {type(item).__name__}")
    return Corpus(passages)


def _read_split(source: TaskSource, place: str) -> list[QATask]:
    if isinstance(source, (str, Path)):
        return read_tasks(source)
    tasks = []
    for i, item in enumerate(source):
        if isinstance(item, QATask):
            tasks.append(item)
        elif isinstance(item, Mapping):
            tasks.append(_at(f"{place}[{i}]", parse_task, item))
        else:
            raise ValueError(f"{place}[{i}] must be a QATask or a dict, got {type(item).__name__}")
    return tasks


def _at(place: str, parse: Callable[[Mapping[str, Any]], _T], item: Mapping[str, Any]) -> _T:
    try:
        return parse(item)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
