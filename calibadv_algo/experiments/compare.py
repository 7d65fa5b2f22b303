"""Arms times seeds from one warm start, side by side in processes of their own.

Each run is an ordinary training run in a folder of its own. The order of questions depends on the
seed alone, so the arms of a seed see the same questions. A comparison that was interrupted
goes on from the checkpoints of its runs when it is started again with the same settings.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.experiments.baseline import find_algorithm
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.presets import ATLAS_TINY

POLL_INTERVAL_S: Final = 0.5
"""How often the parent looks after its runs."""

STOP_TIMEOUT_S: Final = 10.0
"""How long a run that was told to stop may take before it is killed."""


class ComparisonError(CalibadvAlgoError):
    """A run of a comparison failed, or its folder belongs to another comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """What is compared."""

    arms: tuple[str, ...] = ("grpo", "calibadv")
    """Names of arms or baselines, with spaces or commas; `calibadv list arms`, `list baselines`."""
    seeds: tuple[int, ...] = (0, 1)
    """One run of every arm for each seed."""
    output_dir: Path = Path("runs/compare")
    """Folder of the runs and of the report."""
    num_workers: int = 0
    """Runs at a time; 0 means one a core."""
    train: TrainConfig = field(default_factory=lambda: ATLAS_TINY)
    """Settings that all runs share; arms and seeds replace parts of them."""

    def __post_init__(self) -> None:
        """Checks names and numbers."""
        for name in self.arms:
            find_algorithm(name)
        for name in ("arms", "seeds"):
            values: tuple[object, ...] = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be distinct and at least one, got {values}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")


COMPARE_PRESETS: Final[dict[str, CompareConfig]] = {
    "quick": CompareConfig(),
    "full": CompareConfig(
        arms=tuple(ARMS), seeds=(0, 1, 2, 3, 4), output_dir=Path("runs/compare-full")
    ),
    "smoke": CompareConfig(
        seeds=(0, 1),
        output_dir=Path("runs/compare-smoke"),
        train=replace(
            ATLAS_TINY,
            rollout=replace(ATLAS_TINY.rollout, num_questions=4, group_size=4),
            optim=replace(ATLAS_TINY.optim, num_updates=2),
            evaluation=replace(ATLAS_TINY.evaluation, every=1, episodes=20),
        ),
    ),
}
"""Named comparisons: the main job; every arm with five seeds; a minute's trial of the machinery."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a comparison."""

    arm: str
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.arm}-seed{self.seed}"


def plan_jobs(config: CompareConfig) -> list[Job]:
    """The runs of a comparison, seeds outermost, so that pairs finish together."""
    jobs = []
    for seed in config.seeds:
        for arm in config.arms:
            directory = config.output_dir / "runs" / f"{arm}-seed{seed}"
            train = replace(
                find_algorithm(arm).apply(config.train), seed=seed, output_dir=directory, quiet=True
            )
            jobs.append(Job(arm, seed, train))
    return jobs


def write_comparison(
    config: CompareConfig, facts: Mapping[str, Any], wall_time_s: float | None
) -> None:
    """Writes ``comparison.json``, atomically.

    Args:
        config: The comparison.
        facts: Whatever else belongs beside the results: commit, data hashes, the warm start.
        wall_time_s: Duration in seconds, None while it runs.
    """
    record = {
        "arms": list(config.arms),
        "arm_descriptions": {name: find_algorithm(name).description for name in config.arms},
        "seeds": list(config.seeds),
        "config": config_to_dict(config.train),
        "wall_time_s": wall_time_s,
        **facts,
    }
    path = config.output_dir / "comparison.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def check_output_dir(config: CompareConfig) -> None:
    """Makes the folder, or makes sure that what is in it is this comparison.

    Raises:
        ComparisonError: if another comparison's results are in it.
    """
    path = config.output_dir / "comparison.json"
    if path.exists():
        found = _read_record(path).get("config")
        wanted = json.loads(json.dumps(config_to_dict(config.train)))
        if found != wanted:
            shown = ", ".join(_differences(found, wanted)[:3])
            raise ComparisonError(
                f"{config.output_dir} holds a comparison with other settings ({shown}); choose "
                "another --output-dir, or remove it"
            )
    config.output_dir.mkdir(parents=True, exist_ok=True)


