"""Datasets that ``calibadv data prepare`` has written: their folders, notes and corpora.

Each is a folder under :func:`calibadv_env.data.names.data_root`, known by its name in every
process, or a folder anywhere, known by its path::

    capitals/
      train.jsonl dev.jsonl test.jsonl     tasks
      corpus.jsonl                         passages, unless the corpus is an index elsewhere
      prepared.json                        where all of it comes from
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.files import is_path
from calibadv_env.data.names import CORPUS_VARIABLE, data_root
from calibadv_env.data.reading import read_corpus
from calibadv_env.errors import DataError
from calibadv_env.retrieval.corpus import Corpus

PREPARED: Final = "prepared.json"
"""Beside prepared tasks: where they come from, their sizes, their corpus, what gold was found."""

FORMAT: Final = 1
"""Version of the prepared files."""

_corpora: dict[tuple[Path, int, int], Corpus] = {}
_corpora_lock: Final = threading.RLock()


def read_prepared(folder: Path) -> dict[str, Any] | None:
    """The note that ``calibadv data prepare`` left in a folder; None without one.

    Raises:
        DataError: if the note cannot be read, or is of another version.
    """
    path = folder / PREPARED
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the file: {error}") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise DataError(f"{path}: format must be {FORMAT}; run calibadv data prepare again")
    return note


def open_corpus(path: str | Path) -> Corpus:
    """The user's corpus, the same object at every call while the file stays as it is.

    Args:
        path: A file of documents, which is read into memory; or the folder of an index that
            ``calibadv index`` made, whose passages stay on disk.

    Raises:
        DataError: if there is no such file or folder, or it is faulty.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise DataError(f"{path}: there is no such corpus")
    facts = path.stat()
    key = (path, facts.st_size, facts.st_mtime_ns)
    with _corpora_lock:
        if key not in _corpora:
            _corpora[key] = _open_folder(path) if path.is_dir() else read_corpus(path)
        return _corpora[key]


def _open_folder(path: Path) -> Corpus:
    """The corpus of an index; one that points to others has theirs."""
    from calibadv_env.retrieval.disk_corpus import FOLDER, DiskCorpus
    from calibadv_env.retrieval.index_files import read_manifest
    from calibadv_env.retrieval.opening import open_index

    if (path / FOLDER).is_dir() or read_manifest(path).kind == "corpus":
        return DiskCorpus(path)
    corpus: Corpus = open_index(path).corpus  # type: ignore[attr-defined]
    return corpus


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    """Writes the note of a folder, plain JSON, with the version of the prepared files.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps({"format": FORMAT, **note}, indent=2) + "\n"
    (folder / PREPARED).write_text(text, encoding="utf-8")


def corpus_note(corpus: Corpus, path: str | Path) -> dict[str, Any]:
    """Facts by which :func:`own_corpus` knows a corpus again: path, size and hash."""
    return {"path": str(path), "passages": len(corpus), "sha256": corpus.sha256}


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


def own_folder(name: str) -> Path:
    """The folder of the prepared dataset of a name, or of a path."""
    return Path(name).absolute() if is_path(name) else data_root() / name.lower()


def own_names() -> dict[str, Path]:
    """The datasets under the data folder, with their folders. A faulty one is passed over."""
    found = {}
    for path in sorted(data_root().glob(f"*/{PREPARED}")):
        try:
            name = (read_prepared(path.parent) or {}).get("dataset")
        except DataError:
            continue
        if isinstance(name, str) and own_folder(name) == path.parent:
            found[name] = path.parent
    return found


def own_corpus(folder: Path, note: Mapping[str, Any]) -> Corpus:
    """The corpus of a dataset; where it lies elsewhere and is gone, that of ``CALIBADV_CORPUS``.

    Args:
        folder: Where the dataset lies.
        note: Its ``prepared.json``, with a corpus.

    Raises:
        DataError: if the corpus is not there, faulty, or not the one that was prepared with.
    """
    path = folder / note["corpus"]["path"]
    moved = os.environ.get(CORPUS_VARIABLE)
    if not path.exists() and moved:
        path = Path(moved)
    corpus = open_corpus(path)
    if corpus.sha256 != note["corpus"]["sha256"]:
        raise DataError(
            f"{path}: the corpus has changed since the dataset was "
            f"prepared (sha256 {corpus.sha256} in place of {note['corpus']['sha256']}); run "
            "`calibadv data prepare` again"
        )
    return corpus
