"""Manifest and files of an index on disk, which appears whole or not at all.

An index is a folder. While it is built it stands under a hidden name beside its place,
``.NAME.partial``; the last act of a build is to rename it, or to exchange it with the index that
gives way. A process that is killed therefore leaves a hidden folder, which the next build clears
or goes on from, and never a half index or none.
``manifest.json`` names the kind, the settings, the hash of the corpus, and the size and hash of
every file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from calibadv_env.common.files import remove_folder, replace_folder, sweep
from calibadv_env.common.locks import hold_place
from calibadv_env.errors import DataError

FORMAT: Final = "calibadv-index"
VERSION: Final = 1
"""Raised whenever the files change in a way that older code would misread."""
MANIFEST: Final = "manifest.json"

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done, and how much there is (None: unknown)."""


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Ignores what it is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Size and hash of one file.

    Attributes:
        num_bytes: Its size.
        sha256: Hash of its bytes.
    """

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Facts that an index keeps about itself.

    Attributes:
        kind: "corpus", "bm25", "tantivy", "dense", "hybrid" or "rerank".
        corpus_sha256: Hash of the passages, as :attr:`Corpus.sha256` computes it.
        num_passages: How many there are.
        settings: Settings that the search depends on.
        files: Every file of the index by its path within the folder.
    """

    kind: str
    corpus_sha256: str
    num_passages: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileFacts] = field(default_factory=dict)


class HashedFile:
    """A file that is written from start to end and hashed on the way.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes | npt.NDArray[Any]) -> None:
        """Appends bytes, or the raw values of an array.

        Raises:
            OSError: if the disk does not take them.
        """
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        self._stream.write(raw)
        self._digest.update(raw)
        self.num_bytes += len(raw)

    def close(self) -> FileFacts:
        """Brings everything to the disk; gives size and hash."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return FileFacts(num_bytes=self.num_bytes, sha256=self._digest.hexdigest())

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file, whatever happened."""
        self._stream.close()


def write_array(path: Path, array: npt.NDArray[Any]) -> FileFacts:
    """Writes the raw values of an array; gives size and hash of the file."""
    with HashedFile(path) as file:
        file.write(array)
        return file.close()


def map_array(path: Path, dtype: str, *, in_memory: bool = False) -> npt.NDArray[Any]:
    """A file of raw values as a read-only array ``[value]``.

    It is mapped, which costs no memory of its own, unless it is to be read ``in_memory``.
    """
    if in_memory or path.stat().st_size == 0:
        return np.fromfile(path, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def file_facts(path: Path) -> FileFacts:
    """Size and hash of a file that is there."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return FileFacts(num_bytes=stream.tell(), sha256=digest.hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> FileFacts:
    """Writes the manifest of an index; gives size and hash of the file."""
    record = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    with HashedFile(folder / MANIFEST) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")
        return file.close()


