"""Datasets of the hub, or local copies of them, through the package ``datasets``.

``hf:owner/name`` or ``hf:owner/name:configuration``; for a copy on this machine ``hf:./folder``.
Nothing is loaded before it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from calibadv_env.data.base import QATask
from calibadv_env.data.sources.flashrag import without_none
from calibadv_env.data.sources.tables import task_of_row
from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, parse_passage

PREFIX: Final = "hf:"
"""How the name of a dataset on the hub begins."""

_SPLIT_NAMES: Final = {"validation": "dev", "valid": "dev", "val": "dev"}


def is_hub_name(source: object) -> bool:
    """Whether this names a dataset of the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class HubData:
    """One configuration of one dataset.

    Attributes:
        repository: ``owner/name``, or the folder of a copy.
        config: Its configuration, None for the only or default one.
    """

    repository: str
    config: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubData:
        """Reads ``hf:owner/name`` or ``hf:owner/name:configuration``.

        Raises:
            ValueError: if it has another form.
        """
        repository, _, config = name.removeprefix(PREFIX).partition(":")
        if not is_hub_name(name) or "/" not in repository.strip("/"):
            raise ValueError(
                f"a dataset of the hub must be named hf:owner/name or hf:owner/name:configuration, "
                f"got {name!r}"
            )
        return cls(repository, config or None)

    @property
    def label(self) -> str:
        """Its name."""
        return PREFIX + self.repository + (f":{self.config}" if self.config else "")

    def splits(self) -> dict[str, str]:
        """Its splits: our name for each, and its own. "validation" is our "dev".

        Raises:
            DataError: if it cannot be loaded, with what to do about that.
            MissingDependencyError: if the package ``datasets`` is not installed.
        """
        return {_SPLIT_NAMES.get(name, name): name for name in self._load()}

    def tasks(self, split: str) -> list[QATask]:
        """The tasks of one of its own splits.

        A row has ``question`` and the answers in ``golden_answers``, ``answers`` or ``answer``;
        :func:`calibadv_env.data.sources.tables.task_of_row` says what else.

        Raises:
            DataError: if it cannot be loaded, or a row is faulty, with the row.
        """
        tasks: dict[str, QATask] = {}
        for place, number, row in self._rows(split):
            try:
                task = task_of_row(row, number)
            except ValueError as error:
                raise DataError(f"{place}: {error}") from error
            if task.id in tasks:
                raise DataError(f"{place}: id {task.id!r} stands twice")
            tasks[task.id] = task
        if not tasks:
            raise DataError(f"{self.label} {split} holds no row")
        return list(tasks.values())

    def corpus(self) -> Corpus:
        """All its rows as passages: ``{id, contents}`` or ``{id, title, text}``.

        Raises:
            DataError: if it cannot be loaded, or a row is faulty, with the row.
        """
        passages: dict[str, Passage] = {}
        for split in self._load():
            for place, _, row in self._rows(split):
                try:
                    passage = parse_passage(row)
                except ValueError as error:
                    raise DataError(f"{place}: {error}") from error
                if passage.id in passages:
                    raise DataError(f"{place}: id {passage.id!r} stands twice")
                passages[passage.id] = passage
        if not passages:
            raise DataError(f"{self.label} holds no row")
        return Corpus(list(passages.values()))

    def _rows(self, split: str) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
        for number, row in enumerate(self._load()[split]):
            yield f"{self.label} {split}[{number}]", number + 1, without_none(row)

    def _load(self) -> Any:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise MissingDependencyError(
                "reading from the hub needs the package datasets: pip install 'calibadv[data]'"
            ) from error
        failures = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
        try:
            loaded = datasets.load_dataset(self.repository, self.config)
        except failures as error:
            raise DataError(
                f"{self.label} cannot be loaded: {error}\n{self._how_to_fetch()}"
            ) from error
        return loaded

    def _how_to_fetch(self) -> str:
        folder = self.repository.rstrip("/").rpartition("/")[2]
        config = f":{self.config}" if self.config else ""
        return (
            "On a machine with internet access run\n"
            f"  hf download {self.repository} --repo-type dataset --local-dir {folder}\n"
            f"then copy the folder {folder} here and name hf:./{folder}{config} in place of "
            f"{self.label}"
        )
