"""What is in the journal is not played again, and nothing wrong gets out of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import EpisodeSpec, RolloutBatch, turn_seed
from calibadv_algo.rollout.journal import JournalStep, StepJournal, weights_digest
from calibadv_algo.rollout.slots import ListSlots
from calibadv_algo.training.config import RolloutConfig
from calibadv_algo.types import Trajectory, Turn
from tests.algo.letters import (
    STOP,
    LetterEnv,
    make_config,
    make_model,
    make_tokenizer,
    make_trainer,
)

ROOT = Path(__file__).parents[2]
NAN_INFO = {"recall": float("nan"), "ids": ("a", "b"), "\udc80": None}


def spec(seed: int, env_seed: int | None = None) -> EpisodeSpec:
    return EpisodeSpec(task_index=seed % 3, group_id=f"g{seed % 3}", seed=seed, env_seed=env_seed)


def trajectory(seed: int, logprob: float = -1 / 3) -> Trajectory:
    turn = Turn(action_ids=(1, 2), action_text="é\n", logprobs=(logprob, -1e-300), info=NAN_INFO)
    group_id = f"g{seed % 3}"
    return Trajectory(
        group_id=group_id, task_id="t", prompt_ids=(1,), prompt_text="", turns=(turn,), seed=seed
    )


@pytest.fixture
def journal(tmp_path: Path) -> StepJournal:
    return StepJournal(tmp_path / "journal", config_hash="abc")


def step(journal: StepJournal, update: int = 0, **changes: Any) -> JournalStep:
    return journal.open(**{"update": update, "policy_version": update, "policy": "w"} | changes)


def write(journal: StepJournal, *seeds: int, **changes: Any) -> Path:
    with step(journal, **changes) as opened:
        for seed in seeds:
            opened.record(spec(seed), trajectory(seed))
    (file,) = journal._folder.glob(f"update_{changes.get('update', 0):06d}.rank{journal._rank}.*")
    return file


def found(opened: JournalStep, seeds: Sequence[int] = range(10)) -> list[int]:
    opened.close()
    return [seed for seed in seeds if opened.find(spec(seed)) is not None]


def test_episodes_come_back_to_the_bit(journal: StepJournal) -> None:
    write(journal, 1, 4)
    with step(journal) as opened:
        assert opened.num_known == 2
        assert repr(opened.find(spec(4))) == repr(trajectory(4))
        assert opened.find(spec(4, env_seed=9)) is None
        opened.record(spec(5), trajectory(5))
        assert opened.find(spec(5)) == trajectory(5)
    assert found(step(journal)) == [1, 4, 5]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_that_a_kill_cut_short_is_left_out(journal: StepJournal, cut: int) -> None:
    file = write(journal, 1, 4)
    file.write_bytes(file.read_bytes()[:-cut])
    assert found(step(journal)) == ([1, 4] if cut == 1 else [1])
    write(journal, 5)
    assert found(step(journal)) == ([1, 4, 5] if cut == 1 else [1, 5])


def test_damage_costs_one_episode(journal: StepJournal) -> None:
    file = write(journal, 1, 4, 7)
    data = bytearray(file.read_bytes())
    lines = bytes(data).split(b"\n")
    data[len(lines[0]) + len(lines[1]) + 40] ^= 1
    file.write_bytes(bytes(data))
    assert found(step(journal)) == [1, 7]
    file.write_bytes(b"\x00" * 100)
    assert found(step(journal)) == []
    file.write_bytes(b"")
    assert found(step(journal)) == []


@pytest.mark.parametrize(
    "change", [{"policy_version": 3}, {"policy": "other weights"}, {"update": 1}]
)
def test_episodes_of_another_policy_are_not_used(
    journal: StepJournal, change: dict[str, Any]
) -> None:
    write(journal, 1, 4)
    assert found(step(journal, **change)) == []
    other = StepJournal(journal._folder, config_hash="other settings")
    write(journal, 1, 4)
    assert found(step(other)) == []
    assert found(step(other)) == []
    write(journal, 1)
    assert found(step(journal, policy=None)) == [1]


def test_processes_read_each_others_episodes(journal: StepJournal) -> None:
    second = StepJournal(journal._folder, config_hash="abc", rank=1)
    file = write(second, 2)
    write(journal, 1)
    file.write_bytes(file.read_bytes() + b"half a li")
    assert found(step(journal)) == [1, 2]
    assert file.read_bytes().endswith(b"half a li")
    assert found(step(second)) == [1, 2]
    assert not file.read_bytes().endswith(b"half a li")
    with pytest.raises(ValueError, match="rank must not be negative, got -1"):
        StepJournal(journal._folder, config_hash="abc", rank=-1)


def test_files_that_a_checkpoint_covers_are_deleted(journal: StepJournal) -> None:
    second = StepJournal(journal._folder, config_hash="abc", rank=1)
    for update in (8, 9, 10):
        write(journal, 1, update=update)
        write(second, 1, update=update)
    second.discard_before(9)
    names = sorted(file.name for file in journal._folder.iterdir())
    assert "update_000008.rank1.jsonl" not in names
    assert len(names) == 5
    journal.discard_before(10)
    assert sorted(file.name for file in journal._folder.iterdir()) == [
        "update_000010.rank0.jsonl",
        "update_000010.rank1.jsonl",
    ]
    StepJournal(journal._folder / "none", config_hash="abc").discard_before(3)


def test_a_full_disk_is_not_passed_over(
    journal: StepJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            """Nothing is open."""

    with step(journal) as opened:
        monkeypatch.setattr(opened, "_file", Full())
        with pytest.raises(OSError, match="No space left"):
            opened.record(spec(1), trajectory(1))


def test_weights_have_names() -> None:
    model = make_model()
    name = weights_digest(model)
    assert name == weights_digest(make_model())
    assert name != weights_digest(make_model(1))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(model) != name
    assert weights_digest(model.to(torch.bfloat16)) != weights_digest(make_model())


@pytest.mark.parametrize("kind", [Player, AsyncPlayer])
def test_known_episodes_are_not_played_again(journal: StepJournal, kind: Any) -> None:
    letters, model = make_tokenizer(), make_model()
    tasks = [EpisodeSpec(task_index=i % 4, group_id=str(i % 4), seed=i) for i in range(12)]

    def play(tasks: Sequence[EpisodeSpec], opened: JournalStep | None) -> RolloutBatch:
        slots = ListSlots([LetterEnv() for _ in range(5)])
        params = SamplingParams(max_tokens=3, stop=(STOP,))
        player = kind(slots, HfEngine(model, letters), letters, params)
        batch: RolloutBatch = player.play(tasks, journal=opened)
        return batch

    whole = play(tasks, None)
    with step(journal) as opened:
        play(tasks[2:7], opened)
    with step(journal) as opened:
        resumed = play(tasks, opened)
    assert resumed.trajectories == whole.trajectories
    assert (resumed.stats.num_reused, resumed.stats.num_episodes) == (5, 12)
    assert resumed.stats.num_sampled_tokens < whole.stats.num_sampled_tokens
    with step(journal) as opened:
        again = play(tasks, opened)
    assert again.trajectories == whole.trajectories
    assert (again.stats.num_reused, again.stats.num_sampled_tokens) == (12, 0)


class SlowLetters(LetterEnv):
    """Leaves time for a kill."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(0.002)
        return super().step(action)


