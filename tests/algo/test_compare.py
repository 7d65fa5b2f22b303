"""Planning a comparison, and looking after its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv_algo.experiments import jobs as processes
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.experiments.baseline import find_baseline
from calibadv_algo.experiments.compare import (
    COMPARE_PRESETS,
    CompareConfig,
    check_output_dir,
    commit_facts,
    last_metrics,
    plan_jobs,
    recorded_wall_time_s,
    write_comparison,
)
from calibadv_algo.experiments.jobs import ComparisonError, Job, LocalLauncher, run_jobs
from calibadv_algo.training.config import TrainConfig, config_hash
from calibadv_algo.training.presets import ATLAS_TINY

TARGETS = """
import os, signal, sys, time

def note(config):
    (config.output_dir / "pid").write_text(str(os.getpid()))

def finish(config):
    note(config)
    print("threads", os.environ["OMP_NUM_THREADS"])

def sleep(config):
    note(config)
    time.sleep(60)

def tell_environment(config):
    print(os.environ.get("CALIBADV_TEST_VALUE"))


def stubborn(config):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep(config)

def fail(config):
    if config.seed == 0:
        raise ValueError("there is no such model")
    sleep(config)

def killed(config):
    note(config)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Things that a job can do, in a module that spawned processes find."""
    name = f"targets_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGETS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(processes, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(processes, "PRELOADED", ())
    return __import__(name)


def jobs_in(tmp_path: Path, num_seeds: int = 2) -> list[Job]:
    config = CompareConfig(arms=("grpo",), seeds=tuple(range(num_seeds)), output_dir=tmp_path)
    return plan_jobs(config)


def pid_of(job: Job) -> int | None:
    path = job.config.output_dir / "pid"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else None


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    try:
        if Path("/proc/self/stat").exists():
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            return stat.rpartition(")")[2].split()[0] != "Z"
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


# Settings and plan


def test_the_full_comparison_has_every_arm_and_five_seeds() -> None:
    full = COMPARE_PRESETS["full"]
    assert full.arms == tuple(ARMS)
    assert full.seeds == (0, 1, 2, 3, 4)
    assert len(plan_jobs(full)) == 5 * len(ARMS)
    assert len(COMPARE_PRESETS["quick"].seeds) >= 2
    assert COMPARE_PRESETS["quick"].arms == ("grpo", "calibadv")
    assert COMPARE_PRESETS["smoke"].train.optim.num_updates <= 2


def test_every_arm_of_a_seed_has_the_seed_and_a_folder_of_its_own(tmp_path: Path) -> None:
    config = CompareConfig(arms=("grpo", "calibadv-gold"), seeds=(3, 5), output_dir=tmp_path)
    jobs = plan_jobs(config)
    assert [(job.arm, job.seed) for job in jobs] == [
        ("grpo", 3),
        ("calibadv-gold", 3),
        ("grpo", 5),
        ("calibadv-gold", 5),
    ]
    for job in jobs:
        assert job.config.seed == job.seed
        assert job.config.output_dir == tmp_path / "runs" / job.name
        assert job.config.quiet
        assert job.config.advantage == ARMS[job.arm].advantage
        assert job.config.env.prepend_think is ARMS[job.arm].prepend_think
        assert job.config.rollout == config.train.rollout
    assert len({config_hash(job.config) for job in jobs}) == 4


def test_baselines_may_be_arms(tmp_path: Path) -> None:
    config = CompareConfig(arms=("grpo", "dapo"), seeds=(3,), output_dir=tmp_path)
    jobs = plan_jobs(config)
    assert [job.name for job in jobs] == ["grpo-seed3", "dapo-seed3"]
    dapo = find_baseline("dapo")
    assert jobs[1].config.filters == dapo.apply(config.train).filters
    assert jobs[1].config.rollout == config.train.rollout
    write_comparison(config, {}, None)
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["arm_descriptions"]["dapo"] == dapo.description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("grpo", "ppo")}, "got 'ppo'"),
        ({"arms": ()}, "arms must be distinct and at least one"),
        ({"arms": ("grpo", "grpo")}, "arms must be distinct"),
        ({"seeds": (1, 1)}, r"seeds must be distinct and at least one, got \(1, 1\)"),
        ({"num_workers": -1}, "num_workers must not be negative, got -1"),
    ],
)
def test_impossible_comparisons_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompareConfig(**changes)


# The record of a comparison


def test_the_record_says_what_was_compared(tmp_path: Path) -> None:
    config = CompareConfig(output_dir=tmp_path)
    check_output_dir(config)
    assert recorded_wall_time_s(tmp_path) is None
    write_comparison(config, {"git_commit": "abc"}, None)
    assert recorded_wall_time_s(tmp_path) is None
    write_comparison(config, {"git_commit": "abc"}, 12.5)
    assert recorded_wall_time_s(tmp_path) == 12.5
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["arms"] == ["grpo", "calibadv"]
    assert set(record["arm_descriptions"]) == {"grpo", "calibadv"}
    assert record["seeds"] == [0, 1]
    assert record["git_commit"] == "abc"
    assert record["config"]["env"]["dataset"] == "atlas"
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_a_folder_goes_on_with_the_same_settings_alone(tmp_path: Path) -> None:
    config = CompareConfig(output_dir=tmp_path / "new" / "folder")
    check_output_dir(config)
    assert config.output_dir.is_dir()
    write_comparison(config, {}, None)
    check_output_dir(config)
    check_output_dir(replace(config, seeds=(0, 1, 2), arms=("grpo",), num_workers=1))
    other = replace(ATLAS_TINY, rollout=replace(ATLAS_TINY.rollout, group_size=5))
    with pytest.raises(ComparisonError) as caught:
        check_output_dir(replace(config, train=other))
    message = str(caught.value)
    assert str(config.output_dir) in message
    assert "(rollout.group_size: 8 there, 5 here)" in message
    assert "--output-dir" in message


def test_the_commit_that_a_comparison_began_with_stays(tmp_path: Path) -> None:
    config = CompareConfig(output_dir=tmp_path)
    found = []
    for commit in ("first", "first", "second", "second", "third"):
        facts = commit_facts(tmp_path, commit)
        write_comparison(config, facts, None)
        found.append((facts["git_commit"], facts.get("later_commits")))
    assert found == [
        ("first", None),
        ("first", None),
        ("first", ["second"]),
        ("first", ["second"]),
        ("first", ["second", "third"]),
    ]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(text)
    with pytest.raises(ComparisonError, match=r"comparison\.json: "):
        check_output_dir(CompareConfig(output_dir=tmp_path))


def test_the_newest_complete_line_of_metrics(tmp_path: Path) -> None:
    assert last_metrics(tmp_path) == {}
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    assert last_metrics(tmp_path) == {}
    path.write_text('{"update": 1}\n{"update": 2}\n')
    assert last_metrics(tmp_path) == {"update": 2}
    path.write_text('{"update": 1}\n{"update": 2}\n{"upda')
    assert last_metrics(tmp_path) == {"update": 2}


# Processes


def test_jobs_run_with_one_thread_each_and_print_into_their_logs(
    tmp_path: Path, targets: ModuleType
) -> None:
    jobs = jobs_in(tmp_path, 3)
    most = 0
    before = dict(os.environ)

    def watch(running: Sequence[Job]) -> None:
        nonlocal most
        most = max(most, len(running))

    run_jobs(jobs, targets.finish, LocalLauncher(2), watch)
    assert most == 2
    assert dict(os.environ) == before
    pids = [pid_of(job) for job in jobs]
    assert len(set(pids)) == 3
    assert os.getpid() not in pids
    for job in jobs:
        assert (job.config.output_dir / "log.txt").read_text() == "threads 1\n"


def test_runs_see_the_environment_of_their_start(
    tmp_path: Path, targets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are forked from a process that was started before."""
    for value in ("first", "second"):
        monkeypatch.setenv("CALIBADV_TEST_VALUE", value)
        (job,) = jobs_in(tmp_path / value, 1)
        run_jobs([job], targets.tell_environment, LocalLauncher(1), lambda _: None)
        assert (job.config.output_dir / "log.txt").read_text().split() == [value]


