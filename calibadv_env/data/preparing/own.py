"""Makes a dataset of a user's own questions and documents.

:mod:`calibadv_env.data.prepared` says what it consists of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibadv_env.common.files import is_path, new_folder
from calibadv_env.common.jsonl import distinct
from calibadv_env.common.records import read_records
from calibadv_env.common.records.headerless import Placed
from calibadv_env.data.base import QATask, write_tasks
from calibadv_env.data.folders import split_files, split_of_name, stem_of
from calibadv_env.data.gold import GoldCounts, find_gold, gold_warning
from calibadv_env.data.loading import OWN, Options, pieces_of
from calibadv_env.data.names import SPLITS
from calibadv_env.data.prepared import (
    corpus_note,
    open_corpus,
    own_folder,
    refuse_foreign_folder,
    write_note,
)
from calibadv_env.data.preparing.drafting import DRAFT
from calibadv_env.data.questions.parsing import QuestionReading, Row
from calibadv_env.data.reading import corpus_of, find_reader, read_rows, read_split
from calibadv_env.data.sources.text_files import is_document_folder
from calibadv_env.errors import DataError
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.passage_records import PassageReading

CORPUS: Final = "corpus.jsonl"

Shares = tuple[float, float, float]
"""Shares of train, dev and test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrepared:
    """Facts about a dataset that was written.

    Attributes:
        name: Its name, or the path of its folder.
        folder: Where it lies.
        sizes: Number of tasks by split.
        num_documents: Documents that were read; None without any.
        num_passages: Passages that they were cut into; None without any.
        num_with_gold: Tasks that name gold passages.
        notes: What was guessed and left out, in words.
        warnings: Sentences on evidence that the corpus lacks.
    """

    name: str
    folder: Path
    sizes: Mapping[str, int]
    num_documents: int | None
    num_passages: int | None
    num_with_gold: int
    notes: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def prepare_own(
    name: str,
    sources: Sequence[str],
    corpus: Path | str | Sequence[Path] | None,
    *,
    shares: Shares = (0.8, 0.1, 0.1),
    seed: int = 0,
    options: Options | None = None,
    records: Iterable[Placed] | None = None,
) -> OwnPrepared:
    """Makes a dataset of questions and documents.

    Args:
        name: Name or path of the dataset; a name is one that
            :func:`calibadv_env.data.registry.refuse_built_in_name` lets pass.
        sources: Files with tasks, in any form; or one folder of splits; or the name of one dataset
            of the hub. Files called after splits, and splits of the hub, are these splits; else the
            column ``split`` (in JSON the key) says which; else questions are dealt out.
        corpus: Documents in any form, which are written into the folder; or several files of one
            corpus; or the folder of an index, only referred to; or "own" for the paragraphs that
            the questions carry; or None.
        shares: How questions are dealt out. Equal questions stay together.
        seed: Seed of the deal.
        options: How files are read, and documents cut.
        records: The questions of the split test, each with its place, where somebody has read and
            completed those of the sources already; None reads the sources.

    Raises:
        ValueError: if an argument is out of its range.
        DataError: if a file is faulty, a task names a document that there is not, or the folder
            holds something else.
    """
    options = options or Options()
    _check_arguments(sources, shares)
    folder = own_folder(name)
    refuse_foreign_folder(folder)
    reading = options.questions()
    reading.wants_paragraphs = corpus == OWN
    if records is None:
        splits = _read_sources(sources, shares, seed, reading)
    else:
        splits = {"test": _tasks(reading.rows(records))}
        if not splits["test"]:
            raise DataError(f"{sources[0]}: there is no question in it{reading.left_out()}")
    documents, held, is_index = _documents(corpus, reading, options)
    held_note, gold = None, dict[str, GoldCounts]()
    if documents is not None and held is not None:
        held_note = corpus_note(held, Path(str(corpus)).absolute() if is_index else CORPUS)
        gold = _find_gold(splits, documents, held)
    note = {
        "dataset": str(folder) if is_path(name) else name,
        "source": " ".join(sources),
        "corpus": held_note,
        "splits": _split_notes(splits, gold),
    }
    is_written = held_note is not None and held_note["path"] == CORPUS
    _write(folder, splits, held if is_written else None, note)
    lost = {split: gold_warning(counts) for split, counts in gold.items()}
    drafts = _drafts_left(splits)
    return OwnPrepared(
        name=name,
        folder=folder,
        sizes={split: len(tasks) for split, tasks in splits.items()},
        num_documents=None if documents is None else len(documents),
        num_passages=None if held is None else len(held),
        num_with_gold=sum(bool(task.gold_passages) for of in splits.values() for task in of),
        notes=reading.notes(),
        warnings=[f"{split}: {lost[split]}" for split in lost if lost[split]] + drafts,
    )


