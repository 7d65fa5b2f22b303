"""The kinds of faiss index, as plain settings, and how each is trained, opened and searched."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Ge
from jaxtyping import Float

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.errors import DataError, MissingDependencyError, RetrieverError
from calibadv_env.retrieval.base import Hits
from calibadv_env.retrieval.dense.flat_scan import FlatScan

_MIN_PER_CENTROID: Final = 39
"""Below so many training points a centroid faiss warns that the clusters are poor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """Every vector as it is: exact, and the slowest."""

    name: ClassVar[str] = "flat"

    def make(self, faiss: Any, dimension: int, num_passages: int) -> Any:
        """Makes the empty index."""
        return faiss.IndexFlatIP(dimension)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarQuantized(Checked):
    """Every component in a few bits: a linear scan over less memory.

    Attributes:
        bits: 4, 6, 8 or 16 (half precision).
    """

    name: ClassVar[str] = "sq"
    bits: Literal[4, 6, 8, 16] = 8

    def make(self, faiss: Any, dimension: int, num_passages: int) -> Any:
        """Makes the empty index."""
        name = "QT_fp16" if self.bits == 16 else f"QT_{self.bits}bit"
        kind = getattr(faiss.ScalarQuantizer, name)
        return faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hnsw(Checked):
    """A graph that a search walks: fast, more memory than flat, slow to build; CPU only.

    Attributes:
        num_links: Neighbours of a vector, at least 2; 8 bytes each.
        build_depth: Candidates looked at when a vector is added.
        search_depth: Candidates looked at in a search.
    """

    name: ClassVar[str] = "hnsw"
    num_links: Annotated[int, Ge(2)] = 32
    build_depth: Annotated[int, POSITIVE] = 80
    search_depth: Annotated[int, POSITIVE] = 128

    def make(self, faiss: Any, dimension: int, num_passages: int) -> Any:
        """Makes the empty index."""
        index = faiss.IndexHNSWFlat(dimension, self.num_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_depth
        return index


@dataclass(frozen=True, slots=True, kw_only=True)
class IvfPq(Checked):
    """Vectors in lists round centroids, each as a few bytes: the smallest.

    Attributes:
        num_lists: How many lists; None takes 4 times the square root of the number of passages,
            as far as these suffice for training.
        num_bytes: Bytes a vector, which must divide the dimension; None takes an eighth of it.
        num_probes: Lists that a search reads.
    """

    name: ClassVar[str] = "ivfpq"
    num_lists: Annotated[int | None, POSITIVE] = None
    num_bytes: Annotated[int | None, POSITIVE] = None
    num_probes: Annotated[int, POSITIVE] = 32

    def make(self, faiss: Any, dimension: int, num_passages: int) -> Any:
        """Makes the empty index."""
        if num_passages < 256:
            raise ValueError(f"ivfpq needs at least 256 passages to train on, got {num_passages}")
        most = max(1, num_passages // _MIN_PER_CENTROID)
        num_lists = self.num_lists or min(most, 4 * math.isqrt(num_passages))
        num_bytes = self.num_bytes or max(1, dimension // 8)
        if dimension % num_bytes:
            raise ValueError(f"num_bytes must divide the dimension {dimension}, got {num_bytes}")
        quantizer = faiss.IndexFlatIP(dimension)
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFPQ(quantizer, dimension, num_lists, num_bytes, 8, metric)
        index.own_fields = True
        quantizer.this.disown()
        return index


FaissSettings: TypeAlias = Flat | ScalarQuantized | Hnsw | IvfPq
KINDS: Final[dict[str, type[FaissSettings]]] = {
    kind.name: kind for kind in (Flat, ScalarQuantized, Hnsw, IvfPq)
}
"""The kinds of index by name."""


def to_record(settings: FaissSettings) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return {"name": settings.name, **asdict(settings)}


def from_record(record: Mapping[str, Any]) -> FaissSettings:
    """The settings of a record that :func:`to_record` gave.

    Raises:
        ValueError: if the kind is unknown or a value is out of range.
    """
    values = dict(record)
    name = values.pop("name", None)
    if name not in KINDS:
        raise ValueError(f"the kind of faiss index must be one of {', '.join(KINDS)}, got {name!r}")
    return KINDS[name](**values)


def import_faiss() -> Any:
    """The package faiss.

    Raises:
        MissingDependencyError: if neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        return importlib.import_module("faiss")
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            "a dense index needs faiss: pip install 'calibadv[dense]' for the CPU or "
            "'calibadv[faiss-gpu]' for a GPU, never both; they are one module"
        ) from error


class FaissSearcher:
    """A faiss index that is open.

    What it finds for a query does not depend on which queries share the batch: a flat index on
    the CPU is searched by :class:`FlatScan`, and the other kinds treat each query by itself.

    Args:
        path: The file.
        settings: Settings that it was built with.
        is_mapped: If true, the vectors are mapped into memory; else they are read.
        device: "cpu" or "cuda", which needs faiss-gpu and a GPU.

    Raises:
        DataError: if faiss cannot read the file.
        ValueError: if the device is unknown, has no GPU, or the kind cannot go to a GPU.
    """

    def __init__(
        self,
        path: Path,
        settings: FaissSettings,
        *,
        is_mapped: bool = True,
        device: str = "cpu",
    ) -> None:
        faiss = import_faiss()
        flags = faiss.IO_FLAG_MMAP_IFC if is_mapped and device == "cpu" else 0
        try:
            self._index = faiss.read_index(str(path), flags)
        except RuntimeError as error:
            raise DataError(f"{path}: faiss cannot read the index: {error}") from error
        if device != "cpu":
            self._index = _on_gpu(faiss, self._index, settings, device)
        self._faiss = faiss
        self._settings = settings
        self.size = int(self._index.ntotal)
        self._scan: FlatScan | None = None
        if isinstance(settings, Flat) and device == "cpu":
            num_values = self.size * self._index.d
            values = faiss.rev_swig_ptr(self._index.get_xb(), num_values)
            self._scan = FlatScan(values.reshape(self.size, self._index.d))

    def search(self, vectors: Float[np.ndarray, "query dimension"], limit: int) -> list[Hits]:
        """Finds the nearest vectors of each query.

        Args:
            vectors: The queries.
            limit: How many are wanted, at most ``size``.

        Returns:
            For each query at most so many positions and inner products, best first.

        Raises:
            RetrieverError: if faiss fails.
        """
        if self._scan is not None:
            return self._scan.search(vectors, limit)
        found = self._search(vectors, limit, self._parameters(limit))
        if isinstance(self._settings, IvfPq):
            everywhere = self._faiss.SearchParametersIVF(nprobe=self._index.nlist)
            for i, hits in enumerate(found):
                if len(hits) < limit:
                    [found[i]] = self._search(vectors[i : i + 1], limit, everywhere)
        return found

    def _search(
        self, vectors: Float[np.ndarray, "query dimension"], limit: int, parameters: Any
    ) -> list[Hits]:
        found: list[Hits] = []
        size = self._queries_per_call()
        try:
            for start in range(0, len(vectors), size):
                part = np.ascontiguousarray(vectors[start : start + size])
                scores, positions = self._index.search(part, limit, params=parameters)
                rows = zip(positions.tolist(), scores.tolist(), strict=True)
                found += [
                    [(i, score) for i, score in zip(*row, strict=True) if i >= 0] for row in rows
                ]
        except RuntimeError as error:
            raise RetrieverError(f"faiss could not search: {error}") from error
        return found

    def _queries_per_call(self) -> int:
        """Fewer than make faiss choose the lists by a product of matrices, which rounds."""
        threshold = int(self._faiss.cvar.distance_compute_blas_threshold)
        return max(1, threshold - 1) if isinstance(self._settings, IvfPq) else 1 << 20

    def _parameters(self, limit: int) -> Any:
        settings = self._settings
        if isinstance(settings, Hnsw):
            return self._faiss.SearchParametersHNSW(efSearch=max(settings.search_depth, 2 * limit))
        if isinstance(settings, IvfPq):
            return self._faiss.SearchParametersIVF(nprobe=settings.num_probes)
        return None


def build_faiss(
    settings: FaissSettings,
    chunks: Sequence[npt.NDArray[np.floating[Any]]],
    path: Path,
    *,
    max_training: int = 200_000,
) -> None:
    """Trains an index, fills it and writes it.

    Args:
        settings: The kind.
        chunks: The vectors in order, in arrays that may be memory-mapped.
        path: The file to write.
        max_training: How many vectors, evenly spaced over the corpus, it is trained on.

    Raises:
        ValueError: if the settings do not fit the number or dimension of the vectors.
        OSError: if the file cannot be written.
    """
    faiss = import_faiss()
    num_passages = sum(len(chunk) for chunk in chunks)
    index = settings.make(faiss, chunks[0].shape[1], num_passages)
    if not index.is_trained:
        step = -(-num_passages // max_training)
        sample = np.concatenate([np.asarray(chunk[::step], np.float32) for chunk in chunks])
        index.train(sample)
    for chunk in chunks:
        index.add(np.ascontiguousarray(chunk, np.float32))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"faiss could not write {path.name}: {error}") from error


def _on_gpu(faiss: Any, index: Any, settings: FaissSettings, device: str) -> Any:
    if device != "cuda":
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if isinstance(settings, Hnsw):
        raise ValueError("an hnsw index cannot go to a GPU; take flat, sq or ivfpq")
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1:
        raise ValueError(
            "device 'cuda' needs faiss-gpu (pip install 'calibadv[faiss-gpu]') and a GPU"
        )
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