def test_a_failing_run_stops_the_others_and_names_its_log(
    tmp_path: Path, targets: ModuleType
) -> None:
    jobs = jobs_in(tmp_path)
    with pytest.raises(ComparisonError) as caught:
        run_jobs(jobs, targets.fail, LocalLauncher(2), lambda _: None)
    log = jobs[0].config.output_dir / "log.txt"
    assert str(caught.value) == (
        f"run grpo-seed0 ended with exit code 1; see {log}: ValueError: there is no such model"
    )
    assert "Traceback" in log.read_text()
    pid = pid_of(jobs[1])
    assert pid is None or not is_alive(pid)


def test_a_run_that_was_killed_is_told_apart(tmp_path: Path, targets: ModuleType) -> None:
    (job,) = jobs_in(tmp_path, 1)
    with pytest.raises(
        ComparisonError, match=r"grpo-seed0 was ended by SIGKILL .*memory.*log\.txt"
    ):
        run_jobs([job], targets.killed, LocalLauncher(1), lambda _: None)


def test_an_interruption_stops_the_runs_even_stubborn_ones(
    tmp_path: Path, targets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.2)
    jobs = jobs_in(tmp_path)

    def interrupt(running: Sequence[Job]) -> None:
        if all(pid_of(job) for job in jobs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, targets.stubborn, LocalLauncher(2), interrupt)
    pids = [pid_of(job) for job in jobs]
    assert all(pids)
    assert not any(is_alive(pid) for pid in pids if pid)


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import {module} as targets
from calibadv_algo.experiments import jobs
from calibadv_algo.experiments.compare import CompareConfig, plan_jobs
from calibadv_algo.experiments.jobs import LocalLauncher, run_jobs

