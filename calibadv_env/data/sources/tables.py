"""Questions and documents in tables: CSV and TSV, parquet and Arrow.

A table of questions has the columns ``question`` and ``answer`` or ``answers``; one of documents
has ``text``; other names are understood too. ``docs/datasets.md`` describes them.
"""

from __future__ import annotations

from typing import Final

from calibadv_env.data.sources.jsonl import FileReader


class TableReader(FileReader):
    """Tables of text: CSV and TSV."""

    name = "csv"
    suffixes = (".csv", ".tsv", ".tab")


class ColumnarReader(FileReader):
    """Tables of columns: parquet, and Arrow's files and streams."""

    name = "parquet"
    suffixes = (".parquet", ".arrow", ".feather")


READERS: Final = (TableReader(), ColumnarReader())
