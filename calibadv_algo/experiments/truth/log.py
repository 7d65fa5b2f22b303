"""Episodes and continuations of a measurement on disk, so that a kill loses next to nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.journal import framed, intact_lines
from calibadv_algo.rollout.records import trajectory_from_record, trajectory_to_json
from calibadv_algo.types import Trajectory
from calibadv_env.common.files import naming

LOG_FILE: Final = "measurements.jsonl"
RESULT_FILE: Final = "credit.json"
PAGE_FILE: Final = "credit.html"


class TruthLogError(CalibadvAlgoError):
    """A folder holds another measurement."""


class TruthLog:
    """Log of one measurement: a header, then a line for every episode and every continuation.

    Every line begins with the CRC-32 of the rest; one that a kill cut short is left out, and what
    it stood for is sampled again, with the same result.

    Attributes:
        returns: Returns of continuations by their seed.
        num_known: Lines that were there when it was opened.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """Reads what is there.

        Args:
            folder: Where the file is; made if need be.
            facts: Everything that the numbers depend on.

        Raises:
            TruthLogError: if the file belongs to other settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG_FILE
        self._episodes: dict[EpisodeSpec, Trajectory] = {}
        self.returns: dict[int, float] = {}
        self.num_known = 0
        header = json.dumps(facts, sort_keys=True)
        lines = list(intact_lines(path)) if path.exists() else []
        if lines and json.loads(lines[0]) != json.loads(header):
            raise TruthLogError(
                f"{path} holds a measurement with other settings: name another folder with "
                "--output, or delete that one"
            )
        for line in lines[1:]:
            self._read(json.loads(line))
        self.num_known = max(0, len(lines) - 1)
        self._path = path
        self._file: BinaryIO = path.open("ab", buffering=0)
        if not lines:
            self._file.truncate(0)
            self._write(header)
        elif path.read_bytes()[-1:] != b"\n":
            # The piece of a line that a kill cut short must not spoil the next one.
            self._file.write(b"\n")

    def find(self, spec: EpisodeSpec) -> Trajectory | None:
        """An episode of a group that was finished before."""
        return self._episodes.get(spec)

    def record(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        """Keeps an episode of a group."""
        head = json.dumps(asdict(spec), separators=(",", ":"))
        self._write(f'{{"spec":{head},"trajectory":{trajectory_to_json(trajectory)}}}')
        self._episodes[spec] = trajectory

    @property
    def continuations(self) -> Continuations:
        """The part that takes continuations."""
        return Continuations(self)

    def add_return(self, seed: int, value: float) -> None:
        """Keeps the return of a continuation."""
        self.returns[seed] = value
        self._write(json.dumps({"seed": seed, "return": value}))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self, record: dict[str, Any]) -> None:
        if "spec" in record:
            spec = EpisodeSpec(**record["spec"])
            self._episodes[spec] = trajectory_from_record(record["trajectory"])
        else:
            self.returns[record["seed"]] = record["return"]

    def _write(self, line: str) -> None:
        data = memoryview(framed(line.encode("utf-8", "surrogatepass")))
        with naming(self._path):
            while data:
                data = data[self._file.write(data) :]


class Continuations:
    """Writes the returns of continuations into a log; those that it has are never asked for."""

    def __init__(self, log: TruthLog) -> None:
        """Writes into ``log``."""
        self._log = log

    def find(self, spec: EpisodeSpec) -> Trajectory | None:
        """None: only the return of a continuation is kept."""
        return None

    def record(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        """Keeps a return."""
        self._log.add_return(spec.seed, trajectory.reward)