jobs.PRELOADED = ()
if __name__ == "__main__":
    config = CompareConfig(arms=("grpo",), seeds=(0,), output_dir=Path({folder!r}))
    run_jobs(plan_jobs(config), targets.sleep, LocalLauncher(1), lambda _: None)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_goes_leaves_no_orphan(
    tmp_path: Path, targets: ModuleType, signum: signal.Signals
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(tmp_path), module=targets.__name__))
    (job,) = jobs_in(tmp_path, 1)
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: pid_of(job))
        parent.send_signal(signum)
        parent.wait(120)
        pid = pid_of(job)
        assert pid is not None
        wait_until(lambda: not is_alive(pid))
    finally:
        parent.kill()
        parent.wait()
    if signum == signal.SIGTERM:
        assert parent.returncode == 128 + signal.SIGTERM


def test_the_handler_of_sigterm_is_put_back(tmp_path: Path, targets: ModuleType) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_jobs(jobs_in(tmp_path, 1), targets.finish, LocalLauncher(0), lambda _: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_to_run_is_fine(targets: ModuleType) -> None:
    def never(config: TrainConfig) -> None:
        raise AssertionError(config)

    run_jobs([], never, LocalLauncher(1), lambda _: None)


def test_the_preset_of_pages_trains_on_what_its_policy_was_made_for() -> None:
    from calibadv_algo.cli.warmstart_pages import MAX_TOKENS, pages_env

    train = COMPARE_PRESETS["pages"].train
    assert COMPARE_PRESETS["pages"].arms == ("grpo", "calibadv")
    assert train.env == pages_env("pages-linked", "train", 2, 7, 160)
    assert train.rollout.max_tokens == MAX_TOKENS
