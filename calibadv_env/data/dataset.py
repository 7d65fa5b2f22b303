"""A dataset: named splits of tasks, the corpus that holds their evidence, and its retrievers."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Self, TypeVar

from calibadv_env.data.base import TaskSet
from calibadv_env.data.names import EVAL, SPLITS
from calibadv_env.errors import DataError
from calibadv_env.retrieval import is_remote, make_retriever, remote_retriever
from calibadv_env.retrieval.answers import as_retriever
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.pages import Pages, PageStore

_T = TypeVar("_T")

_STRING_REWARDS: Final = ("f1", "em", "cover_em", "step_search")
"""Rewards that know words alone: no abstention, no unit, no set."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named splits of tasks and the corpus that holds their evidence.

    What is loaded or built is kept, once a process, and threads may share a dataset. A pickle
    holds the name alone, so it can only be read where the name is known; how it is found again
    says :meth:`found_by`.

    Attributes:
        name: Its name for :func:`calibadv_env.get_dataset`.
        splits: The splits there are.
        load_tasks: Loads one of these splits; called at most once a split.
        load_corpus: Loads the corpus; called at most once.
        lone_split: The split that stands for all of train, dev and test, if there is one.
        description: One line for people.
        is_gold_checked: If true, gold passages must stand in the corpus. It is off where the
            corpus is known by its hash, or lies elsewhere.
        wrap_retriever: Makes each retriever over the corpus another one, which belongs to the
            dataset as its passages do; a caller's own object is left alone.
        least_turns: Searches that the longest question takes; environments that allow fewer warn.
        reward: Name of the grader that its answers are made for, "" for any metric of strings;
            environments that pay such a metric in its place warn.
        notes: What was guessed and left out when the tasks were read, in words, so far.
    """

    _: KW_ONLY
    name: str
    splits: tuple[str, ...]
    load_tasks: Callable[[str], TaskSet]
    load_corpus: Callable[[], Corpus]
    lone_split: str | None = None
    description: str = ""
    is_gold_checked: bool = True
    wrap_retriever: Callable[[Retriever], Retriever] | None = None
    least_turns: int = 0
    reward: str = ""
    notes: Callable[[], Mapping[str, str]] = dict
    _finders: list[Callable[[str], Dataset]] = field(default_factory=list, init=False, repr=False)
    _cache: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuses a dataset without splits."""
        if not self.splits:
            raise ValueError(f"splits of dataset {self.name!r} must not be empty")
        if self.lone_split is not None and self.lone_split not in self.splits:
            raise ValueError(f"lone_split must be one of {self.splits}, got {self.lone_split!r}")

    def warn_of_rules(self, max_turns: int, reward: object) -> None:
        """Warns of rules under which questions cannot be answered, or are graded wrongly."""
        if max_turns < self.least_turns:
            warnings.warn(
                f"max_turns is {max_turns}, and questions of {self.name} take up to "
                f"{self.least_turns} searches: those that take more cannot be answered; set "
                f"max_turns to at least {self.least_turns}",
                stacklevel=3,
            )
        if self.reward and isinstance(reward, str) and reward in _STRING_REWARDS:
            warnings.warn(
                f"reward is {reward!r}, and answers of {self.name} are made for {self.reward!r}: "
                f"right answers may earn nothing; set reward to {self.reward!r}",
                stacklevel=3,
            )

    def found_by(self, find: Callable[[str], Dataset]) -> Self:
        """This dataset, with a note of the function that finds it by its name, for pickles of it.

        Args:
            find: A function of a module, such as :func:`calibadv_env.get_dataset`.
        """
        self._finders[:] = [find]
        return self

    @property
    def is_registered(self) -> bool:
        """True if its name finds this very dataset."""
        return any(find(self.name) is self for find in self._finders)

    def __reduce__(self) -> tuple[Callable[[str], Dataset], tuple[str]]:
        """Pickles by name."""
        if not self.is_registered:
            raise pickle.PicklingError(f"dataset {self.name!r} is not the registered one")
        return self._finders[0], (self.name,)

    @property
    def eval_split(self) -> str:
        """The split to evaluate on: test, else dev, else train, else the first one."""
        return next((s for s in ("test", "dev", "train") if s in self.splits), self.splits[0])

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, the same object at every call.

        Args:
            split: One of ``splits``; where ``lone_split`` is set, also "train", "dev" or "test",
                which then all mean the lone split; or "eval" for ``eval_split``. The ``split`` of
                what is returned names the one that was meant.

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
            return as_retriever(spec)
        if is_remote(spec):
            return self._once("retriever", spec, lambda: self._wrapped(remote_retriever(spec)))
        return self._once("retriever", spec, lambda: self._make_retriever(spec))

    def pages(self, spec: str | Retriever = "bm25") -> Pages:
        """The pages of the corpus, with the retriever that searches them; built once a name.

        Args:
            spec: As for :meth:`retriever`; an object that opens and finds by itself is given back.
        """
        if isinstance(spec, Pages):
            return spec
        searcher = self.retriever(spec)
        if isinstance(searcher, Pages):
            return searcher
        if not isinstance(spec, str):
            return PageStore(self.corpus(), searcher)
        return self._once("pages", spec, lambda: PageStore(self.corpus(), searcher))

    def _make_retriever(self, spec: str) -> Retriever:
        return self._wrapped(make_retriever(spec, self.corpus()))

    def _wrapped(self, retriever: Retriever) -> Retriever:
        return retriever if self.wrap_retriever is None else self.wrap_retriever(retriever)

    def _once(self, kind: str, key: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            if (kind, key) not in self._cache:
                self._cache[kind, key] = make()
            value: _T = self._cache[kind, key]
            return value

    def _checked_tasks(self, split: str) -> TaskSet:
        tasks = self.load_tasks(split)
        if not self.is_gold_checked:
            return tasks
        for task in tasks:
            for hop in task.gold_passages:
                for passage_id in hop:
                    if passage_id not in self.corpus():
                        raise DataError(
                            f"gold_passages of task {task.id!r} in split {split!r} of dataset "
                            f"{self.name!r} must be in the corpus, got {passage_id!r}"
                        )
        return tasks
