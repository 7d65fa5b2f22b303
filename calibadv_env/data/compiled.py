"""Files that are compiled once and kept in the user's cache, checked by their hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import platformdirs

from calibadv_env.common.files import new_folder
from calibadv_env.errors import InUseError

CACHE_VARIABLE: Final = "CALIBADV_CACHE"

Files = Mapping[str, bytes]
"""Name -> content."""


def cache_root() -> Path:
    """``$CALIBADV_CACHE``, or the user's cache folder if that is not set."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("calibadv"))


def digest_of(files: Files, names: Sequence[str]) -> str:
    """The sha256 over name, length and content of files, in the order of their names."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def read_cached(folder: Path, names: Sequence[str], sha256: str) -> Files | None:
    """The cached files, None if one is missing, unreadable or not what it should be."""
    try:
        files = {name: (folder / name).read_bytes() for name in names}
    except OSError:
        return None
    return files if digest_of(files, names) == sha256 else None


def write_cached(folder: Path, files: Files) -> None:
    """Puts the files in place at once; a cache that cannot be written is done without."""
    with suppress(OSError, InUseError), new_folder(folder) as partial:
        for name, content in files.items():
            (partial / name).write_bytes(content)


def jsonl(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Records as lines of JSON."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return "".join(lines).encode("utf-8")
