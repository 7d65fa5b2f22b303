"""Files that are compressed: gzip, bzip2, xz, zstd, or the one file in a zip.

What a file is, its first bytes say, not its name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final, cast

from calibadv_env.common.extras import import_extra
from calibadv_env.errors import DataError

PACKED_ENDS: Final = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Ends of names that say how a file is compressed."""

DAMAGED: Final = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""Errors, beside other :class:`OSError`, that reading a damaged file raises."""

_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_XZ: Final = b"\xfd7zXZ"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZIP: Final = b"PK\x03\x04"
_SHEETS: Final = "xl/"
_NOT_DATA: Final = ("__MACOSX/", ".")


class PackedError(DataError):
    """A compressed file is not one file of data; the message says what to do."""


def unpacked_name(name: str) -> str:
    """A name without the end that says how the file is compressed."""
    end = next((end for end in PACKED_ENDS if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)]


def is_packed(path: Path) -> bool:
    """True for a compressed file.

    Raises:
        OSError: if it cannot be opened.
    """
    with path.open("rb") as raw:
        return raw.read(6).startswith((_GZIP, _BZIP2, _XZ, _ZSTD, _ZIP))


def open_binary(path: Path) -> IO[bytes]:
    """Opens a file, compressed or not.

    Raises:
        OSError: if it cannot be opened.
        PackedError: if it is a zip of several files or a workbook, saying what to do.
        MissingDependencyError: if zstd needs a package that is not installed.
    """
    with path.open("rb") as raw:
        head = raw.read(6)
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if head.startswith(_BZIP2):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if head.startswith(_XZ):
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if head.startswith(_ZSTD):
        arrow = import_extra("pyarrow", "data", "reading zstd")
        stream = arrow.input_stream(str(path), compression="zstd")
        return cast("IO[bytes]", io.BufferedReader(stream))
    return _only_member(path) if head.startswith(_ZIP) else path.open("rb")


def _only_member(path: Path) -> IO[bytes]:
    """The one file in a zip."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if any(name.startswith(_SHEETS) for name in names):
            raise PackedError(
                f"{path}: this is a workbook of a spreadsheet; save the sheet as CSV in UTF-8, or "
                "in Python `pandas.read_excel(FILE).to_csv(NEW, index=False)`"
            )
        names = [name for name in names if not name.startswith(_NOT_DATA)]
        if len(names) != 1:
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise PackedError(
                f"{path}: this zip holds {len(names)} files ({shown}); unpack it "
                f"(`unzip {path.name} -d {path.stem}`) and name the folder or one of them"
            )
        try:
            return archive.open(names[0])
        except (RuntimeError, NotImplementedError) as error:  # a password, a rare compression
            raise PackedError(f"{path}: cannot unpack {names[0]}: {error}") from error
