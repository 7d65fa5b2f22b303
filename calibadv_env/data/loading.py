"""Datasets made of a user's files, folders, names that readers fetch, and objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from calibadv_env.data.base import TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.reading import (
    CorpusSource,
    Once,
    TaskSource,
    corpus_file,
    find_reader,
    is_fetched,
    is_lazy,
    read_corpus,
    read_split,
    split_files,
)
from calibadv_env.errors import DataError
from calibadv_env.retrieval.corpus import Corpus


def no_corpus(name: str, folder: Path) -> Callable[[], Corpus]:
    """A loader that says where the corpus of a dataset without one would be looked for."""

    def load() -> Corpus:
        raise DataError(
            f"dataset {name!r} has no corpus: put corpus.jsonl or documents.csv into {folder}, or "
            "name a search server as retriever, such as http://127.0.0.1:8000"
        )

    return load


def dataset_of(
    name: str,
    source: TaskSource | Mapping[str, TaskSource],
    corpus_source: CorpusSource | None,
    load_corpus: Callable[[], Corpus] | None = None,
    *,
    is_gold_checked: bool = True,
) -> Dataset:
    """Makes a dataset; reads and checks at once everything that can be read more than once.

    Args:
        name: Its name.
        source: Tasks, as for :func:`calibadv_env.register_dataset`, but for names that are fetched.
        corpus_source: Passages, as there; None for a folder that holds them, or with a loader.
        load_corpus: Loads the corpus at the first use, in place of ``corpus_source``.
        is_gold_checked: See :class:`Dataset`.

    Raises:
        ValueError: if an argument has the wrong form, or an item of a list is faulty.
        DataError: if a file is missing or malformed, or names a passage that there is not.
    """
    lone_split = None
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        sources = split_files(Path(source))
        if corpus_source is None:
            corpus_source = corpus_file(Path(source))
    elif isinstance(source, Mapping):
        sources = dict(source)
    else:
        sources, lone_split = {"test": source}, "test"
    if not sources:
        raise ValueError(f"splits of dataset {name!r} must not be empty")
    is_corpus_lazy = load_corpus is not None or is_lazy(corpus_source) or is_fetched(corpus_source)
    load_corpus = load_corpus or corpus_loader(name, corpus_source)
    loaders = {split: _split_loader(name, split, of) for split, of in sources.items()}
    dataset = Dataset(
        name=name,
        splits=tuple(loaders),
        load_tasks=lambda split: loaders[split](),
        load_corpus=load_corpus,
        lone_split=lone_split,
        is_gold_checked=is_gold_checked,
    )
    for split, of_split in sources.items():
        if not is_lazy(of_split):
            loaders[split]() if is_corpus_lazy else dataset.tasks(split)
    return dataset


def _split_loader(name: str, split: str, source: TaskSource) -> Callable[[], TaskSet]:
    place = f"{name}/{split}"
    if is_fetched(source):
        raise ValueError(f"{place}: a dataset of the hub brings its own splits, got {source!r}")
    if is_lazy(source):
        return Once(lambda: TaskSet(read_split(source, place), name=name, split=split), place)
    tasks = TaskSet(read_split(source, place), name=name, split=split)
    return lambda: tasks


def corpus_loader(name: str, source: CorpusSource | None) -> Callable[[], Corpus]:
    """Loads a corpus: files and lists now, what is fetched or used up at the first use."""
    if source is None:
        raise ValueError(f"corpus of dataset {name!r} must be given")
    if isinstance(source, str) and is_fetched(source):
        find_reader(source).check(source)
        return lambda: read_corpus(source)
    if is_lazy(source):
        return Once(lambda: read_corpus(source), f"the corpus of dataset {name!r}")
    corpus = read_corpus(source)
    return lambda: corpus


def fetched_dataset(name: str, source: str, load_corpus: Callable[[], Corpus] | None) -> Dataset:
    """A dataset that a reader fetches by its name."""
    splits = find_reader(source).splits(source)

    def load_tasks(split: str) -> TaskSet:
        return TaskSet(read_split(source, name, splits[split]), name=name, split=split)

    return Dataset(
        name=name,
        splits=tuple(splits),
        load_tasks=load_tasks,
        load_corpus=load_corpus or no_corpus(name, Path.cwd()),
        is_gold_checked=load_corpus is not None,
        lone_split=next(iter(splits)) if len(splits) == 1 else None,
        description=source,
    )
