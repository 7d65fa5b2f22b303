"""Paths, and files and folders that appear whole or not at all.

Files and folders are made under a hidden name beside their place and renamed when they are
complete, so a reader, or the next run after a kill, finds the old content or the new one and never
a mixture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]+:")


def is_path(text: str) -> bool:
    r"""Tells a path from a name or an address.

    Args:
        text: What a user has written, such as ``atlas``, ``./quiz.csv`` or ``hf:owner/name``.

    Returns:
        True if there is a ``/`` or ``\\`` in it and no scheme of two letters or more before a
        colon begins it. A path that would begin so is written with ``./`` in front.
    """
    return ("/" in text or "\\" in text) and _SCHEME.match(text) is None


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes its place when the block ends, and leaves nothing if it fails.

    Args:
        path: The file; its folder must exist. A link is followed.
        mode: "w" for text in UTF-8, "wb" for bytes.

    Yields:
        The open file.

    Raises:
        OSError: if the file cannot be written; the old one is as it was.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with partial.open(mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8 that is never seen half written; its folder must exist.

    Raises:
        OSError: if the file cannot be written; the old one is as it was.
    """
    with atomic_file(path) as file:
        file.write(text)


@contextmanager
def new_folder(place: str | Path) -> Iterator[Path]:
    """An empty folder that takes its place, or that of another, when the block ends.

    Args:
        place: Its place; the folder above is made if need be.

    Yields:
        The folder to fill, under a hidden name beside its place; gone if the block fails.

    Raises:
        OSError: if a folder cannot be made or renamed; the old one is as it was.
    """
    place = Path(place).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        replace_folder(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, place: Path) -> None:
    """Puts a finished folder in the place of another, or of none, and removes the old one.

    On Linux the two exchange their names in one step, so that there is no moment without a
    folder; a kill after it leaves the old one under the hidden name of the new. Elsewhere the old
    one is renamed first.

    Args:
        new: The finished folder, in the same file system.
        place: Where it belongs.

    Raises:
        OSError: if a name cannot be changed; nothing is lost.
    """
    if not place.exists():
        new.rename(place)
    elif _exchange(new, place):
        shutil.rmtree(new)
    else:
        old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
        place.rename(old)
        new.rename(place)
        shutil.rmtree(old)
    sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