def _write(
    folder: Path,
    splits: Mapping[str, Sequence[QATask]],
    corpus: Corpus | None,
    note: Mapping[str, Any],
) -> None:
    """Writes tasks, passages and note into a new folder."""
    with new_folder(folder) as partial:
        for split, tasks in splits.items():
            write_tasks(partial / f"{split}.jsonl", tasks)
        if corpus is not None:
            corpus.to_jsonl(partial / CORPUS)
        write_note(partial, note)


def _split_notes(
    splits: Mapping[str, Sequence[QATask]], gold: Mapping[str, GoldCounts]
) -> dict[str, Any]:
    """What the note says of every split; no counts of gold where no question names evidence."""
    named = {split: asdict(of) for split, of in gold.items() if of.tasks_with_evidence}
    return {
        split: {"tasks": len(tasks), "gold": named.get(split)} for split, tasks in splits.items()
    }


def _find_gold(
    splits: dict[str, list[QATask]], documents: Corpus, held: Corpus
) -> dict[str, GoldCounts]:
    """Names gold passages in the tasks of every split, in place, and counts them."""
    gold = {}
    for split, tasks in splits.items():
        named = [_with_gold(task, split, documents, held) for task in tasks]
        splits[split], gold[split] = find_gold(named, held)
    return gold


def deal_out(tasks: Sequence[QATask], shares: Shares, seed: int) -> dict[str, list[QATask]]:
    """Deals tasks out to those of train, dev and test that have a share, in the tasks' order.

    Args:
        tasks: The tasks. Those with equal questions go to one split.
        shares: Share of each split in the different questions; what is rounded away is train's.
        seed: Seed of the order.

    Raises:
        ValueError: if there are fewer different questions than splits.
    """
    questions = list(dict.fromkeys(_key(task) for task in tasks))
    wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
    if len(questions) < len(wanted):
        raise ValueError(
            f"questions must be at least {len(wanted)} different ones to be dealt out to "
            f"{', '.join(wanted)}, got {len(questions)}"
        )
    total = sum(shares)
    split_of: dict[str, str] = {}
    order = iter(np.random.Generator(np.random.PCG64(seed)).permutation(len(questions)))
    for split, share in zip(SPLITS[1:], shares[1:], strict=True):
        if share > 0:
            size = max(1, round(len(questions) * share / total))
            split_of.update((questions[int(next(order))], split) for _ in range(size))
    left = [questions[int(i)] for i in order]
    if shares[0] > 0 and not left:
        raise ValueError(f"shares must leave a question for train, got {shares}")
    split_of.update(dict.fromkeys(left, SPLITS[0] if shares[0] > 0 else wanted[-1]))
    dealt = {split: [task for task in tasks if split_of[_key(task)] == split] for split in wanted}
    return {split: dealt[split] for split in SPLITS if split in dealt}


def _check_arguments(sources: Sequence[str], shares: Shares) -> None:
    if not sources:
        raise ValueError("sources must name at least one file, got none")
    if any(share < 0 for share in shares) or sum(shares) <= 0:
        raise ValueError(f"shares must not be negative, and not all 0, got {shares}")


