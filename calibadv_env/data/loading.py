"""Datasets made of a user's files, folders, names that readers fetch, and objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.cutting import FOLDER_WORDS, Cutting
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.folders import corpus_file, is_beir, split_files
from calibadv_env.data.gold import find_gold, gold_warning, needs_gold
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import (
    CorpusSource,
    Once,
    TaskSource,
    find_reader,
    frame_rows,
    is_fetched,
    is_frame,
    is_lazy,
    read_corpus,
    read_split,
)
from calibadv_env.data.sources.text_files import is_text_folder
from calibadv_env.errors import DataError
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.passage_records import PassageReading

OWN: Final = "own"
"""Stands for the corpus of the paragraphs that the questions themselves carry."""

_SPLIT_NAMES: Final = {"validation": "dev", "valid": "dev", "val": "dev"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How files are read where their names and keys do not say it.

    Attributes:
        columns: Keys of ``id``, ``question``, ``answers`` and ``split`` in the questions.
        corpus_columns: Keys of ``id``, ``title`` and ``text`` in the documents.
        answer_separator: Stands between answers in one text; "" if a text is one answer.
        cutting: How long documents are cut.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    corpus_columns: Mapping[str, str] = field(default_factory=dict)
    answer_separator: str = ""
    cutting: Cutting = field(default_factory=Cutting)

    def questions(self) -> QuestionReading:
        """Rules and counts for a set of questions."""
        return QuestionReading(columns=self.columns, separator=self.answer_separator)

    def documents(self, source: CorpusSource) -> Corpus:
        """Reads documents, and leaves them whole."""
        return read_corpus(source, PassageReading(columns=self.corpus_columns))

    def cut(self, source: CorpusSource, documents: Corpus) -> Corpus:
        """The passages of documents; the files of a folder are cut in any case."""
        cutting = self.cutting
        if cutting.words is None and is_text_folder(source):
            cutting = replace(cutting, words=max(FOLDER_WORDS, cutting.overlap + 1))
        return cutting.corpus(documents)

    def corpus(self, source: CorpusSource) -> Corpus:
        """Reads documents and cuts them."""
        return self.cut(source, self.documents(source))


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
    fallback: Callable[[], Corpus] | None = None,
    options: Options | None = None,
) -> Dataset:
    """Makes a dataset; reads and checks at once everything that can be read more than once.

    Args:
        name: Its name.
        source: Tasks, as for :func:`calibadv_env.register_dataset`, but for names that are fetched.
        corpus_source: Passages, likewise; None for a folder or tasks with their own, or a loader.
        load_corpus: Loads the corpus at the first use, in place of ``corpus_source``.
        is_gold_checked: See :class:`Dataset`; if false, no gold passages are looked for either.
        fallback: Loads the corpus where nothing else gives one; None refuses such a dataset.
        options: How files are read.

    Raises:
        ValueError: if an argument has the wrong form, or an item of a list is faulty.
        DataError: if a file is missing or malformed, or names a passage that there is not.
    """
    options = options or Options()
    if isinstance(source, (str, Path)) and Path(source).is_dir() and corpus_source is None:
        corpus_source = corpus_file(Path(source))
    sources, lone_split = _sources(source)
    if not sources:
        raise ValueError(f"splits of dataset {name!r} must not be empty")
    reading = options.questions()
    is_own = corpus_source is None or _is_own(corpus_source)
    reading.wants_paragraphs = load_corpus is None and is_own
    loaders = {split: _split_loader(name, split, of, reading) for split, of in sources.items()}
    is_corpus_lazy = load_corpus is not None or is_lazy(corpus_source) or is_fetched(corpus_source)
    if reading.wants_paragraphs:
        is_all_lazy = any(map(is_lazy, sources.values()))
        if reading.paragraphs or (is_all_lazy and corpus_source is not None):
            load_corpus = _own_loader(name, reading, loaders, options)
            is_corpus_lazy = is_all_lazy
        elif corpus_source is not None:
            raise DataError(f"dataset {name!r}: the questions carry no paragraphs of their own")
        elif fallback is not None:
            load_corpus, is_corpus_lazy, is_gold_checked = fallback, True, False
    _warn_of_joined(name, reading.splits if lone_split is not None else {})
    dataset = Dataset(
        name=name,
        splits=tuple(loaders),
        load_tasks=lambda split: (
            _with_gold(dataset, loaders[split](), options) if is_gold_checked else loaders[split]()
        ),
        load_corpus=load_corpus or corpus_loader(name, corpus_source, options),
        lone_split=lone_split,
        is_gold_checked=is_gold_checked,
        notes=reading.notes,
    )
    for split in [split for split, of_split in sources.items() if not is_lazy(of_split)]:
        loaders[split]() if is_corpus_lazy else dataset.tasks(split)
    return dataset


def _warn_of_joined(name: str, splits: Mapping[str, int]) -> None:
    """Warns of questions of several splits that are read as those of one."""
    if len(splits) > 1:
        parts = ", ".join(f"{split} ({count:,})" for split, count in splits.items())
        text = (
            f"dataset {name!r}: questions of the splits {parts} are taken as one; `calibadv data "
            f"prepare NAME --from FILE` keeps them apart"
        )
        warnings.warn(text, stacklevel=3)


def corpus_loader(
    name: str, source: CorpusSource | None, options: Options | None = None
) -> Callable[[], Corpus]:
    """Loads a corpus: files and lists now, what is fetched or used up at the first use."""
    options = options or Options()
    if source is None:
        raise ValueError(
            f"corpus of dataset {name!r} must be given; its questions carry no paragraphs"
        )
    if isinstance(source, str) and is_fetched(source):
        find_reader(source).check(source)
        return lambda: options.corpus(source)
    if is_lazy(source):
        return Once(lambda: options.corpus(source), f"the corpus of dataset {name!r}")
    corpus = options.corpus(source)
    return lambda: corpus


def fetched_dataset(
    name: str,
    source: str,
    load_corpus: Callable[[], Corpus] | None,
    options: Options | None = None,
) -> Dataset:
    """A dataset that a reader fetches by its name; without a corpus it has its own paragraphs."""
    options = options or Options()
    splits = find_reader(source).splits(source)
    reading = options.questions()
    reading.wants_paragraphs = load_corpus is None

    def read(split: str) -> TaskSet:
        return TaskSet(read_split(source, name, splits[split], reading), name=name, split=split)

    loaders = {split: Once(lambda split=split: read(split), f"{name}/{split}") for split in splits}  # type: ignore[misc]

    def own() -> Corpus:
        for loader in loaders.values():
            loader()
        if not reading.paragraphs:
            return no_corpus(name, Path.cwd())()
        return options.cutting.corpus(Corpus(list(reading.paragraphs.values())))

    def load_tasks(split: str) -> TaskSet:
        tasks = loaders[split]()
        if load_corpus is None and not reading.paragraphs:
            return tasks
        return _with_gold(dataset, tasks, options)

    dataset = Dataset(
        name=name,
        splits=tuple(splits),
        load_tasks=load_tasks,
        load_corpus=load_corpus or own,
        is_gold_checked=load_corpus is not None,
        lone_split=next(iter(splits)) if len(splits) == 1 else None,
        description=source,
        notes=reading.notes,
    )
    return dataset


def _is_own(source: object) -> bool:
    return isinstance(source, str) and source == OWN


def _sources(
    source: TaskSource | Mapping[str, TaskSource],
) -> tuple[dict[str, TaskSource], str | None]:
    """The source of each split, and the split that stands for all if there is but one source."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        found = split_files(Path(source))
        is_lone = len(found) == 1 and not is_beir(Path(source)) and "test" in found
        return found, "test" if is_lone else None
    if isinstance(source, Mapping) and not _is_columns(source):
        return {_SPLIT_NAMES.get(split, split): _read_now(of) for split, of in source.items()}, None
    return {"test": _read_now(source)}, "test"


