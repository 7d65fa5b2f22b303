"""Dense retrieval: passages encoded once, in chunks that survive an interruption, and faiss."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calibadv_env.common.checks import require_positive
from calibadv_env.common.files import atomic_file, sweep_files, write_text
from calibadv_env.common.locks import hold_folder
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import (
    ONLY_MATCHES,
    Hits,
    check_search,
    first_limit,
    take,
    with_ties,
)
from calibadv_env.retrieval.dense.encoders import Encoder, TransformerEncoder
from calibadv_env.retrieval.dense.faiss_index import (
    FaissSearcher,
    FaissSettings,
    Flat,
    Hnsw,
    build_faiss,
    from_record,
    import_faiss,
    to_record,
)
from calibadv_env.retrieval.disk_corpus import FOLDER, CorpusSource, DiskCorpus, write_corpus
from calibadv_env.retrieval.disk_index import DiskIndex, finish_index
from calibadv_env.retrieval.filled import FilledUp
from calibadv_env.retrieval.index_files import (
    MANIFEST,
    Progress,
    building,
    file_facts,
    no_progress,
)

INDEX: Final = "vectors.faiss"
"""Name of the faiss file in an index."""
_VECTORS: Final = "vectors"
_PLAN: Final = "plan.json"
_STAMP: Final = "source.json"


def build_dense_index(
    source: CorpusSource,
    out: str | Path,
    encoder: Encoder,
    settings: FaissSettings | None = None,
    *,
    overwrite: bool = False,
    vectors_dir: str | Path | None = None,
    chunk_size: int = 8192,
    dtype: str = "float32",
    progress: Progress = no_progress,
) -> Path:
    """Builds the index that :class:`DenseIndex` opens; goes on where an earlier try ended.

    Vectors are written in chunks, each put in place when complete. After an interruption the same
    call encodes what is missing, to the vectors of an uninterrupted run, since chunks are the same.

    Args:
        source: A corpus or where it is; see :func:`write_corpus`.
        out: The folder to make.
        encoder: Encoder of the passages.
        settings: The kind of faiss index; None takes :class:`Flat`.
        overwrite: If true, an index in this place gives way.
        vectors_dir: Where the chunks stand and are kept, so that an index of another kind is made
            from them without encoding; None keeps them only until the index stands.
        chunk_size: Passages a chunk.
        dtype: "float32" or "float16" for the chunks on disk.
        progress: Is told how far it is.

    Raises:
        DataError: if the corpus is faulty, the place is taken, the disk is full, or the chunks
            there are come from another corpus, encoder or chunk size.
        ValueError: if a setting is out of range or does not fit the corpus.
        MissingDependencyError: if faiss is not installed.
    """
    import_faiss()
    settings = settings or Flat()
    require_positive(chunk_size=chunk_size)
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    with building(out, overwrite=overwrite, is_resumable=True) as folder:
        corpus = _corpus_of(source, folder, progress)
        vectors = folder / _VECTORS if vectors_dir is None else Path(vectors_dir)
        plan = {
            "corpus_sha256": corpus.sha256,
            "encoder": encoder.fingerprint,
            "dimension": encoder.dimension,
        } | {"chunk_size": chunk_size, "dtype": dtype}
        with hold_folder(vectors):
            paths = encode_corpus(corpus, encoder, vectors, plan, progress)
        progress("build the index", 0, None)
        build_faiss(settings, [np.load(path, mmap_mode="r") for path in paths], folder / INDEX)
        files = {INDEX: file_facts(folder / INDEX)}
        if vectors_dir is None:
            shutil.rmtree(vectors)
        (folder / _STAMP).unlink()
        record = {"faiss": to_record(settings), **encoder_record(encoder)}
        finish_index(folder, "dense", corpus, record, files)
    return Path(out)


def encode_corpus(
    corpus: DiskCorpus,
    encoder: Encoder,
    folder: Path,
    plan: dict[str, Any],
    progress: Progress = no_progress,
) -> list[Path]:
    """Encodes the chunks that are not there yet; gives the files of all chunks, in order.

    Args:
        corpus: The passages.
        encoder: Encoder of the passages.
        folder: Where the chunks stand.
        plan: Facts that the vectors depend on; kept beside the chunks.
        progress: Is told how far it is.

    Raises:
        DataError: if chunks that are there were made by another plan.
        OSError: if the disk does not take the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep_files(folder)
    _check_plan(folder / _PLAN, plan)
    size = plan["chunk_size"]
    paths = []
    for number, start in enumerate(range(0, len(corpus), size)):
        path = folder / f"{number:06d}.npy"
        end = min(start + size, len(corpus))
        if not _is_chunk(path, end - start, plan):
            vectors = encoder.encode_passages(corpus.passages[start:end])
            if vectors.shape != (end - start, plan["dimension"]):
                raise DataError(f"the encoder gave vectors of shape {vectors.shape}")
            with atomic_file(path, "wb") as stream:
                np.save(stream, vectors.astype(plan["dtype"]))
        paths.append(path)
        progress("encode", end, len(corpus))
    return paths


