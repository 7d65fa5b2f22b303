"""One side of a pair, in a process of its own: works when a line comes in, says what it took."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


class Turns:
    """The rounds of a side: each kind of work in turn, again and again."""

    def __init__(self) -> None:
        """Keeps the standard output; whatever else is printed goes to the error stream."""
        self._channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = 0.0

    def announce(self, kinds: Sequence[str] = ("",)) -> None:
        """Says that the side is ready, and which kinds of work a round has, in order."""
        self._say(kinds=list(kinds))

    def begin(self) -> None:
        """Waits for the turn; ends the process where there is none any more."""
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._began = time.process_time()

    def end(self, units: int) -> None:
        """Says the CPU seconds since the turn began, and the units of work that were done."""
        self._say(cpu_s=time.process_time() - self._began, units=units)

    def repeat(self, works: dict[str, Callable[[], int]]) -> None:
        """Does each kind of work in turn for as long as it is asked."""
        self.announce(list(works))
        while True:
            for work in works.values():
                self.begin()
                self.end(work())

    def _say(self, **values: Any) -> None:
        self._channel.write(json.dumps(values) + "\n")
        self._channel.flush()


def main() -> None:
    """Runs the side that the arguments name."""
    turns = Turns()
    side = importlib.import_module(f"benchmarks.peers.sides.{sys.argv[1]}")
    side.run(json.loads(sys.argv[2]), turns)


if __name__ == "__main__":
    main()
