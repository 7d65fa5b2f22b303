"""`calibadv index`: makes and checks the indexes that retrieval at scale needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro
from rich.console import Console

from calibadv_algo.cli.documents import DocumentFlags
from calibadv_algo.cli.progress import stage_bars
from calibadv_env.data.loading import Options
from calibadv_env.data.reading import find_reader
from calibadv_env.data.registry import get_dataset, list_datasets
from calibadv_env.data.sources.jsonl import FileReader
from calibadv_env.data.sources.text_files import is_document_folder
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.settings import Bm25Settings
from calibadv_env.retrieval.bm25.words import WordChoice
from calibadv_env.retrieval.dense.faiss_index import (
    FaissSettings,
    Flat,
    Hnsw,
    IvfPq,
    ScalarQuantized,
)
from calibadv_env.retrieval.disk_corpus import CorpusSource
from calibadv_env.retrieval.hybrid import write_hybrid
from calibadv_env.retrieval.index_files import read_manifest
from calibadv_env.retrieval.opening import verify_index
from calibadv_env.retrieval.rerank import write_reranker

CorpusArgument: TypeAlias = Annotated[str, tyro.conf.Positional]
OutArgument: TypeAlias = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Job:
    """BM25 of bm25s, memory-mapped: the default."""

    corpus: CorpusArgument
    """File in any form, folder of documents or of an index, or name of a dataset."""
    out: OutArgument
    """Folder to make."""
    k1: float = 1.2
    """Saturation of repeated words: the larger, the slower."""
    b: float = 0.75
    """Discount of long passages: 0 for none, 1 in full."""
    documents: Annotated[DocumentFlags, tyro.conf.arg(name="")] = field(
        default_factory=DocumentFlags
    )
    """How the corpus is read."""
    words: WordChoice = "auto"
    """Rules for words: auto takes unicode for scripts without spaces or with vowel signs."""
    overwrite: bool = False
    """If true, an index in this place gives way, once the new one is complete."""

    def run(self) -> Path:
        """Builds the index."""
        settings = Bm25Settings(k1=self.k1, b=self.b, words=self.words)
        with stage_bars() as report:
            return build_bm25_index(
                source_of(self.corpus, self.documents.options()),
                self.out,
                settings,
                overwrite=self.overwrite,
                progress=report,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TantivyJob:
    """BM25 by tantivy (extra), for the largest corpora."""

    corpus: CorpusArgument
    """File in any form, folder of documents or of an index, or name of a dataset."""
    out: OutArgument
    """Folder to make."""
    heap_bytes: int = 128_000_000
    """Memory of the writer."""
    documents: Annotated[DocumentFlags, tyro.conf.arg(name="")] = field(
        default_factory=DocumentFlags
    )
    """How the corpus is read."""
    words: WordChoice = "auto"
    """Rules for words: auto takes unicode for scripts without spaces or with vowel signs."""
    overwrite: bool = False
    """If true, an index in this place gives way, once the new one is complete."""

    def run(self) -> Path:
        """Builds the index."""
        from calibadv_env.retrieval.bm25.tantivy_index import build_tantivy_index

        with stage_bars() as report:
            return build_tantivy_index(
                source_of(self.corpus, self.documents.options()),
                self.out,
                overwrite=self.overwrite,
                heap_bytes=self.heap_bytes,
                words=self.words,
                progress=report,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseJob:
    """Vectors of an encoder in a faiss index; called again, an interrupted run goes on."""

    corpus: CorpusArgument
    """File in any form, folder of documents or of an index, or name of a dataset."""
    out: OutArgument
    """Folder to make."""
    model: str
    """Encoder: a folder, or a name on the hub."""
    family: Literal["e5", "bge", "contriever", "minilm", "dpr"] | None = None
    """Whose prefixes and pooling it wants; None guesses from the name."""
    query_model: str | None = None
    """Encoder of the queries, where it is another one (DPR)."""
    index: Literal["flat", "sq", "hnsw", "ivfpq"] = "flat"
    """Kind of faiss index."""
    sq: ScalarQuantized = field(default_factory=ScalarQuantized)
    """Settings of a scalar-quantised index."""
    hnsw: Hnsw = field(default_factory=Hnsw)
    """Settings of a graph."""
    ivfpq: IvfPq = field(default_factory=IvfPq)
    """Settings of lists of quantised vectors."""
    vectors_dir: Path | None = None
    """Where the vectors are kept, to make an index of another kind later; None deletes them."""
    chunk_size: int = 8192
    """Passages of one file of vectors: what an interruption costs at most."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the vectors in these files."""
    batch_size: int = 32
    """Passages that are encoded at a time."""
    device: str | None = None
    """Where to encode; None takes a GPU if there is one."""
    documents: Annotated[DocumentFlags, tyro.conf.arg(name="")] = field(
        default_factory=DocumentFlags
    )
    """How the corpus is read."""
    overwrite: bool = False
    """If true, an index in this place gives way, once the new one is complete."""

    def run(self) -> Path:
        """Builds the index."""
        from calibadv_env.retrieval.dense.encoders import TransformerEncoder
        from calibadv_env.retrieval.dense.index import build_dense_index

        encoder = TransformerEncoder(
            self.model,
            self.family,
            query_model=self.query_model,
            device=self.device,
            batch_size=self.batch_size,
        )
        with stage_bars() as report:
            return build_dense_index(
                source_of(self.corpus, self.documents.options()),
                self.out,
                encoder,
                self._settings(),
                overwrite=self.overwrite,
                vectors_dir=self.vectors_dir,
                chunk_size=self.chunk_size,
                dtype=self.dtype,
                progress=report,
            )

    def _settings(self) -> FaissSettings:
        choices: dict[str, FaissSettings] = {
            "flat": Flat(),
            "sq": self.sq,
            "hnsw": self.hnsw,
            "ivfpq": self.ivfpq,
        }
        return choices[self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaissJob:
    """A faiss file of others, such as e5_Flat.index, with its corpus and its encoder."""

    index: Annotated[Path, tyro.conf.Positional]
    """The faiss file; it is linked, not copied, where the file system allows it."""
    corpus: CorpusArgument
    """The corpus that the file was made of, in the same order, such as wiki-18.jsonl."""
    out: OutArgument
    """Folder to make."""
    model: str
    """The encoder that made the file: a folder, or a name on the hub."""
    family: Literal["e5", "bge", "contriever", "minilm", "dpr"] | None = None
    """Whose prefixes and pooling it wants; None guesses from the name."""
    query_model: str | None = None
    """Encoder of the queries, where it is another one (DPR)."""
    device: str | None = None
    """Where to encode; None takes a GPU if there is one."""
    overwrite: bool = False
    """If true, an index in this place gives way."""

    def run(self) -> Path:
        """Compares dimension, number of rows and some vectors, and writes the index."""
        from calibadv_env.retrieval.dense.encoders import TransformerEncoder
        from calibadv_env.retrieval.dense.published import adopt_faiss

        encoder = TransformerEncoder(
            self.model, self.family, query_model=self.query_model, device=self.device
        )
        with stage_bars() as report:
            return adopt_faiss(
                self.index,
                self.corpus,
                self.out,
                encoder,
                overwrite=self.overwrite,
                progress=report,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridJob:
    """Several indexes of one corpus, fused by rank."""

    out: OutArgument
    """Folder to make."""
    parts: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The indexes, at least two."""
    depth: int = 100
    """Passages that each is asked for."""
    constant: float = 60.0
    """Constant added to every rank: the larger, the less the first ranks stand out."""
    overwrite: bool = False
    """If true, an index in this place gives way."""

    def run(self) -> Path:
        """Writes the paths of the parts."""
        return write_hybrid(
            self.parts,
            self.out,
            depth=self.depth,
            constant=self.constant,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankJob:
    """An index whose best passages a model puts in order."""

    first: Annotated[Path, tyro.conf.Positional]
    """The index that finds the passages."""
    out: OutArgument
    """Folder to make."""
    model: str
    """A folder, or a name on the hub."""
    family: Literal["cross", "e5", "bge", "contriever", "minilm"] = "cross"
    """Kind of model: a cross-encoder, or an encoder of a family."""
    depth: int = 20
    """Passages that are put in order."""
    overwrite: bool = False
    """If true, an index in this place gives way."""

    def run(self) -> Path:
        """Writes the path of the index and the model."""
        return write_reranker(
            self.first,
            self.out,
            self.model,
            family=self.family,
            depth=self.depth,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyJob:
    """Read every byte of an index and compare it with what was written."""

    index: Annotated[Path, tyro.conf.Positional]
    """The index."""

    def run(self) -> Path:
        """Raises if a file is not the one that was written."""
        verify_index(self.index)
        return self.index


Job: TypeAlias = (
    Annotated[Bm25Job, tyro.conf.subcommand("bm25", prefix_name=False)]
    | Annotated[TantivyJob, tyro.conf.subcommand("tantivy", prefix_name=False)]
    | Annotated[DenseJob, tyro.conf.subcommand("dense", prefix_name=False)]
    | Annotated[FaissJob, tyro.conf.subcommand("faiss", prefix_name=False)]
    | Annotated[HybridJob, tyro.conf.subcommand("hybrid", prefix_name=False)]
    | Annotated[RerankJob, tyro.conf.subcommand("rerank", prefix_name=False)]
    | Annotated[VerifyJob, tyro.conf.subcommand("verify", prefix_name=False)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Make an index of a corpus, or check one."""

    job: Annotated[Job, tyro.conf.arg(name="")]
    """The kind of index."""

    def run(self) -> int:
        """Builds and says what stands where."""
        console = Console(highlight=False, soft_wrap=True)
        out = self.job.run()
        manifest = read_manifest(out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        what = "sound" if isinstance(self.job, VerifyJob) else "ready"
        if manifest.settings.get("words") == "unicode":
            what = f"words by the rules unicode (ICU {manifest.settings['icu']}), {what}"
        console.print(
            f"{out}: {manifest.kind} index of {manifest.num_passages:,} passages, "
            f"{size / 1e6:,.1f} MB, {what}",
            markup=False,
        )
        return 0


def source_of(name: str, options: Options | None = None) -> CorpusSource:
    """The corpus that an argument names: a path, or a dataset where there is no such path.

    Args:
        name: The argument.
        options: How the documents are read and cut.
    """
    options = options or Options()
    path = Path(name)
    if not path.exists() and name in list_datasets():
        return get_dataset(name).corpus()
    # Files and indexes stream from their place; what is cut or mapped is read into memory.
    is_plain = options == Options() and isinstance(find_reader(name), FileReader)
    is_index = path.is_dir() and not is_document_folder(path)
    return name if is_index or (is_plain and not path.is_dir()) else options.corpus(name)
