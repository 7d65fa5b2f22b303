"""Indexes on disk that hold their own corpus: how one is finished, and how it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import identity_record
from calibadv_env.retrieval.disk_corpus import FOLDER, DiskCorpus
from calibadv_env.retrieval.index_files import (
    MANIFEST,
    FileFacts,
    Manifest,
    check_files,
    file_facts,
    read_manifest,
    write_manifest,
)


class DiskIndex(ABC):
    """Base of the indexes that hold their own corpus: checks and opens what they share.

    Attributes:
        kind: Kind of the index in its manifest.
        folder: The index.
        manifest: Its manifest.
        corpus: Its passages.

    Args:
        folder: The index.
        verify: If true, every file is read and hashed first; else only sizes are compared.

    Raises:
        DataError: if there is no such index, or its files are not the ones that were written.
    """

    kind: ClassVar[str]

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder).absolute()
        self.manifest = read_manifest(self.folder, self.kind)
        check_files(self.folder, self.manifest, verify=verify)
        self.corpus = DiskCorpus(self.folder, verify=verify)

    @abstractmethod
    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`."""

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        return identity_record(self, self.corpus, settings=dict(self.manifest.settings))


def finish_index(
    folder: Path,
    kind: str,
    corpus: DiskCorpus,
    settings: Mapping[str, Any],
    files: Mapping[str, FileFacts],
) -> None:
    """Writes the manifest of an index whose corpus lies in it, and closes the corpus.

    Args:
        folder: The index.
        kind: See :class:`Manifest`.
        corpus: The corpus in the folder ``corpus`` of the index, by :func:`write_corpus`.
        settings: See :class:`Manifest`.
        files: The files beside the corpus.

    Raises:
        OSError: if the disk does not take the file.
    """
    own = file_facts(folder / FOLDER / MANIFEST)
    manifest = Manifest(
        kind=kind,
        corpus_sha256=corpus.sha256,
        num_passages=len(corpus),
        settings=settings,
        files={**files, f"{FOLDER}/{MANIFEST}": own},
    )
    write_manifest(folder, manifest)
    corpus.close()