def _documents(
    corpus: Path | str | Sequence[Path] | None, reading: QuestionReading, options: Options
) -> tuple[Corpus | None, Corpus | None, bool]:
    """The documents, the passages that they were cut into, and whether they are an index."""
    if corpus is None:
        return None, None, False
    if corpus == OWN:
        if not reading.paragraphs:
            raise DataError("the questions carry no paragraphs of their own; name a corpus")
        documents = Corpus(list(reading.paragraphs.values()))
        return documents, options.cutting.corpus(documents), False
    if not isinstance(corpus, (str, Path)):
        placed = chain.from_iterable(map(read_records, corpus))
        passages = PassageReading(columns=options.corpus_columns).passages(placed)
        documents = corpus_of(passages, " ".join(map(str, corpus)))
        return documents, options.cutting.corpus(documents), False
    path = Path(corpus)
    if path.is_dir() and not is_document_folder(path):
        documents = open_corpus(path)
        return documents, documents, True
    documents = options.documents(path)
    return documents, options.cut(path, documents), False


def _read_sources(
    sources: Sequence[str], shares: Shares, seed: int, reading: QuestionReading
) -> dict[str, list[QATask]]:
    """The tasks of each split: as the source is divided, as rows or files say, or dealt out."""
    for source in sources:
        find_reader(source).check(source)
    divided = find_reader(sources[0]).splits(sources[0])
    if divided:
        if len(sources) > 1:
            raise ValueError(f"sources must be one dataset with splits or files, got {sources}")
        return {
            split: read_split(sources[0], split, own, reading) for split, own in divided.items()
        }
    if len(sources) == 1 and Path(sources[0]).is_dir():
        files = split_files(Path(sources[0]))
        return {split: read_split(of, split, "", reading) for split, of in files.items()}
    rows = [list(read_rows(source, "", reading)) for source in sources]
    for source, of_source in zip(sources, rows, strict=True):
        if not of_source:
            raise DataError(f"{source}: there is no question in it")
    stems = [stem_of(Path(source)) for source in sources]
    named_splits = stems if all(stem in SPLITS for stem in stems) else _split_words(stems)
    if named_splits and len(set(named_splits)) == len(named_splits):
        found = dict(zip(named_splits, rows, strict=True))
        return {split: _tasks(found[split]) for split in SPLITS if split in found}
    everything = [row for of_source in rows for row in of_source]
    named = [row.split for row in everything]
    if not any(named):
        return deal_out(_tasks(everything), shares, seed)
    for row in everything:
        if row.split not in SPLITS:
            known = ", ".join(SPLITS)
            raise DataError(f"{row.place}: split must be one of {known}, got {row.split!r}")
    return {
        split: _tasks(row for row in everything if row.split == split)
        for split in SPLITS
        if split in named
    }


def _tasks(rows: Iterable[Row]) -> list[QATask]:
    """The tasks of rows, without what their metadata say about the split."""
    return [
        replace(task, metadata={k: v for k, v in task.metadata.items() if k != "split"})
        for task in distinct((row.place, row.task) for row in rows)
    ]


def _split_words(stems: Sequence[str]) -> list[str]:
    """The splits that several files have in their names; [] unless every one has one."""
    found = [split_of_name(stem) for stem in stems]
    return [split for split in found if split] if len(stems) > 1 and all(found) else []


def _with_gold(task: QATask, split: str, documents: Corpus, held: Corpus) -> QATask:
    """Names passages in place of the documents that they were cut from; passages stay."""
    for hop in task.gold_passages:
        for one in hop:
            if one not in documents and one not in held:
                raise DataError(
                    f"task {task.id!r} in split {split!r} names the document {one!r}, which is not "
                    "among the documents, nor among the passages that they were cut into"
                )
    if documents is held:
        return task
    gold = tuple(
        tuple(p for one in hop for p in pieces_of(one, held)) for hop in task.gold_passages
    )
    return replace(task, gold_passages=gold)


def _drafts_left(splits: Mapping[str, Sequence[QATask]]) -> list[str]:
    """A warning of questions that a model drafted and nobody has looked at; [] without any."""
    tasks = [task for of in splits.values() for task in of]
    left = sum(task.metadata.get("status") == DRAFT for task in tasks)
    if not left:
        return []
    return [
        f"{left} of {len(tasks)} questions have the status {DRAFT!r}: a model wrote them, and "
        "nobody has looked at them. Correct them, and give those that are right another status"
    ]


def _key(task: QATask) -> str:
    return " ".join(task.question.casefold().split())
