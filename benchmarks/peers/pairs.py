"""Pairs of processes that take turns, and the ratios of their rounds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
_LIBRARIES: Final = ("OMP", "MKL", "OPENBLAS", "RAYON")
_ONE_THREAD: Final = {f"{name}_NUM_THREADS": "1" for name in _LIBRARIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Our side and another's, which do the same work.

    Attributes:
        name: Name of the comparison.
        peer: The other library, with its version.
        what: Work of both, for the table.
        ours: Module of our side under ``sides``.
        theirs: Module of the other side.
        python: Interpreter of the other side, from the root of the project.
        options: Sizes, the same for both.
    """

    name: str
    peer: str
    what: str
    ours: str
    theirs: str
    python: str = ".venv/bin/python"
    options: Mapping[str, Any] = field(default_factory=dict)


class Side:
    """A process that waits for its turn."""

    def __init__(self, python: str, module: str, options: Mapping[str, Any]) -> None:
        """Starts it and waits until it is ready."""
        environment = {**os.environ, **_ONE_THREAD, "TOKENIZERS_PARALLELISM": "0"}
        environment["PYTHONPATH"] = str(ROOT)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker", module, json.dumps(dict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.module = module
        self.kinds: list[str] = self._read()["kinds"]

    def take_turn(self) -> float:
        """Units of work a CPU second of the next kind of work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found = self._read()
        return float(found["units"] / max(found["cpu_s"], 1e-9))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side {self.module} ended with code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


def run_pair(pair: Pair, rounds: int) -> list[dict[str, Any]]:
    """Lets both sides take turns; the first round warms up and does not count.

    Returns:
        For each kind of work the units a CPU second of both sides by round, and the least and the
        median ratio of ours to theirs.
    """
    sides = {
        "ours": Side(".venv/bin/python", pair.ours, pair.options),
        "theirs": Side(pair.python, pair.theirs, pair.options),
    }
    kinds = sides["ours"].kinds
    rates: dict[str, dict[str, list[float]]] = {kind: {who: [] for who in sides} for kind in kinds}
    try:
        for number in range(rounds + 1):
            order = sorted(sides, reverse=bool(number % 2))
            for kind in kinds:
                for who in order:
                    rates[kind][who].append(sides[who].take_turn())
    finally:
        for side in sides.values():
            side.close()
    return [
        {
            "pair": pair.name,
            "peer": pair.peer,
            "what": f"{pair.what}: {kind}" if kind else pair.what,
            "options": dict(pair.options),
            "ours_per_cpu_s": each["ours"][1:],
            "theirs_per_cpu_s": each["theirs"][1:],
            **ratios(each["ours"][1:], each["theirs"][1:]),
        }
        for kind, each in rates.items()
    ]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Least and median ratio of the rounds, each ours against theirs in the same round."""
    found = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {"min": min(found), "median": statistics.median(found)}
