"""Makes a dataset of a user's own questions and documents.

:mod:`calibadv_env.data.prepared` says what it consists of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from calibadv_env.common.checks import require_positive
from calibadv_env.common.files import is_path, new_folder
from calibadv_env.common.jsonl import distinct
from calibadv_env.data.base import QATask, write_tasks
from calibadv_env.data.names import SPLITS
from calibadv_env.data.prepared import (
    corpus_note,
    open_corpus,
    own_folder,
    refuse_foreign_folder,
    write_note,
)
from calibadv_env.data.reading import Row, find_reader, read_corpus, read_split
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus

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
    """

    name: str
    folder: Path
    sizes: Mapping[str, int]
    num_documents: int | None
    num_passages: int | None
    num_with_gold: int


def prepare_own(
    name: str,
    sources: Sequence[str],
    corpus: Path | None,
    *,
    shares: Shares = (0.8, 0.1, 0.1),
    passage_words: int | None = None,
    seed: int = 0,
) -> OwnPrepared:
    """Makes a dataset of questions and documents.

    Args:
        name: Name or path of the dataset; a name is one that
            :func:`calibadv_env.data.registry.refuse_built_in_name` lets pass.
        sources: Files with tasks, JSONL or tables; or the name of one dataset of the hub. Files
            called after splits, and splits of the hub, are these splits; else the column ``split``
            (in JSONL the key) says which; else questions are dealt out.
        corpus: Documents as JSONL or as a table, which are written into the folder; or the folder
            of an index, which is only referred to; or None.
        shares: How questions are dealt out. Equal questions stay together.
        passage_words: Longer documents are cut into passages of so many words; None leaves them.
        seed: Seed of the deal.

    Raises:
        ValueError: if an argument is out of its range.
        DataError: if a file is faulty, a task names a document that there is not, or the folder
            holds something else.
    """
    _check_arguments(sources, shares, passage_words)
    folder = own_folder(name)
    refuse_foreign_folder(folder)
    splits = _read_sources(sources, shares, seed)
    documents = held = held_note = None
    if corpus is not None:
        is_index = corpus.is_dir()
        documents = open_corpus(corpus) if is_index else read_corpus(corpus)
        held, passages_of = (documents, None) if is_index else _cut(documents, passage_words)
        held_note = corpus_note(held, corpus.absolute() if is_index else CORPUS)
        splits = {
            split: [_with_gold(task, split, documents, passages_of) for task in tasks]
            for split, tasks in splits.items()
        }
    note = {
        "dataset": str(folder) if is_path(name) else name,
        "source": " ".join(sources),
        "corpus": held_note,
        "splits": {split: {"tasks": len(tasks), "gold": None} for split, tasks in splits.items()},
    }
    with new_folder(folder) as partial:
        for split, tasks in splits.items():
            write_tasks(partial / f"{split}.jsonl", tasks)
        if held is not None and held_note and held_note["path"] == CORPUS:
            held.to_jsonl(partial / CORPUS)
        write_note(partial, note)
    return OwnPrepared(
        name=name,
        folder=folder,
        sizes={split: len(tasks) for split, tasks in splits.items()},
        num_documents=None if documents is None else len(documents),
        num_passages=None if held is None else len(held),
        num_with_gold=sum(bool(task.gold_passages) for of in splits.values() for task in of),
    )


def cut_passages(document: Passage, words: int | None) -> list[Passage]:
    """Cuts a document into passages.

    Args:
        document: The whole document.
        words: Most words of a passage, at least 1; None leaves it whole.

    Returns:
        The document itself if it is short enough; else its pieces, of even length up to one word,
        with its title and the ids ``<id>#1``, ``<id>#2``, …
    """
    parts = document.text.split()
    if words is None or len(parts) <= words:
        return [document]
    pieces = np.array_split(np.arange(len(parts)), -(-len(parts) // words))
    return [
        Passage(
            f"{document.id}#{number}",
            document.title,
            " ".join(parts[piece[0] : piece[-1] + 1]),
        )
        for number, piece in enumerate(pieces, start=1)
    ]


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


def _check_arguments(sources: Sequence[str], shares: Shares, passage_words: int | None) -> None:
    if not sources:
        raise ValueError("sources must name at least one file, got none")
    if any(share < 0 for share in shares) or sum(shares) <= 0:
        raise ValueError(f"shares must not be negative, and not all 0, got {shares}")
    require_positive(passage_words=passage_words)


def _read_sources(sources: Sequence[str], shares: Shares, seed: int) -> dict[str, list[QATask]]:
    """The tasks of each split: as the source is divided, as rows or files say, or dealt out."""
    for source in sources:
        find_reader(source).check(source)
    divided = find_reader(sources[0]).splits(sources[0])
    if divided:
        if len(sources) > 1:
            raise ValueError(f"sources must be one dataset with splits or files, got {sources}")
        return {split: read_split(sources[0], split, own) for split, own in divided.items()}
    stems = [Path(source).name.partition(".")[0] for source in sources]
    rows = [list(find_reader(source).rows(source)) for source in sources]
    for source, of_source in zip(sources, rows, strict=True):
        if not of_source:
            raise DataError(f"{source}: there is no question in it")
    if all(stem in SPLITS for stem in stems) and len(set(stems)) == len(stems):
        return {split: _tasks(rows[stems.index(split)]) for split in SPLITS if split in stems}
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


def _cut(documents: Corpus, words: int | None) -> tuple[Corpus, dict[str, list[str]]]:
    """The passages, and which of them each document became."""
    passages: list[Passage] = []
    passages_of: dict[str, list[str]] = {}
    for document in documents:
        pieces = cut_passages(document, words)
        passages += pieces
        passages_of[document.id] = [piece.id for piece in pieces]
    return Corpus(passages), passages_of


def _with_gold(
    task: QATask, split: str, documents: Corpus, passages_of: Mapping[str, Sequence[str]] | None
) -> QATask:
    """Names passages in place of the documents that they were cut from."""
    for hop in task.gold_passages:
        for one in hop:
            if one not in documents:
                raise DataError(
                    f"task {task.id!r} in split {split!r} names the document {one!r}, which is not "
                    "among the documents"
                )
    if passages_of is None:
        return task
    gold = tuple(tuple(p for one in hop for p in passages_of[one]) for hop in task.gold_passages)
    return replace(task, gold_passages=gold)


def _key(task: QATask) -> str:
    return " ".join(task.question.casefold().split())
