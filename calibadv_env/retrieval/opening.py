"""Opens any index by its folder, and writes the small ones that only point to others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibadv_env.errors import DataError
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.hybrid import HybridRetriever
from calibadv_env.retrieval.index_files import (
    Manifest,
    building,
    check_corpus,
    check_files,
    read_manifest,
    write_manifest,
)


def open_index(
    folder: str | Path, *, corpus: Corpus | None = None, verify: bool = False
) -> Retriever:
    """Opens an index of whatever kind it is.

    Args:
        folder: What `calibadv index` made.
        corpus: The corpus that it must be an index of; None takes any.
        verify: Whether to read and hash every file first; else only sizes are compared.

    Returns:
        The retriever, with its passages at ``.corpus``.

    Raises:
        DataError: if there is no index, its files are not the ones that were written, or it was
            made from another corpus.
        MissingDependencyError: if a package that it needs is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if corpus is not None:
        check_corpus(folder, manifest, corpus.sha256)
    if manifest.kind == "bm25":
        from calibadv_env.retrieval.bm25.index import Bm25Index

        return Bm25Index(folder, verify=verify)
    if manifest.kind == "tantivy":
        from calibadv_env.retrieval.bm25.tantivy_index import TantivyIndex

        return TantivyIndex(folder, verify=verify)
    if manifest.kind == "dense":
        from calibadv_env.retrieval.dense.index import DenseIndex

        return DenseIndex(folder, verify=verify)
    if manifest.kind == "hybrid":
        return _open_hybrid(folder, manifest, verify=verify)
    if manifest.kind == "rerank":
        return _open_reranker(folder, manifest, verify=verify)
    raise DataError(f"{folder}: nothing searches an index of kind {manifest.kind!r}")


def verify_index(folder: str | Path) -> Manifest:
    """Reads and hashes every file of an index and of those that it points to.

    Args:
        folder: The index.

    Returns:
        Its manifest.

    Raises:
        DataError: if a file is not the one that was written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=True)
    if (folder / "corpus").is_dir():
        verify_index(folder / "corpus")
    for part in manifest.settings.get("parts", ()):
        check_corpus(folder, verify_index(folder / part), manifest.corpus_sha256)
    return manifest


def write_hybrid(
    parts: Sequence[str | Path],
    out: str | Path,
    *,
    depth: int = 100,
    constant: float = 60.0,
    overwrite: bool = False,
) -> Path:
    """Writes an index that fuses others, by their paths.

    Args:
        parts: At least two indexes of one corpus.
        out: The folder to make; the parts are kept as paths relative to it.
        depth: See :class:`HybridRetriever`.
        constant: See :class:`HybridRetriever`.
        overwrite: Whether an index in this place gives way.

    Returns:
        The folder.

    Raises:
        ValueError: if a setting is out of range.
        DataError: if a part is no index, or the parts are of different corpora.
    """
    if len(parts) < 2:
        raise ValueError(f"parts must be at least two indexes, got {len(parts)}")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    settings = {"depth": depth, "constant": constant}
    return _write_pointer("hybrid", parts, out, settings, overwrite=overwrite)


def write_reranker(
    first: str | Path,
    out: str | Path,
    model: str,
    *,
    family: str | None = None,
    depth: int = 20,
    overwrite: bool = False,
) -> Path:
    """Writes an index that puts the best passages of another one in order by a model.

    Args:
        first: The index that finds the passages.
        out: The folder to make; ``first`` is kept as a path relative to it.
        model: Folder or hub name of the model.
        family: "cross" for a cross-encoder, else a key of
            :data:`calibadv_env.retrieval.dense.families.FAMILIES`; None takes a cross-encoder.
        depth: See :class:`RerankingRetriever`.
        overwrite: Whether an index in this place gives way.

    Returns:
        The folder.

    Raises:
        ValueError: if a setting is out of range.
        DataError: if ``first`` is no index.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    settings = {"depth": depth, "model": model, "family": family or "cross"}
    return _write_pointer("rerank", [first], out, settings, overwrite=overwrite)


def _write_pointer(
    kind: str,
    parts: Sequence[str | Path],
    out: str | Path,
    settings: dict[str, Any],
    *,
    overwrite: bool,
) -> Path:
    manifests = [read_manifest(part) for part in parts]
    for part, manifest in zip(parts, manifests, strict=True):
        check_corpus(part, manifest, manifests[0].corpus_sha256)
    place = Path(out).absolute()
    paths = [os.path.relpath(Path(part).absolute(), place) for part in parts]
    with building(out, overwrite=overwrite) as folder:
        manifest = Manifest(
            kind=kind,
            corpus_sha256=manifests[0].corpus_sha256,
            num_passages=manifests[0].num_passages,
            settings={"parts": paths, **settings},
        )
        write_manifest(folder, manifest)
    return Path(out)


def _open_hybrid(folder: Path, manifest: Manifest, *, verify: bool) -> Retriever:
    retrievers = _open_parts(folder, manifest, verify=verify)
    settings = manifest.settings
    corpus: Corpus = retrievers[0].corpus
    return HybridRetriever(
        corpus, retrievers, depth=settings["depth"], constant=settings["constant"]
    )


def _open_reranker(folder: Path, manifest: Manifest, *, verify: bool) -> Retriever:
    from calibadv_env.retrieval.dense.encoders import TransformerCrossEncoder, TransformerEncoder
    from calibadv_env.retrieval.rerank import EncoderScorer, RerankingRetriever, Scorer

    settings = manifest.settings
    model, family = settings["model"], settings["family"]
    scorer: Scorer
    if family == "cross":
        scorer = TransformerCrossEncoder(model)
    else:
        scorer = EncoderScorer(TransformerEncoder(model, family))
    [first] = _open_parts(folder, manifest, verify=verify)
    return RerankingRetriever(first, scorer, depth=settings["depth"])


def _open_parts(folder: Path, manifest: Manifest, *, verify: bool) -> list[Any]:
    """The indexes that another one points to, each checked against its corpus."""
    parts = []
    for part in manifest.settings["parts"]:
        check_corpus(folder / part, read_manifest(folder / part), manifest.corpus_sha256)
        parts.append(open_index(folder / part, verify=verify))
    return parts
