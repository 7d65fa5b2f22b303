"""Questions and documents in JSON: lines, lists and objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from calibadv_env.common.records import read_records
from calibadv_env.data.reading import Reader


class FileReader(Reader):
    """A file on this machine, of which the content says what it is."""

    def records(self, source: str, split: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Its records; see :func:`calibadv_env.common.records.read_records`."""
        return read_records(source)


class JsonlReader(FileReader):
    """JSON; also reads what no other reader does, whatever its name."""

    name = "jsonl"
    suffixes = (".jsonl", ".json", ".ndjson", ".jsonlines")


READERS: Final = (JsonlReader(),)
