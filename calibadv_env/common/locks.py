"""Locks of folders: one process at a time writes into a folder, and others are told who does.

A lock is `flock` on a small file that says who holds it. The system lets go of it when its process
ends, however it ends, so a file that a killed process left behind stops nobody. The file is
removed with the lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from calibadv_env.errors import InUseError

WAIT_S: Final = 2.0
"""Time that a lock is asked for: enough for the children of a killed process to end."""

_POLL_S: Final = 0.02
_UNSUPPORTED: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(slots=True)
class _Hold:
    descriptor: int
    thread: int
    depth: int = 1


_holds: dict[str, _Hold] = {}
_holds_guard: Final = threading.Lock()


@contextmanager
def hold_folder(folder: str | Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds a folder, made if need be, by the file ``.lock`` in it; a thread may do so twice.

    Args:
        folder: The folder that this process writes into.
        wait_s: How long another process is waited for.

    Raises:
        InUseError: naming the process that holds it.
    """
    folder = Path(folder).absolute()
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _hold(folder / ".lock", folder, wait_s):
            yield
    finally:
        if is_new:
            # A command that was refused leaves no empty folder behind; rmdir spares a full one.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def hold_place(place: str | Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds the place of a folder that is replaced as a whole, by ``.NAME.lock`` beside it.

    Args:
        place: Where the folder is or will be; the folder above is made if need be.
        wait_s: How long another process is waited for.

    Raises:
        InUseError: naming the process that holds it.
    """
    place = Path(place).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    with _hold(place.with_name(f".{place.name}.lock"), place, wait_s):
        yield


def try_lock(descriptor: int) -> bool:
    """Locks an open file unless another process has; True too where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(
            "this file system has no locks (an NFS mount without a lock service?): nothing keeps "
            "two processes from writing into one folder",
            RuntimeWarning,
            stacklevel=3,
        )
    return True


@contextmanager
def _hold(file: Path, what: Path, wait_s: float) -> Iterator[None]:
    key = os.path.realpath(file)
    _enter(key, file, what, wait_s)
    try:
        yield
    finally:
        _leave(key, file)


def _enter(key: str, file: Path, what: Path, wait_s: float) -> None:
    me = threading.get_ident()
    with _holds_guard:
        hold = _holds.get(key)
        if hold is not None and hold.thread == me:
            hold.depth += 1
            return
    descriptor = _acquire(file, what, wait_s)
    with _holds_guard:
        _forget_in_children()
        _holds[key] = _Hold(descriptor, me)


def _leave(key: str, file: Path) -> None:
    with _holds_guard:
        hold = _holds.get(key)
        if hold is None:  # a child of the process that holds it
            return
        hold.depth -= 1
        if hold.depth:
            return
        del _holds[key]
    # Removed while it is held: who waits for it sees that its file has gone, and makes another.
    file.unlink(missing_ok=True)
    os.close(hold.descriptor)


def _acquire(file: Path, what: Path, wait_s: float) -> int:
    deadline = time.monotonic() + wait_s
    while True:
        # Whoever held it may have removed the folder that it had made for nothing.
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if try_lock(descriptor):
                if _is_there(descriptor, file):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _about_me())
                    return descriptor
            elif time.monotonic() >= deadline:
                raise InUseError(_refusal(what, os.read(descriptor, 4096)))
            else:
                time.sleep(_POLL_S)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(descriptor: int, file: Path) -> bool:
    """Tells whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _about_me() -> bytes:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else [])
    facts = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": command if len(command) <= 200 else f"{command[:200]}…",
    }
    return json.dumps(facts).encode() + b"\n"


def _refusal(what: Path, held: bytes) -> str:
    try:
        by = "process {pid} on {host}, since {since}: {command}".format(**json.loads(held))
    except (ValueError, KeyError, TypeError):
        by = "another process, which has not said who it is"
    return (
        f"{what} is in use by {by}. Wait for it, end it, or choose another folder; the lock ends "
        "with the process"
    )


def _forget_in_children() -> None:
    """Makes forked children close their copies, which would hold locks for a parent that died."""
    global _children_forget
    if not _children_forget:
        os.register_at_fork(after_in_child=_close_copies)
        _children_forget = True


_children_forget = False


def _close_copies() -> None:
    for hold in _holds.values():
        os.close(hold.descriptor)
    _holds.clear()
