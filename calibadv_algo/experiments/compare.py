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
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import tyro

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.experiments.arms import ARMS, Arm
from calibadv_algo.experiments.baseline import Algorithm, find_algorithm
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.parts import find_part, first_line
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_env.common.checks import NOT_NEGATIVE, Checked

POLL_INTERVAL_S: Final = 0.5
"""How often the parent looks after its runs."""

STOP_TIMEOUT_S: Final = 10.0
"""How long a run that was told to stop may take before it is killed."""


_ARM_NAME: Final = re.compile(r"\w[\w.+-]*")


class ComparisonError(CalibadvAlgoError):
    """A run of a comparison failed, or its folder belongs to another comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An arm that is any change of a run's settings.

    Attributes:
        description: One line for tables and help texts.
        apply: Puts the arm on settings.
    """

    description: str
    apply: Callable[[TrainConfig], TrainConfig]


ArmLike = Algorithm | AdvantageEstimator | Callable[[TrainConfig], TrainConfig] | str
"""An arm or a baseline, a name of one, an estimator, or a change of a run's settings."""


def as_algorithm(arm: ArmLike) -> Algorithm:
    """An arm from whatever may stand for one.

    An estimator goes with the credit and the think tag of the shared settings.

    Raises:
        ValueError: if a name is not known.
    """
    if isinstance(arm, str):
        return find_algorithm(arm)
    if isinstance(arm, AdvantageEstimator):
        return Arm(description=first_line(type(arm)), advantage=arm)
    if callable(arm):
        return Change(description=(arm.__doc__ or "").partition("\n")[0], apply=arm)
    return arm


def _comma_separated(kind: type, metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """Tells tyro to read a tuple whose items stand apart by spaces or commas."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{metavar} [{metavar} ...]]",
        instance_from_str=lambda words: tuple(
            kind(item) for word in words for item in word.split(",") if item
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(item) for item in value],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Checked):
    """Arms, seeds and settings of a comparison."""

    arms: Annotated[tuple[str, ...], _comma_separated(str, "NAME")] = ("grpo", "calibadv")
    """Arms or baselines, with spaces or commas (`calibadv list arms`, `list baselines`), or an
    advantage estimator under a name: mine=my_module:MyEstimator, loo=rloo."""
    seeds: Annotated[tuple[int, ...], _comma_separated(int, "INT")] = (0, 1)
    """One run of every arm for each seed."""
    output_dir: Path = Path("runs/compare")
    """Folder of the runs and of the report."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 0
    """Runs at a time; 0 means one a core."""
    train: TrainConfig = field(default_factory=lambda: ATLAS_TINY)
    """Settings that all runs share; arms and seeds replace parts of them."""
    own: Annotated[Mapping[str, Algorithm], tyro.conf.Suppress] = field(default_factory=dict)
    """Arms that are registered nowhere, by name; they come before registered ones."""

    def __post_init__(self) -> None:
        """Checks names and numbers."""
        Checked.__post_init__(self)
        for name, values in (("arms", tuple(self.algorithms)), ("seeds", self.seeds)):
            given = getattr(self, name)
            if not given or len(set(values)) != len(given):
                raise ValueError(f"{name} must be distinct and at least one, got {given}")

    @property
    def algorithms(self) -> dict[str, Algorithm]:
        """Arms by name, in order.

        Raises:
            ValueError: if one is not known, or its name is no name of a folder.
        """
        return dict(self._named(arm) for arm in self.arms)

    def _named(self, arm: str) -> tuple[str, Algorithm]:
        name, equals, estimator = arm.partition("=")
        if (equals or name in self.own) and not _ARM_NAME.fullmatch(name):
            raise ValueError(
                f"an arm's name must be made of letters, digits and .+-_, got {name!r}"
            )
        if equals:
            return name, as_algorithm(find_part(AdvantageEstimator, estimator)())
        return name, self.own[name] if name in self.own else find_algorithm(name)


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
    algorithms = config.algorithms
    for seed in config.seeds:
        for arm, algorithm in algorithms.items():
            directory = config.output_dir / "runs" / f"{arm}-seed{seed}"
            train = replace(
                algorithm.apply(config.train), seed=seed, output_dir=directory, quiet=True
            )
            jobs.append(Job(arm, seed, train))
    return jobs


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
        "arms": list(config.algorithms),
        "arm_descriptions": {name: a.description for name, a in config.algorithms.items()},
        "arm_changes": _arm_changes(config),
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
        record = _read_record(path)
        wanted = json.loads(json.dumps([config_to_dict(config.train), _arm_changes(config)]))
        differences = _differences(record.get("config"), wanted[0])
        # Other arms may join a comparison; those of the same name must be the same.
        for name, changes in record.get("arm_changes", {}).items():
            if name in wanted[1]:
                differences += _differences(changes, wanted[1][name], name)
        if differences:
            raise ComparisonError(
                f"{config.output_dir} holds a comparison with other settings "
                f"({', '.join(differences[:3])}); choose another --output-dir, or remove it"
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
    """The record that `write_comparison` wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComparisonError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise ComparisonError(f"{path}: must hold an object, got {type(record).__name__}")
    return record


def _arm_changes(config: CompareConfig) -> dict[str, Any]:
    """Settings of every arm, as far as they are not those that all runs share."""
    shared = config_to_dict(config.train)
    return {
        name: _changed(shared, config_to_dict(algorithm.apply(config.train)))
        for name, algorithm in config.algorithms.items()
    }


def _changed(before: Any, after: Any) -> Any:
    """The part of nested settings that differs; parts of another type are whole."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return after
    if before.get("type") != after.get("type"):
        return after
    return {
        name: _changed(before.get(name), value)
        for name, value in after.items()
        if before.get(name) != value
    }


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
