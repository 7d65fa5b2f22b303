"""Jobs on a cluster: through submitit (SLURM) or Ray, each an extra of its own."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from calibadv_algo.experiments.jobs import Job, Launcher, LocalLauncher, num_cores
from calibadv_algo.training.config import TrainConfig
from calibadv_env.common.extras import import_extra

LauncherName = Literal["local", "submitit", "ray"]
"""Where the runs of a comparison take place."""

ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "0",
}
"""Environment of every run: the same threads everywhere give the same bytes."""

_LOST: Final = -int(signal.SIGKILL)
_UNLIMITED: Final = 1_000_000


def make_launcher(
    name: LauncherName, options: Sequence[str], folder: Path, num_workers: int = 0
) -> Launcher:
    """The launcher of a name.

    Args:
        name: Of the launcher.
        options: Settings of the engine behind it, each NAME=VALUE: of submitit those of
            ``AutoExecutor.update_parameters`` and ``cluster`` (slurm, local); of Ray those of
            ``ray.init``.
        folder: Where submitit keeps its files; every machine must see it.
        num_workers: Jobs at a time; 0 means one a core here, and all at once on a cluster.

    Raises:
        MissingDependencyError: if the engine is not installed.
        ValueError: if an option is not of that form.
    """
    given = dict(_option(text) for text in options)
    if name == "local":
        if given:
            raise ValueError(f"launcher_options are for submitit and ray, got {options[0]!r}")
        return LocalLauncher(num_workers)
    engine = import_extra(name, name, f"the launcher {name}")
    if name == "submitit":
        cluster = given.pop("cluster", None)
        executor = engine.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(**{"timeout_min": 24 * 60, "cpus_per_task": 1, **given})
        limit = num_cores() if executor.cluster in ("local", "debug") else _UNLIMITED
        return SubmititLauncher(executor, num_workers or limit)
    if not engine.is_initialized():
        engine.init(**{"log_to_driver": False, "include_dashboard": False, **given})
    return RayLauncher(engine, num_workers or _UNLIMITED)


@dataclass(frozen=True, slots=True)
class SubmititLauncher:
    """Jobs of SLURM, or processes of this machine, through submitit.

    Attributes:
        executor: Its ``AutoExecutor``.
        num_workers: Jobs that may be under way at a time.
    """

    executor: Any
    num_workers: int

    def start(self, target: Callable[[TrainConfig], object], job: Job) -> _SubmititJob:
        """Submits a job."""
        return _SubmititJob(self.executor.submit(run_remotely, *_parcel(target, job)))


@dataclass(slots=True)
class _SubmititJob:
    """A job of submitit as one that `run_jobs` looks after."""

    job: Any

    @property
    def exitcode(self) -> int | None:
        """None while it runs; a job without a result was ended from outside."""
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return 0
        return _LOST if type(error).__name__ == "UncompletedJobError" else 1

    def terminate(self) -> None:
        """Cancels it."""
        if not self.job.done():
            self.job.cancel()

    kill = terminate

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end."""
        _wait(lambda: self.exitcode is not None, timeout)


@dataclass(frozen=True, slots=True)
class RayLauncher:
    """Tasks of a Ray cluster, a worker process for each.

    Attributes:
        engine: The module ``ray``, connected.
        num_workers: Jobs that may be under way at a time; Ray itself waits for free cores.
    """

    engine: Any
    num_workers: int

    def start(self, target: Callable[[TrainConfig], object], job: Job) -> _RayJob:
        """Starts a task on one core; `run_jobs` starts it again if its worker dies."""
        run = self.engine.remote(num_cpus=1, max_calls=1, max_retries=0)(run_remotely)
        return _RayJob(self.engine, run.remote(*_parcel(target, job)))


@dataclass(slots=True)
class _RayJob:
    """A task of Ray as one that `run_jobs` looks after."""

    engine: Any
    reference: Any
    known: list[int] = field(default_factory=list)

    @property
    def exitcode(self) -> int | None:
        """None while it runs."""
        if self.known:
            return self.known[0]
        ready, _ = self.engine.wait([self.reference], timeout=0)
        if not ready:
            return None
        lost = (
            self.engine.exceptions.WorkerCrashedError,
            self.engine.exceptions.NodeDiedError,
            self.engine.exceptions.OutOfMemoryError,
        )
        try:
            self.engine.get(self.reference)
            self.known.append(0)
        except lost:
            self.known.append(_LOST)
        except self.engine.exceptions.RayError:
            self.known.append(1)
        return self.known[0]

    def terminate(self) -> None:
        """Cancels it, whatever it does."""
        if not self.known:
            self.engine.cancel(self.reference, force=True)

    kill = terminate

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end."""
        self.engine.wait([self.reference], timeout=timeout)


def run_remotely(parcel: bytes, paths: Sequence[str], environment: Mapping[str, str]) -> None:
    """On the machine of a job: carries it out, with one thread and everything in the run's log.

    Args:
        parcel: Target and job, pickled; read once the modules behind them can be found.
        paths: Where the parent found its modules.
        environment: Variables of the parent that a run reads, and one thread.
    """
    os.environ.update(environment)
    sys.path.extend(path for path in paths if path not in sys.path)
    target, job = pickle.loads(parcel)
    job.config.output_dir.mkdir(parents=True, exist_ok=True)
    log = os.open(job.config.output_dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    try:
        target(job.config)
    except BaseException:
        import traceback

        traceback.print_exc()
        raise


def _parcel(
    target: Callable[[TrainConfig], object], job: Job
) -> tuple[bytes, list[str], dict[str, str]]:
    """Arguments of :func:`run_remotely`; output folders are absolute, since a machine's is not."""
    cloudpickle = importlib.import_module("cloudpickle")
    kept = {k: v for k, v in os.environ.items() if k.startswith(("CALIBADV_", "HF_", "XDG_"))}
    return cloudpickle.dumps((target, job)), list(sys.path), kept | ONE_THREAD


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"launcher_options must have the form NAME=VALUE, got {text!r}")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    return name, int(value) if value.lstrip("-").isdigit() else value


def _wait(is_over: Callable[[], bool], timeout: float | None) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    while not is_over() and (end is None or time.monotonic() < end):
        time.sleep(0.2)
