"""Datasets of the hub, or local copies of them, through the package ``datasets``.

``hf:owner/name`` or ``hf:owner/name:configuration``; for a copy on this machine ``hf:./folder``.
Nothing is loaded before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.common.records.keys import ANSWERS, squashed
from calibadv_env.common.records.values import plain
from calibadv_env.data.questions.answers import HOLDERS
from calibadv_env.data.reading import Reader
from calibadv_env.errors import DataError

_ANSWERS: Final = frozenset(map(squashed, ANSWERS))
_SPLIT_NAMES: Final = {"validation": "dev", "valid": "dev", "val": "dev"}


class HubReader(Reader):
    """Datasets of the hub, and copies of them."""

    name = "hf"
    prefix = "hf:"

    def check(self, source: str) -> None:
        """Refuses a name without an owner.

        Raises:
            ValueError: if it has another form.
        """
        _parse(source)

    def splits(self, source: str) -> dict[str, str]:
        """Its splits: our name for each, and its own. "validation" is our "dev".

        Raises:
            DataError: if it cannot be loaded, with what to do about that.
            MissingDependencyError: if the package ``datasets`` is not installed.
        """
        return {_SPLIT_NAMES.get(name, name): name for name in _load(source)}

    def records(self, source: str, split: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The rows of one of its own splits, or of all.

        Raises:
            DataError: if it cannot be loaded.
        """
        for name, rows in _load(source).items():
            if split in ("", name):
                for number, cells in enumerate(rows):
                    yield f"{source} {name}[{number}]", row_of(plain(cells))


READERS: Final = (HubReader(),)


def load_from_hub(repository: str, config: str | None, label: str, how_to_fetch: str) -> Any:
    """The splits of a dataset by name, loaded by the package ``datasets``, which keeps it.

    Args:
        repository: ``owner/name``, or the folder of a copy.
        config: Its configuration, None for the only or default one.
        label: Its name in a message.
        how_to_fetch: Instructions for a machine without internet access.

    Raises:
        DataError: if it cannot be loaded, with what to do about that.
        MissingDependencyError: if the package ``datasets`` is not installed.
    """
    datasets = import_extra("datasets", "data", "reading from the hub")
    failures = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        return datasets.load_dataset(repository, config)
    except failures as error:
        raise DataError(f"{label} cannot be loaded: {error}\n{how_to_fetch}") from error


def without_none(value: Any) -> Any:
    """A record without the keys whose value is None, which table formats fill in."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(v) for v in value]
    return value


def row_of(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A record without None, but for its answers: that a question has none is to be told."""
    row: dict[str, Any] = without_none(cells)
    for key, value in cells.items():
        if value is None and squashed(key) in _ANSWERS:
            row[key] = None
        elif key in HOLDERS and isinstance(value, Mapping):
            row[key] = row_of(value)
    return row


def _parse(name: str) -> tuple[str, str | None]:
    """Repository and configuration of a name."""
    repository, _, config = name.removeprefix(HubReader.prefix).partition(":")
    if "/" not in repository.strip("/"):
        raise ValueError(
            f"a dataset of the hub must be named hf:owner/name or hf:owner/name:configuration, "
            f"got {name!r}"
        )
    return repository, config or None


def _load(name: str) -> Any:
    repository, config = _parse(name)
    folder = repository.rstrip("/").rpartition("/")[2]
    shown = f":{config}" if config else ""
    how_to_fetch = (
        "On a machine with internet access run\n"
        f"  hf download {repository} --repo-type dataset --local-dir {folder}\n"
        f"then copy the folder {folder} here and name hf:./{folder}{shown} in place of {name}"
    )
    return load_from_hub(repository, config, name, how_to_fetch)
