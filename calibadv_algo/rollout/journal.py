"""Finished episodes on disk, so that a killed run does not sample them again.

There is one file for each update and process, ``update_000012.rank0.jsonl``: a header line that
says which run, update and policy the episodes belong to, then one line an episode, written as
soon as it ends. Every line begins with the CRC-32 of the rest. A line that a kill cut short, or
that the disk damaged, is left out on reading: its episode is sampled again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.records import trajectory_from_record, trajectory_to_json
from calibadv_algo.types import Trajectory
from calibadv_env.common.checks import require_not_negative
from calibadv_env.common.files import atomic_file, naming

if TYPE_CHECKING:
    import torch

FORMAT = 1
NUM_DIGEST_VALUES = 1024
"""Values of each weight that :func:`weights_digest` looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """Run, update and policy that the episodes of a step belong to.

    Attributes:
        update: Number of updates before the one that learns from the episodes.
        policy_version: Number of updates behind the policy that samples them.
        config_hash: Names the run's settings.
        policy: Digest of the weights that sample; None for whichever they were.
    """

    update: int
    policy_version: int
    config_hash: str
    policy: str | None = None

    def fits(self, header: Mapping[str, Any]) -> bool:
        """Tells whether episodes under this header may be used."""
        wanted = self.header()
        if self.policy is None:
            return {**header, "policy": None} == wanted
        return dict(header) == wanted

    def header(self) -> dict[str, Any]:
        """The first line of a file."""
        return {"format": FORMAT, **asdict(self)}


class JournalStep:
    """The finished episodes of one update; found by spec, kept as they end.

    Attributes:
        num_known: Episodes that were there when it was opened.
    """

    def __init__(self, folder: Path, key: StepKey, rank: int) -> None:
        """Reads what is there and makes the own file ready; see :meth:`StepJournal.open`."""
        stem = f"update_{key.update:06d}"
        own = folder / f"{stem}.rank{rank}.jsonl"
        self._known: dict[EpisodeSpec, Trajectory] = {}
        for file in sorted(folder.glob(f"{stem}.rank*.jsonl")):
            lines = list(intact_lines(file))
            is_ours = bool(lines) and key.fits(json.loads(lines[0]))
            for line in lines[1:] if is_ours else ():
                record = json.loads(line)
                spec = EpisodeSpec(**record["spec"])
                self._known[spec] = trajectory_from_record(record["trajectory"])
            if file == own and is_ours:
                _rewrite(own, lines)
            elif file == own:
                own.unlink()
        if not own.exists():
            _rewrite(own, [json.dumps(key.header()).encode()])
        self.num_known = len(self._known)
        self._path = own
        self._file: BinaryIO = own.open("ab", buffering=0)

    def find(self, spec: EpisodeSpec) -> Trajectory | None:
        """The trajectory of an episode that was finished before, None if it was not."""
        return self._known.get(spec)

    def record(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        """Appends an episode.

        Raises:
            OSError: if the file cannot be written.
            TypeError: if an info holds something that JSON has no form for.
        """
        head = json.dumps(asdict(spec), separators=(",", ":"))
        line = f'{{"spec":{head},"trajectory":{trajectory_to_json(trajectory)}}}'
        data = memoryview(framed(line.encode("utf-8", "surrogatepass")))
        with naming(self._path):
            while data:
                data = data[self._file.write(data) :]
        self._known[spec] = trajectory

    def close(self) -> None:
        """Closes the file; what was recorded stays."""
        self._file.close()

    def __enter__(self) -> JournalStep:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StepJournal:
    """The journal of a run: a folder with the files of the updates since the last checkpoint."""

    def __init__(self, folder: Path, *, config_hash: str, rank: int = 0) -> None:
        """Touches nothing; the folder is made at the first step.

        Args:
            folder: Where the files are.
            config_hash: Names the run's settings; episodes of another run are not used.
            rank: This process among those that play episodes. Each writes a file of its own
                and reads those of all, so another number of processes may go on.

        Raises:
            ValueError: if the rank is negative.
        """
        require_not_negative(rank=rank)
        self._folder = folder
        self._config_hash = config_hash
        self._rank = rank

    def open(self, *, update: int, policy_version: int, policy: str | None = None) -> JournalStep:
        """Opens the step of an update.

        A file that belongs to another run or policy is replaced.

        Args:
            update: Number of updates before the one that learns from the episodes.
            policy_version: Number of updates behind the policy that samples them.
            policy: Digest of its weights (:func:`weights_digest`): with it, episodes of a
                policy of the same number but other weights are not used. None takes them all.

        Returns:
            What was finished before, ready to take more. Close it after the collection.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        key = StepKey(
            update=update,
            policy_version=policy_version,
            config_hash=self._config_hash,
            policy=policy,
        )
        return JournalStep(self._folder, key, self._rank)

    def discard_before(self, update: int) -> None:
        """Deletes this process's files of updates that a checkpoint covers.

        Args:
            update: Number of finished updates in the checkpoint.
        """
        for file in self._folder.glob("update_*.rank*.jsonl"):
            number, _, rank = file.name.removeprefix("update_").partition(".rank")
            is_old = number.isdecimal() and int(number) < update
            if is_old and (self._rank == 0 or rank == f"{self._rank}.jsonl"):
                file.unlink(missing_ok=True)


def weights_digest(model: torch.nn.Module) -> str:
    """Names the weights of a model by up to 1024 values of each tensor, to the bit.

    Any step of an optimiser that moves every weight changes it; it costs next to nothing.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        flat = local.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // NUM_DIGEST_VALUES)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def framed(line: bytes) -> bytes:
    """A line with its checksum in front, as it stands in a journal."""
    return b"%08x %s\n" % (zlib.crc32(line), line)


def intact_lines(file: Path) -> Iterator[bytes]:
    """Lines whose checksum is right; nothing if the header's is not."""
    for number, line in enumerate(file.read_bytes().split(b"\n")):
        checksum, _, body = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(body) and body:
            yield body
        elif number == 0:
            return


def _rewrite(file: Path, lines: list[bytes]) -> None:
    """Replaces a file in one step, unless it holds just that."""
    data = b"".join(framed(line) for line in lines)
    if file.exists() and file.read_bytes() == data:
        return
    with atomic_file(file, "wb") as stream:
        stream.write(data)
