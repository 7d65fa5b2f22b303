"""A corpus that stays on disk: passages are read by their offset when they are asked for."""

from __future__ import annotations

import array
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, overload

import numpy as np

from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.index_files import (
    MANIFEST,
    HashedFile,
    Manifest,
    Progress,
    check_files,
    map_array,
    no_progress,
    read_manifest,
    write_array,
    write_manifest,
)
from calibadv_env.retrieval.passage_records import PassageReading, read_passages, repeated_id

FOLDER: Final = "corpus"
"""Where an index keeps its copy of the passages."""
_PASSAGES: Final = "passages.jsonl"
_OFFSETS: Final = "offsets.u64"
_ID_HASHES: Final = "id_hashes.u64"
_ID_ORDER: Final = "id_order.u32"
_REPORT_EVERY: Final = 4096

CorpusSource: TypeAlias = str | Path | Corpus
"""A JSONL file, plain or gzip; a folder with an index or a corpus on disk; or a corpus."""


class DiskCorpus(Corpus):
    r"""A :class:`Corpus` whose passages are read from disk one by one.

    ``passages.jsonl`` holds one line ``["id","title","text"]`` a passage, exactly what
    :attr:`Corpus.sha256` is the hash of, so the hash of the file is the hash of the corpus.
    Look-up by id goes through a sorted table of 64-bit hashes. Both tables are memory-mapped;
    nothing grows with the corpus but page cache, which the system takes back when it needs it.

    It pickles by its path. Threads may share it.

    Args:
        folder: Folder that :func:`write_corpus` wrote, or an index that holds such a folder.
        verify: If true, every file is hashed; else only sizes are compared.

    Raises:
        DataError: if there is no corpus, or its files are not the ones that were written.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        folder = Path(folder).absolute()
        if (folder / FOLDER).is_dir():
            folder = folder / FOLDER
        self.folder = folder
        self._manifest = read_manifest(folder, "corpus")
        check_files(folder, self._manifest, verify=verify)
        self._offsets = map_array(folder / _OFFSETS, "<u8")
        self._id_hashes = map_array(folder / _ID_HASHES, "<u8")
        self._id_order = map_array(folder / _ID_ORDER, "<u4")
        self._descriptor = os.open(folder / _PASSAGES, os.O_RDONLY)
        self._view = _Passages(self)

    @classmethod
    def from_jsonl(cls, path: str | Path, reading: PassageReading | None = None) -> NoReturn:
        """Not for this class: :func:`write_corpus` brings a file into the right form.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a DiskCorpus is opened from a folder, got {path}; use write_corpus")

    @property
    def passages(self) -> Sequence[Passage]:
        """The passages in order; each is read when it is asked for."""
        return self._view

    @property
    def sha256(self) -> str:
        """Hash of the content, as :attr:`Corpus.sha256` gives it."""
        return self._manifest.corpus_sha256

    def read(self, position: int) -> Passage:
        """Reads the passage of a position, 0 to ``len(corpus) - 1``.

        Raises:
            RetrieverError: if the file no longer holds it.
        """
        start, end = int(self._offsets[position]), int(self._offsets[position + 1])
        try:
            passage_id, title, text = json.loads(os.pread(self._descriptor, end - start, start))
        except (OSError, ValueError) as error:
            raise RetrieverError(
                f"{self.folder / _PASSAGES}: passage {position} cannot be read: {error}"
            ) from error
        return Passage(passage_id, title, text)

    def index_of(self, passage_id: str) -> int:
        """The position of a passage.

        Raises:
            KeyError: if the corpus has no such passage.
        """
        position = self._find(passage_id)
        if position is None:
            raise KeyError(f"the corpus has no passage {passage_id!r}")
        return position

    def _find(self, passage_id: str) -> int | None:
        wanted = np.uint64(_id_hash(passage_id))
        place = int(np.searchsorted(self._id_hashes, wanted))
        while place < len(self) and self._id_hashes[place] == wanted:
            position = int(self._id_order[place])
            if self.read(position).id == passage_id:
                return position
            place += 1
        return None

    def close(self) -> None:
        """Closes the file of passages; the corpus cannot be read after that."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def __len__(self) -> int:
        """Number of passages."""
        return self._manifest.num_passages

    def __iter__(self) -> Iterator[Passage]:
        """Goes through the passages in order, reading the file once."""
        with (self.folder / _PASSAGES).open("rb") as lines:
            for line in lines:
                yield Passage(*json.loads(line))

    def __contains__(self, passage_id: object) -> bool:
        """True if a passage has this id."""
        return isinstance(passage_id, str) and self._find(passage_id) is not None

    def __eq__(self, other: object) -> bool:
        """True if the other one holds equal passages in equal order."""
        return isinstance(other, Corpus) and self.sha256 == other.sha256

    __hash__ = Corpus.__hash__

    def __reduce__(self) -> tuple[type[DiskCorpus], tuple[Path]]:
        """Pickles by path."""
        return DiskCorpus, (self.folder,)

    def __repr__(self) -> str:
        """Names the place and the size."""
        return f"DiskCorpus({str(self.folder)!r}, {len(self)} passages)"


class _Passages(Sequence[Passage]):
    """The passages of a corpus on disk, as a sequence."""

    def __init__(self, corpus: DiskCorpus) -> None:
        self._corpus_len = len(corpus)
        self._read = corpus.read

    def __len__(self) -> int:
        return self._corpus_len

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, index: int | slice) -> Passage | tuple[Passage, ...]:
        if isinstance(index, slice):
            return tuple(self._read(i) for i in range(*index.indices(len(self))))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"position must be below {len(self)}, got {index}")
        return self._read(position)


def write_corpus(
    source: CorpusSource,
    folder: str | Path,
    progress: Progress = no_progress,
    reading: PassageReading | None = None,
) -> DiskCorpus:
    """Brings a corpus into the form that :class:`DiskCorpus` opens, and opens it.

    The text streams through; what is held in memory is 8 bytes a passage, for the table of ids.
    A source that already has this form is linked, not copied, where the file system allows it.

    Args:
        source: A file of any form as for :meth:`Corpus.from_jsonl`; the folder of an index; or a
            corpus.
        folder: Where to write; is made.
        progress: Is told how far it is.
        reading: How the records of a file are read; None for the usual rules.

    Raises:
        DataError: if a line is malformed (with file and line), an id stands twice, or there is
            no passage.
        OSError: if the disk does not take the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = DiskCorpus(source)
    if isinstance(source, DiskCorpus):
        _link_files(source, folder)
        return DiskCorpus(folder)
    if isinstance(source, Corpus):
        _write_files(_reporting(source, len(source), progress), folder, "the corpus")
    else:
        total = estimate_passages(Path(source))
        passages = (passage for _, passage in read_passages(source, reading))
        places = partial(_places, source, reading or PassageReading())
        _write_files(_reporting(passages, total, progress), folder, str(source), places)
    return DiskCorpus(folder)


