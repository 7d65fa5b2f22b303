"""What batching brings to the search server: two servers, one with it and one without.

Run ``python benchmarks/server.py`` for BM25 over the atlas, ``python benchmarks/server.py INDEX``
for any index, or ``python benchmarks/server.py --vectors 100000`` for an exact scan by faiss of so
many random vectors of E5's size (768), which stands for dense retrieval with the encoder left out.

Both servers have the same settings but for ``max_batch=1``. So many clients (64) each ask one
query at a time, the next of the questions of the atlas, over connections that stay open; the
clients are plain sockets, so that they cost little. The servers take turns, so that
other load on the machine hits both. The ratio is that of the median throughputs of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibadv_algo.commands.serve import open_source
from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval import Passage, Retriever, ScoredPassage
from calibadv_env.retrieval.batcher import BatchLimits
from calibadv_env.retrieval.server import ServerConfig, run_server

TOP_K = 3
DIMENSION = 768


class FlatScan:
    """Finds the nearest of many random vectors to a random one that the query seeds."""

    def __init__(self, num_vectors: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        faiss.cvar.distance_compute_blas_threshold = 16  # 128,000 in faiss 1.15: never
        self.index = faiss.IndexFlatIP(DIMENSION)
        rng = np.random.default_rng(0)
        for start in range(0, num_vectors, 10_000):
            size = min(10_000, num_vectors - start)
            self.index.add(rng.standard_normal((size, DIMENSION), dtype=np.float32))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks the vectors for all queries in one call of faiss."""
        seeds = [zlib.crc32(query.encode()) for query in queries]
        vectors = [
            np.random.default_rng(seed).standard_normal(DIMENSION, dtype=np.float32)
            for seed in seeds
        ]
        scores, positions = self.index.search(np.stack(vectors), top_k)
        return [
            [
                ScoredPassage(Passage(str(position), "Title", "word " * 100), float(score))
                for position, score in zip(*row, strict=True)
            ]
            for row in zip(positions.tolist(), scores.tolist(), strict=True)
        ]


@dataclass
class Round:
    """What one round with one server gave."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    num_failed: int = 0
    num_searches: float = 0.0

    @property
    def rate(self) -> float:
        """Queries answered a second."""
        return len(self.latencies_s) / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="atlas", help="what is served")
    parser.add_argument("--retriever", default="bm25", help="for a corpus or a dataset")
    parser.add_argument("--vectors", type=int, metavar="N", help="scan N vectors instead")
    parser.add_argument("--serve-batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.serve_batch:
        serve(args)
        return
    queries = [task.question for task in get_dataset("atlas").tasks("train")]
    kinds = {"batched": BatchLimits().max_batch, "unbatched": 1}
    rounds: dict[str, list[Round]] = {name: [] for name in kinds}
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(serving(size)) for name, size in kinds.items()}
        for number in range(args.rounds + 1):
            for name, port in ports.items():
                before = count_searches(port)
                one = asyncio.run(ask_all(port, args.clients, args.seconds, queries, number))
                one.num_searches = count_searches(port) - before
                if number > 0:
                    rounds[name].append(one)
    served = f"{args.vectors:,} vectors" if args.vectors else f"{args.source} ({args.retriever})"
    print(f"{served}, {args.clients} clients, {args.rounds} rounds of {args.seconds:.0f} s")
    print("server      queries/s   p50 ms   p99 ms  queries/search  failed")
    rates = {name: report(name, of_kind) for name, of_kind in rounds.items()}
    print(f"batched / unbatched {rates['batched'] / rates['unbatched']:.2f}")


def report(name: str, rounds: list[Round]) -> float:
    latencies = sorted(latency for one in rounds for latency in one.latencies_s)
    rate = statistics.median(one.rate for one in rounds)
    size = len(latencies) / max(1.0, sum(one.num_searches for one in rounds))
    p50, p99 = (1000 * latencies[int(len(latencies) * q)] for q in (0.5, 0.99))
    failed = sum(one.num_failed for one in rounds)
    print(f"{name:10s} {rate:10.0f} {p50:8.1f} {p99:8.1f} {size:15.1f} {failed:7d}")
    return rate


def serve(args: argparse.Namespace) -> None:
    """What the server processes run."""
    is_batched = args.serve_batch > 1
    batch = BatchLimits(max_batch=args.serve_batch, max_wait_ms=2.0 if is_batched else 0.0)

    def load() -> Retriever:
        retriever: Retriever = (
            FlatScan(args.vectors) if args.vectors else open_source(args.source, args.retriever)
        )
        print("ready", file=sys.stderr, flush=True)
        return retriever

    def announce(address: str) -> None:
        print("listening on", address, file=sys.stderr, flush=True)

    run_server(load, ServerConfig(port=0, batch=batch), announce)


@contextlib.contextmanager
def serving(max_batch: int) -> Iterator[int]:
    """Runs a server and gives its port once it is ready."""
    command = [sys.executable, *sys.argv, "--serve-batch", str(max_batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    port = 0
    try:
        for line in process.stderr or ():
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                port = int(found.group(1))
            if line.startswith("ready"):
                break
        else:
            raise SystemExit(f"the server ended with exit code {process.wait()}")
        time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def count_searches(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    return float(re.search(r"^calibadv_searches_total (\S+)", text, re.M).group(1))


async def ask_all(
    port: int, num_clients: int, seconds: float, queries: list[str], number: int
) -> Round:
    result = Round()
    stop = time.monotonic() + seconds
    first = (number * 7919) % len(queries)
    source = itertools.cycle(queries[first:] + queries[:first])
    started = time.monotonic()
    await asyncio.gather(*(ask(port, stop, source, result) for _ in range(num_clients)))
    result.seconds = time.monotonic() - started
    return result


async def ask(port: int, stop: float, source: Iterator[str], result: Round) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < stop:
        record = {"query": next(source), "topk": TOP_K, "return_scores": True}
        body = json.dumps(record).encode()
        head = f"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        started = time.monotonic()
        writer.write(head.encode() + body)
        header = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", header).group(1))
        reply = await reader.readexactly(length)
        if b" 200 " in header[:20] and reply.startswith(b'{"result": [[{'):
            result.latencies_s.append(time.monotonic() - started)
        else:
            result.num_failed += 1
    writer.close()


if __name__ == "__main__":
    main()