def _is_columns(source: Mapping[str, Any]) -> bool:
    """True for the columns of a table in a dict, such as {"question": [...], "answer": [...]}."""
    return "question" in source and all(isinstance(of, (list, tuple)) for of in source.values())


def _read_now(source: Any) -> TaskSource:
    """Tables of other packages as lists, which can be read more than once."""
    if isinstance(source, Mapping):
        names = list(source)
        return [dict(zip(names, row, strict=True)) for row in zip(*source.values(), strict=True)]
    if not isinstance(source, (str, Path, list, tuple)) and is_frame(source):
        return list(frame_rows(source))
    found: TaskSource = source
    return found


def _split_loader(
    name: str, split: str, source: TaskSource, reading: QuestionReading
) -> Callable[[], TaskSet]:
    place = f"{name}/{split}"
    if is_fetched(source):
        raise ValueError(f"{place}: a dataset of the hub brings its own splits, got {source!r}")
    if is_lazy(source):
        return Once(
            lambda: TaskSet(read_split(source, place, "", reading), name=name, split=split), place
        )
    tasks = TaskSet(read_split(source, place, "", reading), name=name, split=split)
    return lambda: tasks


def _own_loader(
    name: str,
    reading: QuestionReading,
    loaders: Mapping[str, Callable[[], TaskSet]],
    options: Options,
) -> Callable[[], Corpus]:
    """Loads the paragraphs of all splits, once these have been read."""

    def load() -> Corpus:
        for loader in loaders.values():
            loader()
        if not reading.paragraphs:
            raise DataError(f"dataset {name!r}: the questions carry no paragraphs of their own")
        return options.cutting.corpus(Corpus(list(reading.paragraphs.values())))

    return load


def _with_gold(dataset: Dataset, tasks: TaskSet, options: Options) -> TaskSet:
    """The tasks with the passages of the corpus that hold the evidence which they name."""
    named = list(tasks)
    if options.cutting.words is not None and any(task.gold_passages for task in tasks):
        named = [_with_pieces(task, dataset.corpus()) for task in tasks]
    if not any(map(needs_gold, named)):
        return TaskSet(named, name=tasks.name, split=tasks.split)
    found, counts = find_gold(named, dataset.corpus())
    lost = gold_warning(counts)
    if lost:
        warnings.warn(f"dataset {dataset.name!r}, split {tasks.split!r}: {lost}", stacklevel=2)
    return TaskSet(found, name=tasks.name, split=tasks.split)


def _with_pieces(task: QATask, corpus: Corpus) -> QATask:
    """Names the pieces of documents that were cut in place of the documents."""
    gold = tuple(
        tuple(p for one in hop for p in pieces_of(one, corpus)) for hop in task.gold_passages
    )
    return replace(task, gold_passages=gold)


def pieces_of(document: str, corpus: Corpus) -> list[str]:
    """The passages of a corpus that a document became; its own id if it was not cut."""
    if f"{document}#1" not in corpus:
        return [document]
    found, number = [], 1
    while f"{document}#{number}" in corpus:
        found.append(f"{document}#{number}")
        number += 1
    return found
