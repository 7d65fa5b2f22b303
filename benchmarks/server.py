"""Gain of batching in the search server: two servers, one with it and one without.

Run ``python benchmarks/server.py`` for BM25 over the atlas, and ``python benchmarks/server.py
INDEX`` for any index that ``calibadv index`` made. Both servers are ``calibadv serve`` with the
same settings but for ``--batch.max-batch 1 --batch.max-wait-ms 0``. So many clients (64) each ask
one query at a time, the next of the questions of the atlas, over connections that stay open. The
servers take turns, so that other load on the machine hits both; the ratio is that of the median
throughputs of the rounds.

The clients run in one process of their own, on raw sockets without an HTTP library, so that they
cost little (about 40 microseconds a query); ``--wrk PATH`` takes the load generator wrk instead
(in Debian; about 10). "cpu ms" is the processor time of the server and its helpers for one query:
unlike the throughput it hardly depends on what else runs on the machine. "others" is the share of
the machine's processors that other processes took during the rounds; ``--quiet 0.1`` waits before
each round until they take less than a tenth, and repeats rounds in which they took more.
``OMP_NUM_THREADS`` of the servers is 1 unless the environment sets it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_path

from calibadv_env.data.registry import get_dataset

TOP_K = 3
UNBATCHED = ("--batch.max-batch", "1", "--batch.max-wait-ms", "0")
TICKS = os.sysconf("SC_CLK_TCK")
_STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Round:
    """Measurements of one round with one server.

    Attributes:
        seconds: How long it took.
        latencies_ms: Of each answer; of wrk, which keeps none, the 50th and 99th percentile.
        num_answers: Right answers.
        num_failed: Anything else.
        cpu_ms: Processor time of the server for one answer.
        num_searches: Calls of the retriever.
        others: Share of the machine's processors that other processes took.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    num_answers: int = 0
    num_failed: int = 0
    cpu_ms: float = 0.0
    num_searches: float = 0.0
    others: float = 0.0

    @property
    def rate(self) -> float:
        """Queries answered a second."""
        return self.num_answers / self.seconds

    def percentile(self, share: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        values = sorted(self.latencies_ms)
        return values[round((len(values) - 1) * share)] if values else float("nan")


class Server:
    """``calibadv serve`` in a process of its own."""

    def __init__(self, source: str, *flags: str) -> None:
        command = [str(Path(get_path("scripts")) / "calibadv"), "serve", source, "--port", "0"]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        self.process = subprocess.Popen(
            [*command, *flags], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.port = 0
        self.name = ""
        for line in self.process.stderr:
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(found.group(1))
            if found := re.search(r"ready after (.*)", line):
                self.name = found.group(1)
                break
        else:
            raise SystemExit(f"the server ended with exit code {self.process.wait()}")
        while not self.is_ready():
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """True if it answers."""
        with contextlib.suppress(OSError):
            return _STRAIGHT.open(f"http://127.0.0.1:{self.port}/ready").status == 200
        return False

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        with _STRAIGHT.open(f"http://127.0.0.1:{self.port}/metrics") as reply:
            return float(re.search(rf"^{name} (\S+)", reply.read().decode(), re.M).group(1))

    def processes(self) -> list[int]:
        """The server and its helpers."""
        found = [self.process.pid]
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                values = path.read_text().rpartition(")")[2].split()
                if int(values[1]) == self.process.pid:
                    found.append(int(path.parent.name))
        return found

    def cpu_s(self) -> float:
        """Processor time so far, in seconds."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(values[11]) + int(values[12])
        return total / TICKS

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of all processes: own (RssAnon) and mapped files (RssFile)."""
        found = {"RssAnon": 0.0, "RssFile": 0.0}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in found:
                        found[name] += int(value.split()[0]) / 1000
        return found

    def stop(self) -> int:
        """Ends it and gives its exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def serving(source: str, *flags: str) -> Iterator[Server]:
    """Runs a server."""
    server = Server(source, *flags)
    try:
        yield server
    finally:
        server.stop()


class Client(asyncio.Protocol):
    """Asks one query after the other over one connection."""

    def __init__(self, stop: float, bodies: Iterator[bytes], result: Round) -> None:
        self.stop, self.bodies, self.result = stop, bodies, result
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""
        self.length = -1
        self.is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Sends the next query."""
        self.buffer, self.length, self.is_waiting = b"", -1, True
        self.started = time.monotonic()
        self.transport.write(next(self.bodies))

    def data_received(self, data: bytes) -> None:
        """Reads a part of an answer."""
        self.buffer += data
        if self.length < 0:
            head, end, _ = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            found = re.search(rb"content-length: (\d+)", head)
            self.length = len(head) + 4 + int(found.group(1))
        if len(self.buffer) < self.length:
            return
        now = time.monotonic()
        self.is_waiting = False
        if self.buffer.startswith(b"HTTP/1.1 200") and b'{"result": [[{' in self.buffer:
            self.result.num_answers += 1
            self.result.latencies_ms.append(1000 * (now - self.started))
        else:
            self.result.num_failed += 1
        if now < self.stop:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """An answer that did not come is a failure."""
        self.result.num_failed += self.is_waiting
        self.done.set_result(None)


def request(query: str) -> bytes:
    """The bytes of a request."""
    body = json.dumps({"query": query, "topk": TOP_K, "return_scores": True}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def ask_all(port: int, num_clients: int, seconds: float, queries: list[str], first: int) -> Round:
    """Work of the process of the clients."""

    async def main() -> Round:
        result = Round()
        chosen = queries[first % len(queries) :] + queries[: first % len(queries)]
        bodies = itertools.cycle([request(query) for query in chosen])
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        clients = [
            (
                await loop.create_connection(
                    lambda: Client(started + seconds, bodies, result), "127.0.0.1", port
                )
            )[1]
            for _ in range(num_clients)
        ]
        await asyncio.gather(*(client.done for client in clients))
        result.seconds = time.monotonic() - started
        return result

    return asyncio.run(main())


def ask_by_wrk(
    wrk: str, port: int, num_clients: int, seconds: float, queries: list[str], first: int
) -> Round:
    """Measurement by wrk."""
    with tempfile.TemporaryDirectory() as work:
        bodies = [request(query).partition(b"\r\n\r\n")[2].decode() for query in queries]
        (Path(work) / "bodies").write_text("\n".join(bodies))
        script = Path(work) / "ask.lua"
        script.write_text(
            f'local b = {{}} for line in io.lines("{work}/bodies") do b[#b + 1] = line end\n'
            f"local i = {first} % #b\n"
            "request = function() i = i % #b + 1 "
            'return wrk.format("POST", "/retrieve", nil, b[i]) end\n'
        )
        command = [wrk, "-t1", f"-c{num_clients}", f"-d{max(1, round(seconds))}s", "--latency"]
        url = f"http://127.0.0.1:{port}/"
        text = subprocess.run(
            [*command, "--timeout", "60s", "-s", str(script), url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", text)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: (.*)", text)
    num_failed = int(failed.group(1)) if failed else 0
    num_failed += sum(map(int, re.findall(r"\d+", errors.group(1)))) if errors else 0
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    shares = {
        share: float(value) * unit[name]
        for share, value, name in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", text, re.M)
    }
    return Round(
        seconds=float(found.group(2)),
        latencies_ms=[shares[share] for share in ("50", "99") if share in shares],
        num_answers=int(found.group(1)) - num_failed,
        num_failed=num_failed,
    )


def one_round(
    server: Server,
    queries: list[str],
    *,
    clients: int,
    seconds: float,
    first: int = 0,
    wrk: str | None = None,
) -> Round:
    """Asks a server for some seconds."""
    searches = server.metric("calibadv_searches_total")
    cpu, mine, machine = server.cpu_s(), own_cpu_s(), machine_s()
    if wrk:
        one = ask_by_wrk(wrk, server.port, clients, seconds, queries, first)
    else:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            one = pool.apply(ask_all, (server.port, clients, seconds, queries, first))
    cpu = server.cpu_s() - cpu
    busy, every = (after - before for after, before in zip(machine_s(), machine, strict=True))
    one.cpu_ms = 1000 * cpu / max(1, one.num_answers)
    one.others = max(0.0, busy - cpu - (own_cpu_s() - mine)) / every
    one.num_searches = server.metric("calibadv_searches_total") - searches
    return one


def settled_round(
    server: Server, queries: list[str], number: int, args: argparse.Namespace
) -> Round:
    """A round; with ``--quiet`` one in which the machine was left alone."""
    while True:
        if args.quiet and number:
            wait_for_quiet(args.quiet)
        one = one_round(
            server,
            queries,
            clients=args.clients,
            seconds=args.seconds if number else 2.0,
            first=number * 7919,
            wrk=args.wrk,
        )
        if not (args.quiet and number) or one.others < args.quiet:
            return one


def own_cpu_s() -> float:
    """Processor time of this process and of the clients that have ended."""
    return sum(os.times()[:4])


def machine_s() -> tuple[float, float]:
    """Processor time of the whole machine so far: what was used, and all there was."""
    values = [int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(values) - values[3] - values[4]) / TICKS, sum(values) / TICKS


def wait_for_quiet(most: float) -> None:
    """Waits until other processes take less than a share of the machine's processors."""
    while True:
        before = machine_s()
        time.sleep(1.0)
        busy, every = (b - a for a, b in zip(before, machine_s(), strict=True))
        if busy / every < most:
            return


def report(name: str, rounds: Sequence[Round]) -> float:
    """Prints a line and gives the median throughput."""
    rate = statistics.median(one.rate for one in rounds)
    size = sum(one.num_answers for one in rounds) / max(1, sum(one.num_searches for one in rounds))
    p50, p99 = (statistics.median(one.percentile(q) for one in rounds) for q in (0.5, 0.99))
    cpu = statistics.median(one.cpu_ms for one in rounds)
    failed = sum(one.num_failed for one in rounds)
    others = max(one.others for one in rounds)
    print(f"{name:10s} {rate:9.0f} {p50:8.1f} {p99:8.1f} {size:14.1f}", end="")
    print(f" {cpu:7.2f} {failed:7d} {others:7.0%}", flush=True)
    return rate


HEADER = "server     queries/s   p50 ms   p99 ms queries/search  cpu ms  failed  others"


def atlas_questions() -> list[str]:
    """The questions of the atlas's training split."""
    return [task.question for task in get_dataset("atlas").tasks("train")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="atlas", help="what is served")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", help="of the servers; by default as many as serve takes")
    parser.add_argument("--quiet", type=float, metavar="SHARE", help="wait for a quiet machine")
    parser.add_argument("--wrk", metavar="PATH", help="take this load generator")
    args = parser.parse_args()
    queries = atlas_questions()
    flags = ("--processes", args.processes) if args.processes else ()
    kinds = {"batched": flags, "unbatched": (*flags, *UNBATCHED)}
    rounds: dict[str, list[Round]] = {name: [] for name in kinds}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(args.source, *flags)) for name, flags in kinds.items()
        }
        for number in range(args.rounds + 1):
            for name, server in servers.items():
                one = settled_round(server, queries, number, args)
                if number:
                    rounds[name].append(one)
        name = servers["batched"].name
    print(f"{args.source} ({name}), {args.clients} clients, {args.rounds} x {args.seconds:.0f} s")
    print(HEADER)
    rates = {name: report(name, of_kind) for name, of_kind in rounds.items()}
    print(f"batched / unbatched {rates['batched'] / rates['unbatched']:.2f}")
    cpu = {kind: statistics.median(one.cpu_ms for one in of) for kind, of in rounds.items()}
    print(f"the same in processor time {cpu['unbatched'] / cpu['batched']:.2f}")


if __name__ == "__main__":
    main()
