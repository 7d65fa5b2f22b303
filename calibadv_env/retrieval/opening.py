"""Makes a retriever of a name, an address or the folder of an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibadv_env.common.files import is_path
from calibadv_env.errors import DataError
from calibadv_env.retrieval.answers import as_retriever
from calibadv_env.retrieval.backends import find_backend, retriever_names
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.index_files import (
    Manifest,
    building,
    check_corpus,
    check_files,
    read_manifest,
    write_manifest,
)


def is_remote(spec: str) -> bool:
    """True for the address of a server, which needs no corpus here."""
    scheme, colon, _ = spec.partition(":")
    backend = find_backend(scheme) if colon else None
    return backend is not None and backend.connect is not None and scheme in backend.schemes


def remote_retriever(spec: str) -> Retriever:
    """The client of the server at an address; see :func:`make_retriever`."""
    backend = find_backend(spec.partition(":")[0])
    if backend is None or backend.connect is None:
        raise ValueError(f"retriever must be the address of a server, got {spec!r}")
    return backend.connect(spec)


def make_retriever(spec: str | Retriever, corpus: Corpus) -> Retriever:
    """Makes the retriever that a specification names.

    Args:
        spec: A name, such as "bm25" (:func:`calibadv_env.retrieval.backends.retriever_names`); the
            address of a server (``http://127.0.0.1:8000``, with settings behind ``#`` if need
            be); ``simulated:http://…``, whose passages a model writes
            (:func:`calibadv_env.retrieval.remote.simulated.simulated_from_spec`); the folder of an
            index (a text with a path separator in it), which must be one of the same corpus; or
            any object with a method ``search``, which is given back as it is; or a function
            ``search(query, top_k)``.
        corpus: Passages to search.

    Raises:
        ValueError: if the name is unknown or the object cannot search.
        MissingDependencyError: if the package behind the name is not installed.
        DataError: if the folder holds no index, a damaged one, or one of another corpus.
    """
    if not isinstance(spec, str):
        return as_retriever(spec)
    if is_remote(spec):
        return remote_retriever(spec)
    if is_path(spec):
        return open_index(spec, corpus=corpus)
    backend = find_backend(spec)
    if backend is None or backend.build is None:
        known = ", ".join(repr(name) for name in retriever_names())
        raise ValueError(
            f"retriever must be one of {known}, the path of an index or an object, got {spec!r}"
        )
    return backend.build(corpus)


def open_index(
    folder: str | Path, *, corpus: Corpus | None = None, verify: bool = False
) -> Retriever:
    """Opens an index of whatever kind as a retriever, with its passages at ``.corpus``.

    Args:
        folder: Folder that `calibadv index` made.
        corpus: The corpus that it must be an index of; None takes any.
        verify: If true, every file is read and hashed first; else only sizes are compared.

    Raises:
        DataError: if there is no index, its files are not the ones that were written, or it was
            made from another corpus.
        MissingDependencyError: if a package that it needs is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if corpus is not None:
        check_corpus(folder, manifest, corpus.sha256)
    backend = find_backend(manifest.kind)
    if backend is None or backend.open is None:
        raise DataError(f"{folder}: nothing searches an index of kind {manifest.kind!r}")
    return backend.open(folder, verify=verify)


def verify_index(folder: str | Path) -> Manifest:
    """Reads and hashes every file of an index and of those it points to; gives its manifest.

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


def write_pointer(
    kind: str,
    parts: Sequence[str | Path],
    out: str | Path,
    settings: dict[str, Any],
    *,
    overwrite: bool,
) -> Path:
    """Writes an index that holds nothing but settings and the paths of others.

    Args:
        kind: Kind of the index.
        parts: Indexes of one corpus.
        out: The folder to make; the parts are kept as paths relative to it.
        settings: Settings of the search.
        overwrite: If true, an index in this place gives way.

    Raises:
        DataError: if a part is no index, or the parts are of different corpora.
    """
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


def open_parts(folder: Path, manifest: Manifest, *, verify: bool) -> list[Any]:
    """Opens the indexes that another one points to, each with the corpus that the manifest names.

    Raises:
        DataError: as for :func:`open_index`.
    """
    parts = []
    for part in manifest.settings["parts"]:
        check_corpus(folder / part, read_manifest(folder / part), manifest.corpus_sha256)
        parts.append(open_index(folder / part, verify=verify))
    return parts
