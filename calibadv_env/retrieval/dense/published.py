"""Faiss files that others have published, such as ``e5_Flat.index`` beside ``wiki-18.jsonl``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibadv_env.errors import DataError
from calibadv_env.retrieval.dense.encoders import Encoder
from calibadv_env.retrieval.dense.faiss_index import (
    FaissSettings,
    Flat,
    Hnsw,
    IvfPq,
    ScalarQuantized,
    import_faiss,
    to_record,
)
from calibadv_env.retrieval.dense.index import INDEX, encoder_record
from calibadv_env.retrieval.disk_corpus import FOLDER, DiskCorpus, write_corpus
from calibadv_env.retrieval.disk_index import finish_index
from calibadv_env.retrieval.index_files import Progress, building, file_facts, no_progress
from calibadv_env.retrieval.passage_records import PassageReading

MIN_COSINE: Final = 0.6
"""Least mean cosine between vectors of the file and those of the encoder for the same passages.
Another way to join title and text gives 0.9 and more, another encoder or another order about 0."""

_SAMPLE: Final = 8


def adopt_faiss(
    index: str | Path,
    corpus: str | Path,
    out: str | Path,
    encoder: Encoder,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Makes an index that :class:`DenseIndex` opens of a faiss file and the corpus it is of.

    The vectors are linked, not copied, where the file system allows it. The row of a passage is its
    place in the file, so passages without text are kept.

    Args:
        index: The faiss file; its vectors rank by the inner product.
        corpus: The corpus in the order of the vectors, in any form.
        out: The folder to make.
        encoder: The encoder that made the vectors.
        overwrite: If true, an index in this place gives way.
        progress: Is told how far it is.

    Raises:
        DataError: if the file is no such index, its dimension is not that of the encoder, its
            number of vectors not that of the passages, or the encoder gives other vectors.
        MissingDependencyError: if faiss is not installed.
    """
    index = Path(index)
    opened = _opened(index)
    settings = _settings_of(index, opened)
    if int(opened.d) != encoder.dimension:
        raise DataError(
            f"{index}: the vectors have {int(opened.d)} components, those of the encoder "
            f"{encoder.dimension}; name the encoder that made the file"
        )
    with building(out, overwrite=overwrite) as folder:
        reading = PassageReading(keep_empty=True)
        held = write_corpus(corpus, folder / FOLDER, progress, reading)
        if int(opened.ntotal) != len(held):
            raise DataError(
                f"{index}: the file holds {int(opened.ntotal):,} vectors, {corpus} "
                f"{len(held):,} passages; take the corpus that the file was made of"
            )
        _compare(index, opened, held, encoder)
        _link(index, folder / INDEX)
        files = {INDEX: file_facts(folder / INDEX)}
        record = {"faiss": to_record(settings), **encoder_record(encoder)}
        finish_index(folder, "dense", held, record, files)
    return Path(out)


def _opened(path: Path) -> Any:
    faiss = import_faiss()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise DataError(f"{path}: faiss cannot read the index: {error}") from error


def _settings_of(path: Path, index: Any) -> FaissSettings:
    """The kind of an index as plain settings."""
    faiss = import_faiss()
    kind = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise DataError(
            f"{path}: the vectors must rank by the inner product (faiss METRIC_INNER_PRODUCT)"
        )
    if kind in ("IndexFlatIP", "IndexFlat"):
        return Flat()
    if kind.startswith("IndexHNSW"):
        return Hnsw()
    if kind == "IndexScalarQuantizer":
        return ScalarQuantized()
    if kind.startswith("IndexIVF"):
        return IvfPq(num_probes=min(int(index.nlist), max(32, int(index.nprobe))))
    raise DataError(
        f"{path}: an index of the kind {kind} cannot be used; the kinds are IndexFlat, IndexHNSW, "
        "IndexScalarQuantizer and IndexIVF"
    )


def _compare(path: Path, index: Any, corpus: DiskCorpus, encoder: Encoder) -> None:
    """Refuses an encoder whose vectors of some passages are not those of the file."""
    places = np.linspace(0, len(corpus) - 1, min(_SAMPLE, len(corpus))).astype(int)
    passages = [corpus.passages[int(i)] for i in places]
    try:
        stored = np.stack([index.reconstruct(int(i)) for i in places])
    except RuntimeError:  # some kinds cannot give a vector back
        return
    made = encoder.encode_passages(passages)
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(made, axis=1)
    cosine = float(np.mean((stored * made).sum(axis=1) / np.maximum(lengths, 1e-12)))
    if cosine < MIN_COSINE:
        raise DataError(
            f"{path}: the vectors of {len(places)} passages are not those of the encoder (mean "
            f"cosine {cosine:.2f}); name the encoder, its family and the corpus of the file"
        )


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path.resolve())
    except OSError:
        shutil.copyfile(path, target)
