"""BM25 on disk: speed of indexing, size, memory, and queries a second against memory.

Run ``python benchmarks/bm25_scale.py``. Synthetic passages of 80 words by a Zipf law over a
million words, queries of 8 words drawn from a passage. Each index is built and each memory figure
taken in a process of its own. "own memory" is the process's anonymous memory (RssAnon), without
the page cache that mapped files use and the system takes back. The two speeds that form a ratio
are taken in one process, in turns, the best of three. What stands below the line "extrapolated"
is arithmetic on the largest size, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibadv_env.retrieval import Retriever
from calibadv_env.retrieval.opening import open_index

NUM_WORDS = 1_000_000
WORDS_PER_PASSAGE = 80
TOP_K = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--num-queries", type=int, default=300)
    parser.add_argument("--tantivy", action="store_true", help="measure tantivy too (extra)")
    parser.add_argument("--dir", type=Path, help="where to work; a temporary folder by default")
    args = parser.parse_args()
    kinds = ["bm25", "tantivy"] if args.tantivy else ["bm25"]
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        for kind in kinds:
            rows = [measure(kind, size, Path(name), args.num_queries) for size in args.sizes]
            show(kind, rows)


def measure(kind: str, size: int, work: Path, num_queries: int) -> dict[str, float]:
    corpus = work / f"{size}.jsonl"
    if not corpus.exists():
        with corpus.open("w") as lines:
            lines.writelines(passages(size))
    queries = list(some_queries(corpus, num_queries))
    out = work / f"{kind}-{size}"
    row = {"passages": size, **apart(build, kind, corpus, out)}
    row["disk_mb"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    row["corpus_mb"] = corpus.stat().st_size / 1e6
    row.update(apart(memory_of_search, out, queries))
    row.update(apart(speed, kind, out, queries))
    return row


def passages(size: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    edges = np.cumsum(1 / np.arange(1, NUM_WORDS + 1))
    edges /= edges[-1]
    for start in range(0, size, 1000):
        draws = rng.random((min(1000, size - start), WORDS_PER_PASSAGE))
        for i, row in enumerate(np.searchsorted(edges, draws), start=start):
            text = " ".join(f"w{word}" for word in row)
            yield json.dumps({"id": str(i), "title": f"title{i}", "text": text}) + "\n"


def some_queries(corpus: Path, num_queries: int) -> Iterator[str]:
    rng = np.random.default_rng(1)
    with corpus.open() as lines:
        for _, line in zip(range(num_queries), lines, strict=False):
            yield " ".join(rng.choice(json.loads(line)["text"].split(), 8))


def build(kind: str, corpus: Path, out: Path) -> dict[str, float]:
    start = time.perf_counter()
    if kind == "bm25":
        from calibadv_env.retrieval.bm25_build import build_bm25_index

        build_bm25_index(corpus, out)
    else:
        from calibadv_env.retrieval.tantivy_index import build_tantivy_index

        build_tantivy_index(corpus, out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"build_s": seconds, "build_peak_mb": peak}


def memory_of_search(out: Path, queries: list[str]) -> dict[str, float]:
    before = own_memory_mb()
    index = open_index(out)
    opened = own_memory_mb()
    for query in queries:
        index.search([query], TOP_K)
    after = own_memory_mb()
    return {"open_mb": opened - before, "search_mb": after - before, "process_mb": after}


def speed(kind: str, out: Path, queries: list[str]) -> dict[str, float]:
    index = open_index(out)
    if kind != "bm25":
        return {"mapped": rate(index, queries)}
    from calibadv_env.retrieval import Corpus
    from calibadv_env.retrieval.bm25 import Bm25Retriever
    from calibadv_env.retrieval.bm25_index import Bm25Index

    read = Bm25Index(out, in_memory=True)
    plain = Bm25Retriever(Corpus(list(index.corpus)))
    same = all(index.search([q], TOP_K) == plain.search([q], TOP_K) for q in queries)
    rates = [[rate(r, queries) for r in (index, read, plain)] for _ in range(3)]
    mapped, in_memory, retriever = (max(column) for column in zip(*rates, strict=True))
    return {"mapped": mapped, "in_memory": in_memory, "retriever": retriever, "same": float(same)}


def rate(retriever: Retriever, queries: list[str]) -> float:
    start = time.perf_counter()
    for query in queries:
        retriever.search([query], TOP_K)
    return len(queries) / (time.perf_counter() - start)


def own_memory_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    raise OSError("RssAnon is not in /proc/self/status")


def apart(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def show(kind: str, rows: list[dict[str, float]]) -> None:
    print(f"\n{kind}, one thread, one query a call, top {TOP_K}")
    for row in rows:
        size = row["passages"]
        million = 1e6 / size
        print(f"{size:,.0f} passages")
        print(f"  build        {row['build_s']:8.1f} s  {size / row['build_s']:10,.0f} passages/s")
        print(f"  peak memory  {row['build_peak_mb']:8.0f} MB of the process that builds")
        print(
            f"  disk         {row['disk_mb']:8.0f} MB  {row['disk_mb'] * million:8,.0f} a million"
        )
        print(f"  own memory   {row['search_mb']:8.1f} MB to open and search")
        print(f"  queries      {row['mapped']:8.0f} a second, mapped")
        if "in_memory" in row:
            print(f"  queries      {row['in_memory']:8.0f} a second, the same index in memory")
            print(f"  queries      {row['retriever']:8.0f} a second, Bm25Retriever")
            print(f"  mapped / in memory    {row['mapped'] / row['in_memory']:.2f}")
            print(f"  mapped / Bm25Retriever {row['mapped'] / row['retriever']:.2f}")
            print(f"  same top {TOP_K} and scores as Bm25Retriever: {bool(row['same'])}")
    last = rows[-1]
    print("extrapolated, in proportion to the largest size:")
    for goal in (1_000_000, 21_000_000):
        factor = goal / last["passages"]
        print(
            f"  {goal:>10,} passages: build {last['build_s'] * factor / 60:,.0f} min, disk "
            f"{last['disk_mb'] * factor / 1000:,.1f} GB, {last['mapped'] / factor:,.1f} queries/s"
        )


if __name__ == "__main__":
    main()