def read_manifest(folder: str | Path, kind: str | None = None) -> Manifest:
    """Reads the manifest of an index, which must have the kind, if one is given.

    Raises:
        DataError: if the folder holds no index, one of another format version, one of another
            kind, or if a file that the manifest names lies outside the folder.
    """
    path = Path(folder) / MANIFEST
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder}: there is no index here ({MANIFEST}: {error.strerror}); "
            "make one with `calibadv index`"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: the manifest is damaged: {error}; build it again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path}: this is not the manifest of an index of calibadv")
    if record.get("version") != VERSION:
        raise DataError(
            f"{folder}: the index has format version {record.get('version')!r}, this code reads "
            f"{VERSION}; build it again"
        )
    try:
        manifest = Manifest(
            kind=record["kind"],
            corpus_sha256=record["corpus_sha256"],
            num_passages=record["num_passages"],
            settings=record["settings"],
            files={name: FileFacts(**facts) for name, facts in record["files"].items()},
        )
        _check_types(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: the manifest is damaged: {error!r}; build it again") from error
    if kind is not None and manifest.kind != kind:
        raise DataError(f"{folder}: the index must be of kind {kind!r}, got {manifest.kind!r}")
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Refuses a manifest that no build wrote: it may come from anywhere.

    Raises:
        TypeError: naming what is wrong.
    """
    if not isinstance(manifest.kind, str) or not isinstance(manifest.corpus_sha256, str):
        raise TypeError("kind and corpus_sha256 must be strings")
    if not isinstance(manifest.num_passages, int) or manifest.num_passages < 0:
        raise TypeError("num_passages must be a number, 0 or more")
    if not isinstance(manifest.settings, Mapping):
        raise TypeError("settings must be an object")
    for name in manifest.files:
        place = PurePath(name)
        if place.is_absolute() or ".." in place.parts or not place.parts or "\0" in name:
            raise TypeError(f"the file {name!r} must lie inside the folder")


def check_files(folder: Path, manifest: Manifest, *, verify: bool = False) -> None:
    """Compares the files of an index with its manifest.

    Args:
        folder: The index.
        manifest: Its manifest.
        verify: If true, every byte is read and hashed; else only sizes are compared.

    Raises:
        DataError: if a file is missing or is not the one that was written.
    """
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: this file of the index is missing; build the index again")
        size = path.stat().st_size
        if size != facts.num_bytes:
            raise DataError(
                f"{path}: must have {facts.num_bytes} bytes, got {size}; build the index again"
            )
        if verify and file_facts(path) != facts:
            raise DataError(
                f"{path}: the bytes are not those that were written; build the index again"
            )


def check_settings(folder: str | Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses an index whose settings (``there``) are not those of this code (``wanted``).

    Raises:
        DataError: if a setting differs.
    """
    for name, value in wanted.items():
        if there.get(name) != value:
            raise DataError(
                f"{folder}: the index was built with {name} {there.get(name)!r}, this code has "
                f"{value!r}; build it again"
            )


def check_corpus(folder: str | Path, manifest: Manifest, corpus_sha256: str) -> None:
    """Refuses an index that was made from another corpus than the one with this hash.

    Raises:
        DataError: if the hashes differ.
    """
    if manifest.corpus_sha256 != corpus_sha256:
        raise DataError(
            f"{folder}: the index was made from another corpus (hash "
            f"{manifest.corpus_sha256[:12]}…, {manifest.num_passages:,} passages) than the one "
            f"that is asked for (hash {corpus_sha256[:12]}…); build it again"
        )


@contextmanager
def building(
    out: str | Path, *, overwrite: bool = False, is_resumable: bool = False
) -> Iterator[Path]:
    """A folder to build in, which takes its place when all is done.

    Args:
        out: Where the index shall be.
        overwrite: If true, an index that is there gives way, at the very end.
        is_resumable: If true, a folder that an interrupted build left is kept, and is left
            again if this build fails.

    Yields:
        The folder to write into.

    Raises:
        InUseError: naming the process, if another one builds there.
        DataError: if the place is taken, or the disk does not take the files.
    """
    out = Path(out).absolute()
    with hold_place(out):
        partial = out.parent / f".{out.name}.partial"
        sweep(out)
        # A finished index under the hidden name is an old one whose removal was interrupted.
        if partial.is_dir() and (not is_resumable or (partial / MANIFEST).is_file()):
            remove_folder(partial, out)
        if out.exists() and not overwrite:
            raise DataError(f"{out}: is there already; choose another folder, or pass --overwrite")
        if overwrite and out.exists():
            read_manifest(out)
        try:
            partial.mkdir(exist_ok=True)
            yield partial
            replace_folder(partial, out)
        except BaseException as error:
            if not is_resumable and partial.is_dir():
                remove_folder(partial, out)
            if isinstance(error, OSError):
                raise DataError(f"{out}: the index could not be written: {error}") from error
            raise