def estimate_passages(path: Path, sample_bytes: int = 1 << 20) -> int | None:
    """Guess from a file's beginning how many lines it has, for a progress bar; None without one.

    Args:
        path: A plain JSONL file; for a compressed one there is no guess.
        sample_bytes: How much of it to look at.
    """
    try:
        with path.open("rb") as stream:
            sample = stream.read(sample_bytes)
    except OSError:
        return None
    lines = sample.count(b"\n")
    if sample.startswith(b"\x1f\x8b") or not lines:
        return None
    return max(1, round(path.stat().st_size * lines / len(sample)))


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cuts a stream into lists of at most ``size`` items."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


def _reporting(
    passages: Iterable[Passage], total: int | None, progress: Progress
) -> Iterator[Passage]:
    done = 0
    for done, passage in enumerate(passages, start=1):
        if done % _REPORT_EVERY == 0:
            progress("read passages", done, total if total is None else max(total, done))
        yield passage
    progress("read passages", done, done)


def _places(source: str | Path, reading: PassageReading, rows: Collection[int]) -> list[str]:
    """Where the passages of some rows stand in a file, which is read once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given the first time
        again = PassageReading(columns=reading.columns, keep_empty=reading.keep_empty)
        wanted = islice(read_passages(source, again), max(rows) + 1)
        return [place for row, (place, _) in enumerate(wanted) if row in rows]


def _write_files(
    passages: Iterable[Passage],
    folder: Path,
    name: str,
    places: Callable[[Collection[int]], list[str]] | None = None,
) -> None:
    hashes = array.array("Q")
    with HashedFile(folder / _PASSAGES) as lines, HashedFile(folder / _OFFSETS) as offsets:
        offsets.write(np.zeros(1, "<u8"))
        for batch in batched(passages, _REPORT_EVERY):
            rows = [
                json.dumps([p.id, p.title, p.text], separators=(",", ":")).encode("ascii") + b"\n"
                for p in batch
            ]
            ends = lines.num_bytes + np.cumsum([len(row) for row in rows], dtype=np.uint64)
            offsets.write(ends.astype("<u8"))
            lines.write(b"".join(rows))
            hashes.extend(_id_hash(passage.id) for passage in batch)
        files = {_PASSAGES: lines.close(), _OFFSETS: offsets.close()}
    if not hashes:
        raise DataError(f"{name}:1: the file holds no passage")
    values = np.frombuffer(hashes, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    files[_ID_HASHES] = write_array(folder / _ID_HASHES, values[order].astype("<u8"))
    files[_ID_ORDER] = write_array(folder / _ID_ORDER, order.astype("<u4"))
    manifest = Manifest(
        kind="corpus",
        corpus_sha256=files[_PASSAGES].sha256,
        num_passages=len(hashes),
        files=files,
    )
    write_manifest(folder, manifest)
    _refuse_equal_ids(DiskCorpus(folder), name, places)


def _refuse_equal_ids(
    corpus: DiskCorpus, name: str, places: Callable[[Collection[int]], list[str]] | None
) -> None:
    hashes = corpus._id_hashes
    for value in np.unique(hashes[1:][hashes[1:] == hashes[:-1]]):
        low, high = np.searchsorted(hashes, value), np.searchsorted(hashes, value, side="right")
        seen: dict[str, int] = {}
        for position in corpus._id_order[low:high].tolist():
            passage_id = corpus.read(position).id
            if passage_id in seen:
                rows = (seen[passage_id], position)
                named = [f"{name}, passage {row + 1}" for row in rows]
                raise repeated_id(passage_id, *(named if places is None else places(rows)))
            seen[passage_id] = position


def _link_files(source: DiskCorpus, folder: Path) -> None:
    for name in (*source._manifest.files, MANIFEST):
        target = folder / name
        target.unlink(missing_ok=True)
        # A link costs no space, and the files of an index never change; not every disk can.
        try:
            target.hardlink_to(source.folder / name)
        except OSError:
            shutil.copyfile(source.folder / name, target)


def _id_hash(passage_id: str) -> int:
    digest = hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
