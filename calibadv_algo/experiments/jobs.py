"""Training runs as jobs of their own, so many at a time, on this machine by default."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final, NoReturn, Protocol

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.training.config import TrainConfig

POLL_INTERVAL_S: Final = 0.5
"""How often the parent looks after its runs."""

STOP_TIMEOUT_S: Final = 10.0
"""How long a run that was told to stop may take before it is killed."""


class ComparisonError(CalibadvAlgoError):
    """A run of a comparison failed, or its folder belongs to another comparison."""


PRELOADED: Final = (
    "calibadv_algo.training.trainer",
    "calibadv_algo.rollout.engines.hf.engine",
    "calibadv_env.vector",
)
"""Modules that every run imports, torch and transformers along with them."""


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


class Started(Protocol):
    """A job that was started somewhere; the processes of multiprocessing are of this kind."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs, 0 for success, positive for an error, minus a signal's number."""

    def terminate(self) -> None:
        """Asks it to end."""

    def kill(self) -> None:
        """Ends it."""

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end."""


class Launcher(Protocol):
    """Where jobs run: processes of this machine, or those of a cluster."""

    @property
    def num_workers(self) -> int:
        """Jobs that may be under way at a time."""

    def start(self, target: Callable[[TrainConfig], object], job: Job) -> Started:
        """Starts a job, with one thread."""


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """Processes of this machine.

    Attributes:
        limit: Runs at a time; 0 means one a core.
    """

    limit: int = 0

    @property
    def num_workers(self) -> int:
        """Jobs that may be under way at a time."""
        return self.limit or num_cores()

    def start(self, target: Callable[[TrainConfig], object], job: Job) -> BaseProcess:
        """Starts a run in a process of its own, with one thread."""
        return _start(target, job)


def run_jobs(
    jobs: Sequence[Job],
    target: Callable[[TrainConfig], object],
    launcher: Launcher,
    on_poll: Callable[[Sequence[Job]], None],
    num_restarts: int = 1,
) -> None:
    """Runs jobs, so many at a time; one that was killed is started again and goes on.

    Args:
        jobs: What to run, in order.
        target: Carries out one run; importable, since it runs in processes of their own.
        launcher: Where they run.
        on_poll: Called again and again with the jobs that are running.
        num_restarts: How often a job that a signal or a lost machine ended is started again. One
            that ended with an error is not: it would end in the same way.

    Whatever ends the call, no run goes on: they are stopped when it raises or is interrupted or
    terminated, and stop by themselves when this process is killed.

    Raises:
        ComparisonError: if a run failed, after the others have been stopped.
    """
    waiting = list(jobs)
    restarts: dict[str, int] = {}
    running: dict[str, tuple[Job, Started]] = {}
    with _exit_on_sigterm():
        try:
            while waiting or running:
                while waiting and len(running) < launcher.num_workers:
                    job = waiting.pop(0)
                    running[job.name] = (job, launcher.start(target, job))
                time.sleep(POLL_INTERVAL_S)
                on_poll([job for job, _ in running.values()])
                for name, (job, process) in list(running.items()):
                    exitcode = process.exitcode
                    if exitcode is None:
                        continue
                    del running[name]
                    if exitcode < 0 and restarts.setdefault(name, 0) < num_restarts:
                        restarts[name] += 1
                        note_restart(job, exitcode)
                        waiting.insert(0, job)
                    else:
                        _require_success(job, exitcode)
        finally:
            _stop([process for _, process in running.values()])


def note_restart(job: Job, exitcode: int) -> None:
    """Writes into a job's log that it was ended and is started again."""
    with (job.config.output_dir / "log.txt").open("a", encoding="utf-8") as stream:
        stream.write(f"ended by signal {-exitcode}; started again from its last checkpoint\n")


def num_cores() -> int:
    """Cores that this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(target: Callable[[TrainConfig], object], job: Job) -> BaseProcess:
    """Starts a run in a process of its own, with one thread."""
    job.config.output_dir.mkdir(parents=True, exist_ok=True)
    context = _context()
    with _single_threaded():
        given = (target, job, dict(os.environ))
        process = context.Process(target=_run_job, args=given, name=job.name)
        process.start()
    return process


def _context() -> ForkServerContext | SpawnContext:
    """Processes that are forked from one which has imported what they share, if there can be."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


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


def _stop(processes: Sequence[Started]) -> None:
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


def _run_job(
    target: Callable[[TrainConfig], object], job: Job, environment: Mapping[str, str]
) -> None:
    """In the child: everything it prints goes to the run's log.

    The environment is the parent's of now: a process that was forked has that of the first run.
    """
    os.environ.clear()
    os.environ.update(environment)
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


def check_importable(jobs: Sequence[Job]) -> None:
    """Makes sure that other processes can import what runs are made of.

    Raises:
        ComparisonError: if they cannot; it says what to do.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        # A run that is starting imports the script that started it, and would start it again.
        raise ComparisonError('compare must be called under `if __name__ == "__main__":`')
    has_file = getattr(sys.modules["__main__"], "__file__", None) is not None
    for job in jobs:
        optim = job.config.optim
        for part in (*job.config.parts, optim.objective, optim.mismatch):
            kind = type(part)
            if "<locals>" in kind.__qualname__ or (kind.__module__ == "__main__" and not has_file):
                raise ComparisonError(
                    f"{kind.__name__} of arm {job.arm} must be defined at the top level of a file, "
                    "where other processes can import it"
                )
