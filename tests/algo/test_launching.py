"""Jobs through submitit's local executor and a local Ray: logs, errors, restarts, same bytes."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from calibadv_algo.cli.train import run_training
from calibadv_algo.experiments import jobs as processes
from calibadv_algo.experiments.compare import COMPARE_PRESETS, CompareConfig, plan_jobs
from calibadv_algo.experiments.jobs import (
    ComparisonError,
    Job,
    Launcher,
    LocalLauncher,
    run_jobs,
)
from calibadv_algo.experiments.launching import make_launcher

TARGETS = """
import os, signal

def finish(config):
    print("threads", os.environ["OMP_NUM_THREADS"], config.seed)

def fail(config):
    raise ValueError("there is no such model")

def die_once(config):
    marker = config.output_dir / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (config.output_dir / "done").touch()

def die(config):
    os.kill(os.getpid(), signal.SIGKILL)
"""

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    name = f"launched_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGETS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(processes, "POLL_INTERVAL_S", 0.1)
    monkeypatch.setattr(processes, "PRELOADED", ())
    return __import__(name)


@pytest.fixture(
    params=[
        "local",
        "submitit",
        pytest.param("ray", marks=pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")),
    ]
)
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Launcher]:
    options = {"local": (), "submitit": ("cluster=local",), "ray": ("num_cpus=2",)}
    yield make_launcher(request.param, options[request.param], tmp_path / "launched", 2)
    if request.param == "ray":
        import ray

        ray.shutdown()


def _jobs(tmp_path: Path, num_seeds: int = 1) -> list[Job]:
    config = CompareConfig(arms=("grpo",), seeds=tuple(range(num_seeds)), output_dir=tmp_path)
    return plan_jobs(config)


def test_every_job_has_one_thread_and_its_own_log(
    tmp_path: Path, targets: ModuleType, launcher: Launcher
) -> None:
    jobs = _jobs(tmp_path, 2)
    run_jobs(jobs, targets.finish, launcher, lambda _: None)
    for job in jobs:
        assert f"threads 1 {job.seed}" in (job.config.output_dir / "log.txt").read_text()


def test_an_error_is_told_and_not_tried_again(
    tmp_path: Path, targets: ModuleType, launcher: Launcher
) -> None:
    (job,) = _jobs(tmp_path)
    with pytest.raises(
        ComparisonError, match=r"grpo-seed0 ended with exit code 1; .*no such model"
    ):
        run_jobs([job], targets.fail, launcher, lambda _: None)
    log = (job.config.output_dir / "log.txt").read_text()
    assert "started again" not in log


def test_a_job_that_dies_is_started_again(
    tmp_path: Path, targets: ModuleType, launcher: Launcher
) -> None:
    (job,) = _jobs(tmp_path)
    run_jobs([job], targets.die_once, launcher, lambda _: None)
    assert (job.config.output_dir / "done").exists()
    assert "ended by signal 9; started again" in (job.config.output_dir / "log.txt").read_text()


def test_a_job_that_dies_again_and_again_is_given_up(tmp_path: Path, targets: ModuleType) -> None:
    (job,) = _jobs(tmp_path)
    with pytest.raises(ComparisonError, match="grpo-seed0 was ended by SIGKILL"):
        run_jobs([job], targets.die, LocalLauncher(1), lambda _: None, num_restarts=2)
    assert (job.config.output_dir / "log.txt").read_text().count("started again") == 2


def test_options_and_missing_engines_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE, got 'fast'"):
        make_launcher("submitit", ("fast",), tmp_path)
    with pytest.raises(ValueError, match="for submitit and ray"):
        make_launcher("local", ("a=1",), tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'calibadv\[submitit\]'"):
        make_launcher("submitit", (), tmp_path)


def _bytes_of(job: Job) -> dict[str, bytes]:
    folder = job.config.output_dir
    names = [
        "evals.jsonl",
        *(f"trajectories/{p.name}" for p in (folder / "trajectories").iterdir()),
    ]
    policy = next(folder.glob("checkpoints/update_000002/**/model.safetensors"))
    return {name: (folder / name).read_bytes() for name in names} | {"policy": policy.read_bytes()}


@pytest.mark.slow
def test_runs_are_the_same_bytes_wherever_they_take_place(
    tmp_path: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    smoke = COMPARE_PRESETS["smoke"]
    train = replace(smoke.train, evaluation=replace(smoke.train.evaluation, episodes=4))
    found = []
    for name, where in (("there", launcher), ("here", LocalLauncher(1))):
        config = replace(
            smoke, arms=("calibadv",), seeds=(0,), train=train, output_dir=tmp_path / name
        )
        (job,) = plan_jobs(config)
        run_jobs([job], run_training, where, lambda _: None)
        found.append(_bytes_of(job))
    assert found[0] == found[1]
