"""Several datasets as one: ``nq+hotpotqa`` holds the tasks of both, over one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final

from calibadv_env.data.base import TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.names import EVAL, SPLITS
from calibadv_env.errors import DataError
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus

MARK: Final = "+"
"""Stands between the names of the parts."""


@dataclass(frozen=True, eq=False)
class MergedDataset(Dataset):
    """The tasks of several datasets, one dataset after the other, in the order of the name.

    A split is there if every part has it. "eval" is the evaluation split of each part, whatever it
    is called there. The id of a task becomes ``<dataset>:<id>``, its metadata names the dataset.

    Attributes:
        parts: The datasets.
    """

    _: KW_ONLY
    parts: tuple[Dataset, ...]

    @property
    def is_registered(self) -> bool:
        """True if the names of its parts find these very parts."""
        return all(part.is_registered for part in self.parts)

    @property
    def eval_split(self) -> str:
        """The name that the evaluation splits of all parts share, else "eval"."""
        names = {part.eval_split for part in self.parts}
        return names.pop() if len(names) == 1 else EVAL

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split of every part; see :meth:`Dataset.tasks`."""
        if split == EVAL or split in self.splits:
            return self._once("tasks", split, lambda: self.load_tasks(split))
        missing = [part for part in self.parts if split not in part.splits]
        known = "; ".join(f"{part.name} has {', '.join(part.splits)}" for part in missing)
        raise ValueError(
            f"split of dataset {self.name!r} must be in every part, got {split!r}: {known}"
        )

    def _make_retriever(self, spec: str) -> Retriever:
        """That of the first part, so that a corpus which others use too is indexed once."""
        self.corpus()
        return self.parts[0].retriever(spec)


def merge(parts: Sequence[Dataset]) -> MergedDataset:
    """Joins datasets into one that is named after them, with ``+`` between the names.

    Args:
        parts: At least two, no one twice. They have to search one corpus, which is looked at
            when it is first asked for, so that a search server elsewhere will do without.

    Raises:
        ValueError: if there are fewer than two parts, one stands twice, or they share no split.
    """
    name = MARK.join(part.name for part in parts)
    if len(parts) < 2 or len(set(parts)) != len(parts):
        raise ValueError(f"a merged dataset must have two different parts or more, got {name!r}")
    common = [s for s in parts[0].splits if all(_has_split(part, s) for part in parts[1:])]
    usual = [s for s in SPLITS if s not in common and all(_has_split(part, s) for part in parts)]
    if not common and not usual:
        known = "; ".join(f"{part.name} has {', '.join(part.splits)}" for part in parts)
        raise ValueError(f"the parts of dataset {name!r} must share a split: {known}")
    members = tuple(parts)
    return MergedDataset(
        name=name,
        splits=(*common, *usual),
        load_tasks=lambda split: _tasks(members, name, split),
        load_corpus=lambda: _corpus(members, name),
        description=f"The tasks of {', then '.join(part.name for part in parts)}.",
        parts=members,
    )


def _has_split(part: Dataset, split: str) -> bool:
    return split in part.splits or (part.lone_split is not None and split in SPLITS)


def _tasks(parts: Sequence[Dataset], name: str, split: str) -> TaskSet:
    found = [(part, part.tasks(split)) for part in parts]
    tasks = [
        replace(task, id=f"{part.name}:{task.id}", metadata={**task.metadata, "dataset": part.name})
        for part, of_part in found
        for task in of_part
    ]
    names = list(dict.fromkeys(of_part.split for _, of_part in found))
    shown = MARK.join(names) if split == EVAL else split
    return TaskSet(tasks, name=name, split=shown)


def _corpus(parts: Sequence[Dataset], name: str) -> Corpus:
    """The corpus that all parts share."""
    corpora = [part.corpus() for part in parts]
    if any(corpus is not corpora[0] and corpus.sha256 != corpora[0].sha256 for corpus in corpora):
        hashes = ", ".join(
            f"{part.name} {corpus.sha256[:12]}" for part, corpus in zip(parts, corpora, strict=True)
        )
        raise DataError(
            f"the parts of dataset {name!r} must search one corpus, got corpora with the sha256 "
            f"{hashes}; prepare them with the same --corpus, or name a search server as retriever"
        )
    return corpora[0]