class DenseIndex(DiskIndex):
    """Searches what :func:`build_dense_index` wrote: the largest inner products.

    The batch is encoded and searched together, yet an answer does not depend on which queries
    share it: see :class:`TransformerEncoder` for how far that holds of a query's vector; what is
    found for a vector, and its scores, hold to the last bit on the CPU (see
    :class:`FaissSearcher`). Ties stand in corpus order. A graph (hnsw) may find fewer than are
    wanted.

    Args:
        folder: The index.
        encoder: Encoder of the queries; None loads the one that the index names.
        verify: If true, every file is read and hashed first; else only sizes are compared.
        is_mapped: If true, the vectors are mapped into memory; else they are read.
        device: "cpu" or "cuda", for the index and for the encoder that is loaded.

    Raises:
        DataError: if there is no such index, its files are not the ones that were written, or
            the encoder is not the one that encoded the passages.
        MissingDependencyError: if faiss is not installed.
    """

    kind = "dense"

    def __init__(
        self,
        folder: str | Path,
        encoder: Encoder | None = None,
        *,
        verify: bool = False,
        is_mapped: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(folder, verify=verify)
        folder = self.folder
        record = self.manifest.settings
        try:
            settings = from_record(record["faiss"])
            fingerprint = record["encoder"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: the settings are damaged: {error}") from error
        # First, so that a machine without a GPU is told before a model is loaded for one.
        self._faiss = FaissSearcher(folder / INDEX, settings, is_mapped=is_mapped, device=device)
        self.encoder = _load_encoder(folder, record, device) if encoder is None else encoder
        if self.encoder.fingerprint != fingerprint:
            raise DataError(
                f"{folder}: the passages were encoded by {fingerprint[:40]!r}, the encoder of the "
                f"queries is {self.encoder.fingerprint[:40]!r}; build the index again"
            )
        self._may_miss = isinstance(settings, Hnsw)
        self._is_mapped, self._device = is_mapped, device
        if self._faiss.size != len(self.corpus):
            raise DataError(
                f"{folder}: the index must hold {len(self.corpus)} vectors, got {self._faiss.size}"
            )

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        Raises:
            RetrieverError: if faiss fails.
        """
        count = check_search(queries, top_k, self.corpus)
        if not queries:
            return []
        distinct = list(dict.fromkeys(queries))
        vectors = np.ascontiguousarray(self.encoder.encode_queries(distinct), np.float32)
        limit = first_limit(count, self._faiss.size)
        rows = [
            self._settle(vector, hits, count)
            for vector, hits in zip(vectors, self._faiss.search(vectors, limit), strict=True)
        ]
        found = dict(zip(distinct, rows, strict=True))
        return [list(found[query]) for query in queries]

    def _settle(
        self, vector: npt.NDArray[np.float32], hits: Hits, count: int
    ) -> list[ScoredPassage]:
        """Puts ties in order, for which it may have to look further."""
        limit = first_limit(count, self._faiss.size)

        def fetch(wanted: int) -> Hits:
            return hits if wanted == limit else self._faiss.search(vector[None, :], wanted)[0]

        return take(self.corpus.passages, with_ties(fetch, count, self._faiss.size))

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        # The other kinds always find as many as are wanted, so their recordings go on to match.
        mark = {ONLY_MATCHES: True} if self._may_miss else {}
        return {**super().identity(), **mark}

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        return FilledUp(self, score=None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by path, with an encoder of the caller's own making."""
        own = None if isinstance(self.encoder, TransformerEncoder) else self.encoder
        opened = partial(DenseIndex, is_mapped=self._is_mapped, device=self._device)
        return opened, (self.folder, own)


def _corpus_of(source: CorpusSource, folder: Path, progress: Progress) -> DiskCorpus:
    """The corpus that an interrupted try left, if it is of the same source; else a new one."""
    stamp = folder / _STAMP
    identity = _source_identity(source)
    kept = stamp.read_bytes() if stamp.is_file() else b""
    if kept == identity and (folder / FOLDER / MANIFEST).is_file():
        with contextlib.suppress(DataError):
            return DiskCorpus(folder)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    corpus = write_corpus(source, folder / FOLDER, progress)
    stamp.write_bytes(identity)
    return corpus


def _source_identity(source: CorpusSource) -> bytes:
    if not isinstance(source, (str, Path)):
        return json.dumps({"corpus": source.sha256}).encode()
    path = Path(source).absolute()
    if path.is_dir():
        return json.dumps({"corpus": DiskCorpus(path).sha256}).encode()
    facts = path.stat() if path.is_file() else None
    times = None if facts is None else [facts.st_size, facts.st_mtime_ns]
    return json.dumps({"path": str(path), "size_and_time": times}).encode()


def _check_plan(path: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, or compares it with the one that is there."""
    if not path.is_file():
        write_text(path, json.dumps(plan))
        return
    try:
        there = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: the plan of the vectors is damaged; delete the folder") from error
    for name, value in plan.items():
        if there.get(name) != value:
            raise DataError(
                f"{path.parent}: the vectors there were made with {name} {there.get(name)!r}, "
                f"this call has {value!r}; delete the folder to begin again"
            )


def _is_chunk(path: Path, num_rows: int, plan: dict[str, Any]) -> bool:
    try:
        chunk = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return False
    return bool(chunk.shape == (num_rows, plan["dimension"]) and chunk.dtype == plan["dtype"])


def encoder_record(encoder: Encoder) -> dict[str, Any]:
    """Facts about the encoder, and how to load it again unless it is of the caller's own making."""
    record = {"encoder": encoder.fingerprint, "dimension": encoder.dimension}
    if not isinstance(encoder, TransformerEncoder):
        return record
    names = (encoder.model, encoder.query_model)
    model, query_model = (
        str(Path(name).absolute()) if name is not None and Path(name).is_dir() else name
        for name in names
    )
    return {**record, "model": model, "query_model": query_model, "family": encoder.family_name}


def _load_encoder(folder: Path, record: Any, device: str) -> Encoder:
    if "model" not in record:
        raise DataError(f"{folder}: the index names no encoder; pass the one that made it")
    return TransformerEncoder(
        record["model"], record["family"], query_model=record["query_model"], device=device
    )
