"""BM25 on disk from ten thousand to a million passages: building, size, memory, speed, a server.

Run ``python benchmarks/bm25_scale.py``; ``--sizes 10000 100000 1000000 --kinds bm25 tantivy`` says
what to measure, ``--keep FOLDER`` keeps corpora and indexes there and takes those that are there.
Each corpus is the real atlas (a part of it, below 26,400 passages), spread over synthetic passages
of 80 words: 68 by a Zipf law over a million invented words, 12 and a title of 2 from the words of
the atlas, each in proportion to the square root of its count, so that many passages hold the words
of a question.

- *build*: ``calibadv index``, in a process of its own; its peak resident memory.
- *search*: one query a call, one thread, in a process of its own: questions of the atlas, and
  queries of 8 words drawn from a passage. "postings" is how many of them a query's words have.
- *gold*: share of the atlas's one-hop questions with a gold passage among the best 3.
- *server*: ``calibadv serve``, 64 clients with one query at a time each; see ``server.py``.

"own" memory is anonymous memory (RssAnon), without the page cache of mapped files (RssFile), which
the system takes back. What stands below "on paper" is arithmetic on the two largest sizes, not a
measurement. The load average of the machine stands beside each row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from sysconfig import get_path
from typing import Any

import numpy as np
from server import HEADER, atlas_questions, one_round, report, serving

from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval import Passage, Retriever
from calibadv_env.retrieval.bm25.settings import STOP_WORDS, WORD
from calibadv_env.retrieval.opening import open_index

NUM_INVENTED = 1_000_000
INVENTED_PER_PASSAGE = 68
REAL_PER_PASSAGE = 14
TOP_K = 3
GOALS = (1_000_000, 21_000_000)
WIKI_WORDS = 100
"""Words of a passage of wiki-18, beside the 80 of the synthetic ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["bm25"], choices=["bm25", "tantivy"])
    parser.add_argument("--num-queries", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load on the server")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to work")
    parser.add_argument("--wrk", metavar="PATH", help="take this load generator")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        for kind in args.kinds:
            rows = [measure(kind, size, work, args) for size in args.sizes]
            on_paper(kind, rows)


