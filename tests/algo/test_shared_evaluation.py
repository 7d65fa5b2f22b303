"""The first evaluation, played once for runs that begin alike."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli.train import run_training
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.training import trainer
from calibadv_algo.training.config import EnvConfig, EvalConfig, RolloutConfig, TrainConfig
from calibadv_algo.training.evaluation import EvalResult, to_record
from calibadv_algo.training.shared_evaluation import SharedEvaluation
from calibadv_algo.types import Trajectory, Turn


def make_result() -> EvalResult:
    info = {"f1": 0.25, "em": 0.0, "answer": "Łódź\u2028\n", "num_searches": 0, "pair": (1, 2)}
    turn = Turn(action_ids=(3, 4), action_text="x", logprobs=(-0.5, -1e-9), info=info, reward=0.25)
    played = Trajectory(
        group_id="dev-0-0",
        task_id="t1",
        prompt_ids=(1, 2),
        prompt_text="Where?",
        turns=(turn,),
        is_terminated=True,
        reset_info={"hops": 2, "golden_answers": ("Łódź",)},
    )
    return EvalResult((to_record(played, update=0, split="dev"),), (played,), 3)


def never() -> EvalResult:
    raise AssertionError("played again")


def test_what_is_read_back_equals_what_was_played(tmp_path: Path) -> None:
    played = make_result()
    assert SharedEvaluation(tmp_path, "key").get("dev", lambda: played) is played
    assert SharedEvaluation(tmp_path, "key").get("dev", never) == played
    assert [path.name for path in tmp_path.iterdir()] == ["update_000000-key.jsonl"]


def test_another_key_or_a_damaged_file_is_played(tmp_path: Path) -> None:
    SharedEvaluation(tmp_path, "key").get("dev", make_result)
    with pytest.raises(AssertionError, match="played again"):
        SharedEvaluation(tmp_path, "other").get("dev", never)
    file = tmp_path / "update_000000-key.jsonl"
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    played = make_result()
    assert SharedEvaluation(tmp_path, "key").get("dev", lambda: played) is played
    assert SharedEvaluation(tmp_path, "key").get("dev", never) == played


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    is_playing, played = threading.Event(), []

    def slow() -> EvalResult:
        is_playing.set()
        time.sleep(0.3)
        played.append(1)
        return make_result()

    def second() -> None:
        is_playing.wait()
        SharedEvaluation(tmp_path, "key").get("dev", slow)

    threads = [
        threading.Thread(target=SharedEvaluation(tmp_path, "key").get, args=("dev", slow)),
        threading.Thread(target=second),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert played == [1]


def _play_for_ever(folder: Path, started: Any) -> None:
    def play() -> EvalResult:
        started.set()
        time.sleep(60)
        raise AssertionError

    SharedEvaluation(folder, "key").get("dev", play)


def test_a_killed_run_leaves_it_to_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_play_for_ever, args=(tmp_path, started))
    process.start()
    assert started.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    played = make_result()
    assert SharedEvaluation(tmp_path, "key").get("dev", lambda: played) is played
    assert [path.name for path in tmp_path.iterdir()] == ["update_000000-key.jsonl"]


# In training


def config(folder: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "output_dir": folder,
        "advantage": Grpo(),
        "credit": NoCredit(),
        "env": EnvConfig(dataset="toy", prompt="question", max_turns=2),
        "rollout": RolloutConfig(num_questions=1, group_size=2, max_tokens=8, num_slots=2),
        "optim": OptimConfig(num_updates=1),
        "evaluation": EvalConfig(every=1, episodes=3),
        "quiet": True,
    }
    return TrainConfig(**values | changes)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    evaluate: Callable[..., EvalResult] = trainer.evaluate

    def counting(*args: Any, update: int, **more: Any) -> EvalResult:
        found.append(update)
        return evaluate(*args, update=update, **more)

    monkeypatch.setattr(trainer, "evaluate", counting)
    return found


def first_lines(folder: Path) -> tuple[list[str], bytes]:
    lines = (folder / "evals.jsonl").read_text(encoding="utf-8").split("\n")
    return lines[:3], (folder / "eval_trajectories" / "update_000000.jsonl").read_bytes()


def test_runs_that_begin_alike_share_it_and_others_do_not(tmp_path: Path, plays: list[int]) -> None:
    shared = tmp_path / "shared"
    run_training(config(tmp_path / "alone"))
    assert plays == [0, 1]
    run_training(config(tmp_path / "one"), shared)
    assert plays == [0, 1, 0, 1]
    run_training(
        config(tmp_path / "two", seed=7, optim=OptimConfig(num_updates=1, lr=1e-3)), shared
    )
    assert plays == [0, 1, 0, 1, 1]
    alone, one, two = (first_lines(tmp_path / name) for name in ("alone", "one", "two"))
    assert alone == one == two
    env = replace(config(tmp_path).env, prepend_think=True)
    run_training(config(tmp_path / "think", env=env), shared)
    assert plays[5:] == [0, 1]
    assert len(list(shared.iterdir())) == 2