class LoggingEngine(HfEngine):
    """Writes down the seed of everything that it samples, with the version."""

    log: Path

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        if params.temperature > 0 and requests:
            with self.log.open("a") as file:
                file.write("".join(f"{self.version} {r.seed}\n" for r in requests))
        super().submit(requests, params)


def train(folder: Path, kind: str) -> None:
    """A run of four updates; with a checkpoint after the third, where it counts."""
    torch.set_num_threads(1)
    driver, overlap = kind.split("+")
    rollout = RolloutConfig(
        num_questions=4, group_size=8, max_tokens=3, max_context=32, num_slots=6,
        driver=driver, overlap=overlap,
    )  # fmt: skip
    optim = OptimConfig(num_updates=4, lr=1e-2)
    config = make_config(folder, rollout=rollout, optim=optim, checkpoint_every=3)
    model = make_model(config.seed)
    sampler = make_model(config.seed) if overlap == "one-step" else model
    engine = LoggingEngine(sampler, make_tokenizer())
    engine.log = folder / "sampled.log"
    folder.mkdir(parents=True, exist_ok=True)
    slots = ListSlots([SlowLetters() for _ in range(6)])
    make_trainer(config, model=model, engine=engine, slots=slots).train()


def weights_of(folder: Path) -> str:
    (file,) = folder.glob("checkpoints/update_000004/policy/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def journal_of(folder: Path, update: int) -> list[dict[str, Any]]:
    file = folder / f"journal/update_{update:06d}.rank0.jsonl"
    lines = file.read_bytes().split(b"\n")[1:-1] if file.exists() else []
    return [json.loads(line[9:]) for line in lines]


def start(folder: Path, kind: str) -> subprocess.Popen[bytes]:
    code = "import sys; from pathlib import Path; from tests.algo.test_journal import train; "
    code += "train(Path(sys.argv[1]), sys.argv[2])"
    return subprocess.Popen([sys.executable, "-c", code, str(folder), kind], cwd=ROOT)


def kill_at(folder: Path, kind: str, update: int, num_episodes: int) -> None:
    """Starts a run and kills it once the journal of an update has so many episodes."""
    process = start(folder, kind)
    deadline = time.monotonic() + 120
    while len(journal_of(folder, update)) < num_episodes:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """What a run says about its learning, without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("reward", "loss", "grad", "entropy")
    return [{key: row[key] for key in row if key.startswith(names)} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lockstep+none", "async+none", "async+one-step"])
def test_a_killed_run_goes_on_to_the_bit_and_samples_nothing_twice(
    kind: str, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    threads = torch.get_num_threads()
    train(whole, kind)
    torch.set_num_threads(threads)
    kill_at(broken, kind, update=1, num_episodes=9)
    kill_at(broken, kind, update=3, num_episodes=5)
    assert 5 <= len(journal_of(broken, 3)) < 32
    known = {
        (line["trajectory"]["policy_version"], turn_seed(line["spec"]["seed"], 0))
        for update in range(4)
        for line in journal_of(broken, update)
    }
    log = broken / "sampled.log"
    num_before = len(log.read_text().splitlines())
    assert start(broken, kind).wait() == 0
    after = log.read_text().splitlines()[num_before:]
    sampled = {tuple(map(int, line.split())) for line in after}
    assert sampled
    assert not known & sampled
    assert weights_of(broken) == weights_of(whole)
    assert metrics_of(broken) == metrics_of(whole)
    assert metrics_of(whole)[-1]