def measure(kind: str, size: int, work: Path, args: argparse.Namespace) -> dict[str, float]:
    corpus, out = work / f"{size}.jsonl", work / f"{kind}-{size}"
    if not corpus.exists():
        write_corpus(corpus, size)
    print(f"\n{kind}, {size:,} passages", flush=True)
    row: dict[str, float] = {"passages": size}
    if not out.exists():
        row.update(apart(build, kind, corpus, out))
        print(
            f"  build   {row['build_s']:9.1f} s {size / row['build_s']:10,.0f} passages/s", end=""
        )
        print(f", peak {row['peak_mb']:,.0f} MB{load()}", flush=True)
    row["disk_mb"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    row["corpus_mb"] = sum(p.stat().st_size for p in (out / "corpus").iterdir()) / 1e6
    print(f"  disk    {row['disk_mb']:9.0f} MB, of which {row['corpus_mb']:.0f} MB passages")
    queries = {
        "atlas": atlas_questions()[:: max(1, 6000 // args.num_queries)][: args.num_queries],
        "mixed": list(some_queries(corpus, args.num_queries)),
    }
    for name, chosen in queries.items():
        found = apart(search, out, chosen)
        row.update({f"{name}_{key}": value for key, value in found.items()})
        print(f"  {name:8s}{found['p50_ms']:9.2f} ms median, {found['p99_ms']:.2f} p99, ", end="")
        print(f"cpu {found['cpu_ms']:.2f}, {found['postings']:,.0f} postings", end="")
        print(f", own {found['own_mb']:.0f} MB{load()}", flush=True)
    print(f"  gold    {apart(gold_recall, out)['recall']:9.3f}", flush=True)
    row.update(serve(out, args))
    return row


def serve(out: Path, args: argparse.Namespace) -> dict[str, float]:
    with serving(str(out)) as server:
        queries = atlas_questions()
        one_round(server, queries, clients=64, seconds=2.0, wrk=args.wrk)
        one = one_round(server, queries, clients=64, seconds=args.seconds, first=999, wrk=args.wrk)
        memory = server.memory_mb()
        print(f"  server  {server.name}; own {memory['RssAnon']:.0f} MB, ", end="")
        print(f"files {memory['RssFile']:.0f} MB\n  {HEADER}")
        print("  ", end="")
        report("64 clients", [one])
    return {"server_rate": one.rate, "server_own_mb": memory["RssAnon"], "cpu_ms": one.cpu_ms}


def write_corpus(path: Path, size: int) -> None:
    atlas = list(get_dataset("atlas").corpus())
    if size < 2 * len(atlas):
        atlas = atlas[:: -(-2 * len(atlas) // size)]
    rng = np.random.default_rng(0)
    places = iter(np.sort(rng.choice(size, len(atlas), replace=False)).tolist())
    with path.open("w") as lines:
        next_place, passages = next(places), iter(atlas)
        for number, passage in enumerate(synthetic(atlas, size, rng)):
            if number == next_place:
                passage, next_place = next(passages), next(places, -1)
            record = {"id": passage.id, "title": passage.title, "text": passage.text}
            lines.write(json.dumps(record) + "\n")


def synthetic(atlas: list[Passage], size: int, rng: np.random.Generator) -> Iterator[Passage]:
    counts: Counter[str] = Counter()
    for passage in atlas:
        counts.update(WORD.findall(f"{passage.title}. {passage.text}".lower()))
    words = sorted(counts)
    roots = np.sqrt([counts[word] for word in words])
    real = np.cumsum(roots / roots.sum())
    invented = np.cumsum(1 / np.arange(1, NUM_INVENTED + 1))
    invented /= invented[-1]
    for start in range(0, size, 1000):
        rows = min(1000, size - start)
        strange = np.searchsorted(invented, rng.random((rows, INVENTED_PER_PASSAGE))).tolist()
        known = np.searchsorted(real, rng.random((rows, REAL_PER_PASSAGE))).tolist()
        for i in range(rows):
            text = [words[k] for k in known[i]] + [f"w{k}" for k in strange[i]]
            yield Passage(f"synthetic{start + i}", " ".join(text[:2]), " ".join(text[2:]))


def some_queries(corpus: Path, num_queries: int) -> Iterator[str]:
    rng = np.random.default_rng(1)
    with corpus.open() as lines:
        for _, line in zip(range(num_queries), lines, strict=False):
            yield " ".join(rng.choice(json.loads(line)["text"].split(), 8))


def build(kind: str, corpus: Path, out: Path) -> dict[str, float]:
    start = time.perf_counter()
    command = [str(Path(get_path("scripts")) / "calibadv"), "index", kind, str(corpus), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return {"build_s": seconds, "peak_mb": peak}


def search(out: Path, queries: list[str]) -> dict[str, float]:
    before = own_memory_mb()
    index = open_index(out)
    for query in queries:
        index.search([query], TOP_K)
    own = own_memory_mb() - before
    best: list[float] = []
    cpu = time.thread_time()
    for _ in range(3):
        times = []
        for query in queries:
            start = time.perf_counter()
            index.search([query], TOP_K)
            times.append(1000 * (time.perf_counter() - start))
        best = times if not best or sum(times) < sum(best) else best
    cpu_ms = 1000 * (time.thread_time() - cpu) / (3 * len(queries))
    p50, p99 = np.quantile(best, [0.5, 0.99]).tolist()
    postings = num_postings(index, queries)
    return {"p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu_ms, "own_mb": own, "postings": postings}


def num_postings(index: Retriever, queries: list[str]) -> float:
    """Postings of a query's words; for tantivy unknown."""
    starts = index.folder / "starts.i64"
    if not starts.exists():
        return float("nan")
    sizes = np.diff(np.fromfile(starts, "<i8"))
    stop = set(STOP_WORDS)
    numbers = {
        word: index._find_word(word)
        for query in queries
        for word in WORD.findall(query.lower())
        if word not in stop
    }
    found = [
        [numbers[word] for word in WORD.findall(query.lower()) if numbers.get(word) is not None]
        for query in queries
    ]
    return float(np.mean([sum(sizes[number] for number in row) for row in found]))


def gold_recall(out: Path) -> dict[str, float]:
    index = open_index(out)
    tasks = [
        task
        for task in get_dataset("atlas").tasks("dev")
        if len(task.gold_passages) == 1 and task.gold_passages[0][0] in index.corpus
    ][:200]
    rows = index.search([task.question for task in tasks], TOP_K)
    hits = [
        any(hit.passage.id in task.gold_passages[0] for hit in row)
        for task, row in zip(tasks, rows, strict=True)
    ]
    return {"recall": float(np.mean(hits))}


def own_memory_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) / 1000


def load() -> str:
    return f"  (load average {os.getloadavg()[0]:.1f})"


def apart(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def on_paper(kind: str, rows: list[dict[str, float]]) -> None:
    """A straight line through the last two sizes; longer passages in proportion."""
    if len(rows) < 2:
        return
    small, large = rows[-2:]
    print(f"\n{kind} on paper, a line through {small['passages']:,} and {large['passages']:,}:")
    for goal in GOALS:
        longer = WIKI_WORDS / 80 if goal > large["passages"] else 1.0

        def at(key: str, goal: int = goal, longer: float = longer) -> float:
            slope = (large[key] - small[key]) / (large["passages"] - small["passages"])
            return large[key] + slope * (goal - large["passages"]) * longer

        print(f"  {goal:>10,}: disk {at('disk_mb') / 1000:.1f} GB", end="")
        if "build_s" in small and "build_s" in large:
            print(f", build {at('build_s') / 60:.0f} min", end="")
        print(f", cpu of a question {at('atlas_cpu_ms'):.1f} ms, of a mixed query ", end="")
        print(f"{at('mixed_cpu_ms'):.1f} ms, own memory of the server ", end="")
        print(f"{at('server_own_mb'):,.0f} MB")


if __name__ == "__main__":
    main()
