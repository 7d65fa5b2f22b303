"""Folders of prepared data: each appears whole or not at all, and only over one of its kind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calibadv_env.data.prepared import PREPARED
from calibadv_env.errors import DataError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place, over an earlier one, if nothing went wrong.

    Args:
        folder: Its place; what stands above is made if need be.

    Yields:
        The folder to fill.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_foreign_folder(folder: Path) -> None:
    """Refuses to write over data that is not our own.

    Raises:
        DataError: if something lies there that ``calibadv data prepare`` did not write.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / PREPARED).is_file()):
        raise DataError(
            f"{folder}: the folder holds files that calibadv data prepare did not write; move "
            "them away, or let CALIBADV_DATA name another folder"
        )
