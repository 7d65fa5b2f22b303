"""Paths, and files and folders that appear whole or not at all.

Files and folders are made under a hidden name beside their place and renamed when they are
complete, so a reader, or the next run after a kill, finds the old content or the new one and never
a mixture. Contents are on the disk before they get their name, and the name is before the call
returns. What a killed process left under hidden names is removed by whoever next writes there.
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

from calibadv_env.common.locks import hold_place, try_lock

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
        OSError: naming the file, if it cannot be written; the old one is as it was.
    """
    path = Path(os.path.realpath(path))
    sweep(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with naming(path):
        partial, descriptor = _create_locked(path)
        try:
            with os.fdopen(descriptor, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the path to errors of the system that name none, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _create_locked(path: Path) -> tuple[Path, int]:
    """A new file under a hidden name, locked, so that others tell it from one left behind."""
    while True:
        partial = _hidden(path)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # Another process may have taken it for one left behind before it was locked.
        if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            return partial, descriptor
        os.close(descriptor)


def _hidden(path: Path, ending: str = "partial") -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def sweep(place: Path) -> None:
    """Removes what killed processes left under the hidden names of a file or folder.

    Folders are removed whoever made them: whoever sweeps the place of a folder holds it
    (:func:`calibadv_env.common.locks.hold_place`). A folder that gave way to one that never came
    gets its name back.
    """
    pattern = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    for left in list(place.parent.iterdir()):
        match = pattern.fullmatch(left.name)
        if match is None:
            continue
        if match[1] == "old" and not place.exists():
            left.rename(place)
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            _remove_unless_locked(left)


def sweep_files(folder: Path) -> None:
    """Removes the half files that killed processes left in a folder and in those below it."""
    pattern = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
    for path in sorted(folder.rglob(".*.partial")):
        if pattern.fullmatch(path.name) and path.is_file():
            _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    """Removes a file that no living process is writing."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if try_lock(descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


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
        InUseError: if another process is making a folder in this place.
        OSError: if a folder cannot be made or renamed; the old one is as it was.
    """
    place = Path(place).absolute()
    with hold_place(place), naming(place):
        sweep(place)
        partial = _hidden(place)
        partial.mkdir()
        try:
            yield partial
            replace_folder(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, place: Path) -> None:
    """Puts a finished folder in the place of another, or of none, and removes the old one.

    All of it is on the disk before it gets its name. On Linux the two exchange their names in one
    step, so that there is no moment without a folder; a kill after it leaves the old one, whole,
    under the hidden name of the new, or under one that :func:`sweep` knows. Elsewhere the old one
    is renamed first.

    Args:
        new: The finished folder, in the same file system.
        place: Where it belongs.

    Raises:
        OSError: if a name cannot be changed; nothing is lost.
    """
    sync_tree(new)
    if not place.exists():
        new.rename(place)
        sync_folder(place.parent)
    elif _exchange(new, place):
        sync_folder(place.parent)
        remove_folder(new, place)
    else:
        old = _hidden(place, "old")
        place.rename(old)
        new.rename(place)
        sync_folder(place.parent)
        shutil.rmtree(old)


def remove_folder(folder: Path, place: Path) -> None:
    """Removes a folder beside a place that the caller holds.

    It gets a name first that :func:`sweep` knows: half removed under its own, it could be taken for
    one that is half made.
    """
    hidden = _hidden(place)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def sync_tree(folder: Path) -> None:
    """Waits until a folder and every file and folder below it is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, or what a file holds."""
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
