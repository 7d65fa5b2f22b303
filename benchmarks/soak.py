"""Keeps a search server busy for minutes: failures, latency and memory over time.

Run ``python benchmarks/soak.py INDEX --seconds 300`` for any source of ``calibadv serve``. 64
clients ask the questions of the atlas, one at a time each. Every answer must have status 200 and
at least one passage; anything else is a failure. With ``--loris N`` somebody beside them opens N
connections a second, sends half a request on each and then a header now and then. Resident memory
of the server and its helpers is read every interval: "own" is anonymous memory (RssAnon), "files"
are pages of the index (RssFile), which are page cache that the system takes back. The exit code is
1 if an answer failed, if the server ended, or if own memory grew by more than a tenth (and 20 MB)
from the second interval to the last.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator

from server import HEADER, atlas_questions, one_round, report, serving


@contextlib.contextmanager
def slow_loris(port: int, rate: float) -> Iterator[list[int]]:
    """Opens half requests beside what runs inside; gives how many, in a list of one."""
    is_over = threading.Event()
    count = [0]

    def drip() -> None:
        held: deque[socket.socket] = deque(maxlen=600)
        while rate and not is_over.wait(1 / rate):
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), timeout=1.0)
                one.sendall(b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\n")
                count[0] += 1
                held.append(one)
                held[0].sendall(b"x: y\r\n")
                held.rotate()

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        is_over.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="what is served")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--interval", type=float, default=30.0, help="of a line, in seconds")
    parser.add_argument("--loris", type=float, default=0.0, help="half requests a second")
    parser.add_argument("--wrk", metavar="PATH", help="take this load generator")
    args = parser.parse_args()
    queries = atlas_questions()
    own: list[float] = []
    rounds = []
    with serving(args.source) as server, slow_loris(server.port, args.loris) as halves:
        print(f"{args.source} ({server.name}), {args.clients} clients, {args.seconds:.0f} s")
        print(f"{HEADER}  own MB  files MB")
        for number in range(max(1, round(args.seconds / args.interval))):
            one = one_round(
                server,
                queries,
                clients=args.clients,
                seconds=args.interval,
                first=number * 7919,
                wrk=args.wrk,
            )
            rounds.append(one)
            memory = server.memory_mb()
            own.append(memory["RssAnon"])
            report(f"{(number + 1) * args.interval:8.0f} s", [one])
            print(f"{'':70s}{memory['RssAnon']:8.0f}{memory['RssFile']:10.0f}", flush=True)
        has_ended = server.process.poll() is not None
    report("all", rounds)
    num_failed = sum(one.num_failed for one in rounds)
    growth = own[-1] - own[min(1, len(own) - 1)]
    has_grown = growth > max(20.0, 0.1 * own[min(1, len(own) - 1)])
    print(f"answers {sum(one.num_answers for one in rounds):,}, failed {num_failed}, ", end="")
    print(f"half requests {halves[0]:,}, ", end="")
    print(f"own memory {own[0]:.0f} MB at first, {own[-1]:.0f} MB at last")
    return 1 if num_failed or has_ended or has_grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
