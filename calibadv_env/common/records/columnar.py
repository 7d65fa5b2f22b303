"""Records of parquet and Arrow files, a batch at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.common.packed import DAMAGED, is_packed, open_binary
from calibadv_env.common.records.values import plain
from calibadv_env.errors import DataError

_BATCH: Final = 1024


def read_columnar(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a parquet or Arrow file (file or stream), each with its place.

    Raises:
        DataError: if the file is damaged.
        MissingDependencyError: if pyarrow is not installed.
    """
    arrow = import_extra("pyarrow", "data", "reading parquet and Arrow")
    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                yield f"{path}: row {number}", plain(row)
                number += 1
    except (OSError, *DAMAGED, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot read the file near row {number}: {error}") from error


def _batches(path: Path) -> Iterator[Any]:
    ipc = import_extra("pyarrow.ipc", "data", "reading Arrow")
    is_held = is_packed(path)
    with open_binary(path) as stream:
        magic = stream.read(6)
        source: Any = io.BytesIO(magic + stream.read()) if is_held else str(path)
    if magic.startswith(b"PAR1") or not magic.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        parquet = import_extra("pyarrow.parquet", "data", "reading parquet")
        with parquet.ParquetFile(source) as file:
            yield from file.iter_batches(batch_size=_BATCH)
        return
    if magic.startswith(b"ARROW1"):
        with ipc.open_file(source) as file:
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        return
    arrow = import_extra("pyarrow", "data", "reading Arrow")
    with source if is_held else arrow.OSFile(source) as raw, ipc.open_stream(raw) as file:
        yield from file