def recorded_wall_time_s(output_dir: Path) -> float | None:
    """Seconds that a comparison has run for so far, None if it is not known to have begun.

    Raises:
        ComparisonError: if the record in the folder cannot be read.
    """
    path = output_dir / "comparison.json"
    wall_time_s = _read_record(path).get("wall_time_s") if path.exists() else None
    return None if wall_time_s is None else float(wall_time_s)


def commit_facts(output_dir: Path, commit: str) -> dict[str, Any]:
    """The commit that a comparison began with, and later ones that went on with it.

    Args:
        output_dir: Folder of the comparison.
        commit: The commit of this start.

    Returns:
        Facts for :func:`write_comparison`: ``git_commit`` and, if there are any,
        ``later_commits``.

    Raises:
        ComparisonError: if the record in the folder cannot be read.
    """
    path = output_dir / "comparison.json"
    record = _read_record(path) if path.exists() else {}
    first = str(record.get("git_commit") or commit)
    later = list(record.get("later_commits", []))
    if commit != (later[-1] if later else first):
        later.append(commit)
    return {"git_commit": first} | ({"later_commits": later} if later else {})


def _read_record(path: Path) -> dict[str, Any]:
    """What `write_comparison` wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComparisonError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise ComparisonError(f"{path}: must hold an object, got {type(record).__name__}")
    return record


def _differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    """The settings that differ, as "name: found, not wanted"."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return [] if found == wanted else [f"{place}: {found!r} there, {wanted!r} here"]
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [
        line
        for name in names
        for line in _differences(
            found.get(name), wanted.get(name), f"{place}.{name}" if place else name
        )
    ]


def run_jobs(
    jobs: Sequence[Job],
    target: Callable[[TrainConfig], None],
    num_workers: int,
    on_poll: Callable[[Sequence[Job]], None],
) -> None:
    """Runs jobs in processes of their own, so many at a time.

    Args:
        jobs: What to run, in order.
        target: Carries out one run; importable, since processes are spawned.
        num_workers: Runs at a time; 0 means one a core.
        on_poll: Called again and again with the jobs that are running.

    Whatever ends the call, no run goes on: they are stopped when it raises or is interrupted or
    terminated, and stop by themselves when this process is killed.

    Raises:
        ComparisonError: if a run failed, after the others have been stopped.
    """
    limit = num_workers or _num_cores()
    waiting = list(jobs)
    running: dict[str, tuple[Job, BaseProcess]] = {}
    with _exit_on_sigterm():
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    job = waiting.pop(0)
                    running[job.name] = (job, _start(target, job))
                time.sleep(POLL_INTERVAL_S)
                on_poll([job for job, _ in running.values()])
                for name, (job, process) in list(running.items()):
                    if process.exitcode is not None:
                        del running[name]
                        _require_success(job, process.exitcode)
        finally:
            _stop([process for _, process in running.values()])


def _num_cores() -> int:
    """Cores that this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(target: Callable[[TrainConfig], None], job: Job) -> BaseProcess:
    """Starts a run in a process of its own, with one thread."""
    job.config.output_dir.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run_job, args=(target, job), name=job.name)
    with _single_threaded():
        process.start()
    return process


def _require_success(job: Job, exitcode: int) -> None:
    """Raises ComparisonError unless a run has ended well."""
    log = job.config.output_dir / "log.txt"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (perhaps memory ran out)" if -exitcode == signal.SIGKILL else ""
        raise ComparisonError(f"run {job.name} was ended by {name}{hint}; see {log}")
    if exitcode > 0:
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        )
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise ComparisonError(
            f"run {job.name} ended with exit code {exitcode}; see {log}" + (last and f": {last}")
        )


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Ends processes, and waits until they have ended."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOP_TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that clean-up runs; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_job(target: Callable[[TrainConfig], None], job: Job) -> None:
    """In the child: everything it prints goes to the run's log."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    log = os.open(job.config.output_dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    target(job.config)


def _exit_with_parent() -> None:
    """In the child: waits for the end of the parent, however it ends, and ends this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Children inherit one thread each: two runs that share two cores must not fight for them."""
    names = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "0"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def last_metrics(directory: Path) -> dict[str, Any]:
    """The newest complete line of a run's metrics, {} before the first."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in reversed(lines[-2:]):
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        return record
    return {}
