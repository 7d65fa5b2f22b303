"""Runs the audit of a dataset and keeps its figures beside the data, for evaluations to find."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibadv_env.common.checks import require_positive
from calibadv_env.common.files import is_path, write_text
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.merged import MARK
from calibadv_env.data.names import data_root
from calibadv_env.data.preparing.audit import Coverage, measure_coverage
from calibadv_env.data.preparing.balance import Balance, measure_balance
from calibadv_env.data.reading import is_fetched
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.index_files import Progress, no_progress

AUDIT: Final = "audit.json"
"""Name of the file; it holds the latest audit of each split."""

FORMAT: Final = 1
NO_RETRIEVER: Final = "none"
TRAIN: Final = "train"
_REPORT_EVERY: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """Figures, and what they are the figures of.

    Attributes:
        dataset: Name of the dataset.
        split: The split.
        split_size: Number of its tasks; the coverage says how many of them were asked.
        seed: Seed of the choice of tasks, None if all were asked.
        corpus_sha256: Hash of the corpus.
        num_passages: Its size.
        retriever: Name of the retriever, "none" if nothing was searched.
        top_k: How many passages a search gave.
        coverage: The figures.
        balance: How the questions of the whole split are spread.
    """

    dataset: str
    split: str
    split_size: int
    seed: int | None
    corpus_sha256: str
    num_passages: int
    retriever: str
    top_k: int
    coverage: Coverage
    balance: Balance


def audit_dataset(
    name: str,
    *,
    split: str = "eval",
    retriever: str = "bm25",
    top_k: int = 3,
    max_tasks: int | None = None,
    seed: int = 0,
    normalizer: Normalizer = "auto",
    progress: Progress = no_progress,
) -> AuditResult:
    """Audits a split of a dataset against its corpus.

    Args:
        name: The dataset, as for :func:`calibadv_env.get_dataset`.
        split: Its split; "eval" for the one that it is evaluated on.
        retriever: Name of the retriever; "none" looks at the corpus alone.
        top_k: How many passages a search gives, at least 1.
        max_tasks: Asks about a sample of this size; None asks about all.
        seed: Seed of the sample.
        normalizer: Normal form in which answers are looked for.
        progress: Is told how far it is.

    Raises:
        ValueError: if an argument is out of its range or names nothing that exists.
        DataError: if the data is missing or faulty.
        RetrieverError: if a search could not be carried out.
    """
    require_positive(top_k=top_k, max_tasks=max_tasks)
    dataset = get_dataset(name)
    tasks = dataset.tasks(split)
    asked = _sample(tasks, max_tasks, seed)
    corpus = dataset.corpus()
    coverage = measure_coverage(
        asked,
        _reporting(corpus, progress),
        None if retriever == NO_RETRIEVER else dataset.retriever(retriever),
        top_k,
        normalizer,
    )
    return AuditResult(
        dataset=dataset.name,
        split=tasks.split,
        split_size=len(tasks),
        seed=None if len(asked) == len(tasks) else seed,
        corpus_sha256=corpus.sha256,
        num_passages=len(corpus),
        retriever=retriever,
        top_k=top_k,
        coverage=coverage,
        balance=measure_balance(tasks, _train_of(dataset, tasks)),
    )


def audit_path(name: str) -> Path:
    """The file with the audits of a dataset, given by its name or folder.

    It is ``audit.json`` in the folder; beside a file, ``<file>.audit.json``; for any other name, in
    the folder of that name under :func:`calibadv_env.data.names.data_root`.
    """
    path = Path(name)
    if is_path(name) and (MARK not in name or path.exists()):
        path = path.resolve()
        return path.with_name(f"{path.name}.{AUDIT}") if path.is_file() else path / AUDIT
    parts = [part.strip().rstrip("/\\") for part in name.lower().split(MARK)]
    if not is_fetched(name):
        parts = [Path(part).name for part in parts]
    return data_root() / re.sub(r"[^\w.+-]+", "_", MARK.join(parts)) / AUDIT


def write_audit(result: AuditResult, path: Path) -> None:
    """Puts figures in place of earlier ones of the same split; makes the file if need be.

    Raises:
        DataError: if the file that is there cannot be read.
        OSError: if it cannot be written.
    """
    splits = {**_read(path), result.split: asdict(result)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"format": FORMAT, "splits": splits}, indent=2) + "\n")


def audit_of(name: str, split: str, corpus_sha256: str) -> dict[str, Any] | None:
    """The audit that belongs beside a result.

    Args:
        name: Name or folder of the dataset.
        split: The split that was evaluated, by its own name; "eval" is looked up.
        corpus_sha256: Hash of the corpus that was searched.

    Returns:
        The fields of :class:`AuditResult`; None if the split was never audited, or was audited
        with another corpus.

    Raises:
        DataError: if the file cannot be read.
    """
    splits = _read(audit_path(name))
    if split not in splits and splits:
        split = get_dataset(name).tasks("eval").split if split == "eval" else split
    found: dict[str, Any] | None = splits.get(split)
    return found if found and found["corpus_sha256"] == corpus_sha256 else None


def _read(path: Path) -> dict[str, Any]:
    """The audits in a file by split, none if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: format must be {FORMAT}; run calibadv data audit again")
    splits: dict[str, Any] = content["splits"]
    return splits


def _sample(tasks: TaskSet, max_tasks: int | None, seed: int) -> list[QATask]:
    """Some of the tasks, in the order of the split."""
    if max_tasks is None or max_tasks >= len(tasks):
        return list(tasks)
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(tasks))[:max_tasks]
    return [tasks[int(i)] for i in sorted(chosen)]


def _train_of(dataset: Dataset, tasks: TaskSet) -> TaskSet | None:
    """The training split beside another one; None where there is none at hand."""
    if TRAIN not in dataset.splits:
        return None
    try:
        train = dataset.tasks(TRAIN)
    except DataError:
        # The files of a benchmark's training split need not be here to audit its dev split.
        return None
    return None if train.split == tasks.split else train


def _reporting(corpus: Corpus, progress: Progress) -> Iterator[Passage]:
    for done, passage in enumerate(corpus):
        if done % _REPORT_EVERY == 0:
            progress("search the corpus for answers", done, len(corpus))
        yield passage
