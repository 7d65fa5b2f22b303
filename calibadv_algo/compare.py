"""Arms times seeds from one warm start, side by side in processes of their own.

Each run is an ordinary training run in a folder of its own. The order of questions depends on the
seed alone, so the arms of a seed see the same questions. A comparison that was interrupted
goes on from the checkpoints of its runs when it is started again with the same settings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from calibadv_algo.arms import ARMS, find_arm
from calibadv_algo.config import ATLAS_TINY, TrainConfig, config_to_dict
from calibadv_algo.errors import CalibadvAlgoError

POLL_INTERVAL_S: Final = 0.5
"""How often the parent looks after its runs."""


class ComparisonError(CalibadvAlgoError):
    """A run of a comparison failed, or its folder belongs to another comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """What is compared."""

    arms: tuple[str, ...] = ("grpo", "calibadv")
    """Names of the arms; `calibadv list arms` shows them all."""
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
            find_arm(name)
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
                find_arm(arm).apply(config.train), seed=seed, output_dir=directory, quiet=True
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
        "arm_descriptions": {name: ARMS[name].description for name in config.arms},
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
        found = json.loads(path.read_text(encoding="utf-8")).get("config")
        wanted = json.loads(json.dumps(config_to_dict(config.train)))
        if found != wanted:
            raise ComparisonError(
                f"{config.output_dir} holds a comparison with other settings; choose another "
                "--output-dir, or remove it"
            )
    config.output_dir.mkdir(parents=True, exist_ok=True)


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

    Raises:
        ComparisonError: if a run failed, after the others have been stopped.
    """
    limit = num_workers or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[str, tuple[Job, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop(0)
                job.config.output_dir.mkdir(parents=True, exist_ok=True)
                process = context.Process(target=_run_job, args=(target, job), name=job.name)
                with _single_threaded():
                    process.start()
                running[job.name] = (job, process)
            time.sleep(POLL_INTERVAL_S)
            on_poll([job for job, _ in running.values()])
            for name, (job, process) in list(running.items()):
                if process.exitcode is None:
                    continue
                del running[name]
                if process.exitcode != 0:
                    log = job.config.output_dir / "log.txt"
                    raise ComparisonError(
                        f"run {name} ended with exit code {process.exitcode}; see {log}"
                    )
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _run_job(target: Callable[[TrainConfig], None], job: Job) -> None:
    """In the child: everything it prints goes to the run's log."""
    log = os.open(job.config.output_dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    target(job.config)


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
