"""Readers of the shapes in which systems log rollouts, found by their place.

A module in ``calibadv_algo/traces/shapes`` declares its readers in a tuple ``READERS``. Another
package declares one by an entry point of the group ``calibadv_algo.trace_readers``::

    [project.entry-points."calibadv_algo.trace_readers"]
    mine = "my_package.logs:MyReader"

Its shape is then told by its first record, and ``--format mine`` names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_env.common.plugins import plugins

GROUP: Final = "calibadv_algo.trace_readers"
"""Group of the entry points by which other packages add shapes."""


class TraceReader:
    """A shape of records of rollouts. It has no state.

    Attributes:
        name: Its name for ``--format``.
        rank: Readers are asked in the order of their ranks, the most particular first.
        needs: What such a record has, in words, for the message about one that no reader reads.
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 0
    needs: ClassVar[str] = ""

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True for a record of this shape, by its fields."""
        raise NotImplementedError

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollouts of a record; none of one that failed before the policy wrote anything.

        Raises:
            TraceError: naming file and line, if a part is missing or of another kind.
        """
        raise NotImplementedError


@cache
def _built_in() -> tuple[TraceReader, ...]:
    package = importlib.import_module("calibadv_algo.traces.shapes")
    found: list[TraceReader] = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        found += getattr(importlib.import_module(module.name), "READERS", ())
    return tuple(found)


def readers() -> tuple[TraceReader, ...]:
    """All readers, in the order in which they are asked.

    Raises:
        DataError: if another package cannot be imported.
        TraceError: if it gives something else.
    """
    found = list(_built_in())
    for plugin in plugins(GROUP).values():
        kind = plugin.load()
        reader = kind() if isinstance(kind, type) else kind
        if not isinstance(reader, TraceReader):
            raise TraceError(f"{plugin.origin} must give a TraceReader, got {reader!r:.80}")
        found.append(reader)
    return tuple(sorted(found, key=lambda reader: (reader.rank, reader.name)))


def reader_named(name: str) -> TraceReader:
    """The reader of a name.

    Raises:
        ValueError: if there is none.
    """
    found = {reader.name: reader for reader in readers()}
    if name not in found:
        raise ValueError(f"format must be auto or one of {', '.join(sorted(found))}, got {name!r}")
    return found[name]


def find_reader(record: Mapping[str, Any]) -> TraceReader | None:
    """The reader of a record, by its fields; None if there is none."""
    return next((reader for reader in readers() if reader.reads(record)), None)
