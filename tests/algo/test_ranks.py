"""Several processes: the parts that divide work, and runs that must equal those of one process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calibadv_algo.batching import TokenBatch, build_token_batch
from calibadv_algo.errors import BadNumberError, CalibadvAlgoError, EngineError, RolloutError
from calibadv_algo.learner.ranks import (
    AccelerateRanks,
    RanksError,
    SingleRank,
    deal,
    make_ranks,
    micro_batches,
    on_main,
    own_share,
)
from calibadv_algo.rollout.episodes import EpisodeSpec, RolloutBatch, RolloutStats
from calibadv_algo.training.collection import Collector, play_shared
from calibadv_algo.types import Trajectory, Turn

HERE = Path(__file__).parent


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", HERE / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()
CASES = ("grpo", "calibadv", "ppo", "llds")


@dataclass(frozen=True)
class OneOf(SingleRank):
    """A rank that hears nothing of the others."""

    rank: int = 0
    world_size: int = 2


def make_batch(lengths: Sequence[int]) -> TokenBatch:
    turns = [
        Turn(action_ids=(1,) * (length - 1), action_text="", logprobs=(-1.0,) * (length - 1))
        for length in lengths
    ]
    return build_token_batch([trajectory_of(f"g{i}", turn) for i, turn in enumerate(turns)])


def trajectory_of(group_id: str, *turns: Turn) -> Trajectory:
    return Trajectory(
        group_id=group_id, task_id="t", prompt_ids=(0,), prompt_text="", turns=tuple(turns)
    )


def test_shares_are_neighbours_in_order() -> None:
    items = list(range(7))
    shares = [own_share(items, OneOf(rank=rank, world_size=3)) for rank in range(3)]
    assert [each for share in shares for each in share] == items
    assert sorted(map(len, shares)) == [2, 2, 3]
    assert [len(own_share([1], OneOf(rank=rank))) for rank in range(2)] == [0, 1]


def test_dealing_balances_costs() -> None:
    rng = np.random.default_rng(0)
    costs = [int(cost) for cost in rng.integers(1, 1000, size=60)]
    shares = deal(costs, 4)
    assert sorted(each for share in shares for each in share) == list(range(60))
    totals = [sum(costs[index] for index in share) for share in shares]
    assert max(totals) - min(totals) <= max(costs)
    assert max(totals) < 1.05 * sum(costs) / 4
    assert deal([5, 5], 3)[2] == []


@pytest.mark.parametrize("lengths", [[4, 9, 3, 8, 2], [5]])
def test_micro_batches_of_all_ranks_are_the_whole(lengths: list[int]) -> None:
    batch = make_batch(lengths)
    own = [micro_batches(batch, 10, OneOf(rank=r), is_even=True) for r in range(2)]
    assert len(own[0]) == len(own[1])
    counted = [part for parts in own for part in parts if not part.is_filler]
    assert sum(part.batch.num_tokens for part in counted) == sum(lengths)
    assert all(part.batch.num_tokens <= 10 for part in counted)
    alone = micro_batches(batch, 10, SingleRank())
    assert not any(part.is_filler for part in alone)
    assert micro_batches(batch, 10, OneOf(rank=1), is_even=False) == [] or len(lengths) > 1


def test_one_process_is_a_rank_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = make_ranks()
    tensor = torch.ones(2)
    ranks.sum_([tensor])
    ranks.barrier()
    assert isinstance(ranks, SingleRank)
    assert (ranks.gather("x"), ranks.broadcast("x"), tensor.tolist()) == (["x"], "x", [1, 1])
    assert ranks.fork() is ranks
    with pytest.raises(ValueError, match="timeout_s must be positive, got 0"):
        AccelerateRanks(timeout_s=0)


def test_errors_of_the_main_rank_are_everybodys() -> None:
    class Hearing(OneOf):
        def broadcast(self, value: Any) -> Any:
            return value

    def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        on_main(Hearing(), fail)
    assert on_main(Hearing(), lambda: 3) == 3


@pytest.mark.parametrize(("optim", "what"), [({"dtype": "fp16"}, "dtype fp16"), ({}, "a critic")])
def test_what_cannot_be_sharded_is_refused(optim: dict[str, Any], what: str) -> None:
    from calibadv_algo.learner.config import OptimConfig
    from calibadv_algo.learner.learner import Learner

    config = OptimConfig(parallel="sharded", **optim)
    with pytest.raises(ValueError, match=f"parallel must be 'replicated' with {what}"):
        Learner(letters.make_model(), config, ranks=OneOf(), has_critic=what == "a critic")


def test_drivers_give_the_same_run_and_overlap_needs_weights_of_its_own(tmp_path: Path) -> None:
    for driver in ("lockstep", "async"):
        rollout = letters.RolloutConfig(
            num_questions=2, group_size=4, max_tokens=3, max_context=32, num_slots=4, driver=driver
        )
        changes = {"rollout": rollout, "optim": letters.OptimConfig(num_updates=2, lr=1e-3)}
        evaluation = letters.EvalConfig(every=1, episodes=4)
        config = letters.make_config(tmp_path / driver, evaluation=evaluation, **changes)
        letters.make_trainer(config).train()
    assert_same_run(tmp_path / "lockstep", tmp_path / "async", nearly)
    overlapped = replace(config, rollout=replace(config.rollout, overlap="one-step"))
    config = replace(overlapped, output_dir=tmp_path / "shared")
    with pytest.raises(ValueError, match="engine must hold a copy of the weights"):
        letters.make_trainer(config).train()


def test_overlapped_updates_learn_from_the_policy_before(tmp_path: Path) -> None:
    import copy

    from calibadv_algo.rollout.engines.hf.engine import HfEngine

    rollout = letters.RolloutConfig(
        num_questions=2, group_size=4, max_tokens=3, max_context=32, num_slots=8, overlap="one-step"
    )
    optim = letters.OptimConfig(num_updates=3, lr=1e-3)
    config = letters.make_config(tmp_path, rollout=rollout, optim=optim)
    model = letters.make_model()
    engine = HfEngine(copy.deepcopy(model), letters.make_tokenizer())
    letters.make_trainer(config, model=model, engine=engine).train()
    versions = [
        {row["policy_version"] for row in read_rows(tmp_path / "trajectories" / file)}
        for file in (f"update_00000{update}.jsonl" for update in range(3))
    ]
    assert versions == [{0}, {0}, {1}]


def test_ranks_with_different_weights_are_found_out(tmp_path: Path) -> None:
    class Drifted(OneOf):
        def gather(self, value: Any) -> list[Any]:
            return [value, "other"]

        def broadcast(self, value: Any) -> Any:
            return value

    collector = Collector(
        letters.make_config(tmp_path),
        None,  # type: ignore[arg-type]
        num_tasks=1,
        weights=letters.make_model,
        ranks=Drifted(),
    )
    with pytest.raises(RanksError, match="different weights after 0 updates"):
        collector.take(0, 0)


def test_a_rank_without_its_launcher_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = object.__new__(AccelerateRanks)
    orphan.wait_s = 0.0
    orphan._parent = os.getppid()
    with orphan._exchange():
        pass
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(RanksError, match="launcher of the processes is gone"):
        orphan.barrier()


def specs_of(num_groups: int, size: int = 2) -> list[EpisodeSpec]:
    return [
        EpisodeSpec(task_index=group, group_id=f"g{group}", seed=10 * group + member)
        for group in range(num_groups)
        for member in range(size)
    ]


def stats_of(num_episodes: int, seconds: float) -> RolloutStats:
    names: dict[str, Any] = dict.fromkeys(RolloutStats.__dataclass_fields__, 0)
    return RolloutStats(**{**names, "num_episodes": num_episodes, "total_s": seconds})


class FakePlayer:
    """Plays an episode of one turn for each spec, or fails if asked to."""

    def __init__(self, *, fails: bool = False, error: Exception | None = None) -> None:
        self.played: list[EpisodeSpec] = []
        self.error = RolloutError("all episodes were dropped") if fails else error

    def play(self, specs: Sequence[EpisodeSpec], **_: Any) -> RolloutBatch:
        self.played += specs
        if self.error is not None:
            raise self.error
        turn = Turn(action_ids=(1,), action_text="a", logprobs=(-1.0,))
        found = [replace(trajectory_of(s.group_id, turn), seed=s.seed) for s in specs]
        return RolloutBatch(tuple(found), (), stats_of(len(found), float(len(found))))


def play_on_threads(players: Sequence[FakePlayer], specs: Sequence[EpisodeSpec]) -> list[Any]:
    """Two ranks as two threads."""
    board: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    class Threaded(OneOf):
        def gather(self, value: Any) -> list[Any]:
            board[self.rank] = value
            barrier.wait(10)
            return list(board)

    results: list[Any] = [None, None]

    def run(rank: int) -> None:
        try:
            results[rank] = play_shared(
                players[rank],  # type: ignore[arg-type]
                specs,
                Threaded(rank=rank),
                policy_version=0,
            )
        except CalibadvAlgoError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_ranks_play_whole_groups_and_hold_all_of_them() -> None:
    players = [FakePlayer(), FakePlayer()]
    specs = specs_of(3)
    first, second = play_on_threads(players, specs)
    assert players[0].played + players[1].played == specs
    assert first == second
    assert [each.seed for each in first.trajectories] == [spec.seed for spec in specs]
    assert first.stats.num_episodes == 6
    assert first.stats.total_s == 4


def test_a_rank_that_lost_everything_leaves_the_others_to_learn() -> None:
    results = play_on_threads([FakePlayer(fails=True), FakePlayer()], specs_of(2))
    assert [len(each.trajectories) for each in results] == [2, 2]
    assert results[0].stats.num_dropped == 2
    results = play_on_threads([FakePlayer(fails=True), FakePlayer(fails=True)], specs_of(2))
    assert all(isinstance(each, RolloutError) for each in results)


@pytest.mark.parametrize("error", [BadNumberError("reward is nan"), EngineError("gone")])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_ends_one_rank_ends_all_with_the_same_words(error: Exception, rank: int) -> None:
    """The others would wait for it until their time is up."""
    players = [FakePlayer(), FakePlayer()]
    players[rank].error = error
    results = play_on_threads(players, specs_of(2))
    assert [str(each) for each in results] == [str(error)] * 2


def start(arguments: Sequence[str], world_size: int, **extra: str) -> list[subprocess.Popen[bytes]]:
    """Starts the worker in one process, or in several that know of each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **extra}
    processes = []
    for rank in range(world_size):
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(HERE / "ranks_worker.py"), *arguments],
                env=base | (place if world_size > 1 else {}),
                stderr=subprocess.PIPE,
            )
        )
    return processes


def finish(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[list[int], str]:
    """Exit codes, and what was written to the error streams."""
    texts = [process.communicate(timeout=240)[1].decode() for process in processes]
    return [process.returncode for process in processes], "\n".join(texts)


def train(arguments: Sequence[str], world_size: int) -> None:
    codes, text = finish(start(arguments, world_size))
    assert codes == [0] * world_size, text


def read_rows(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if "time" not in k and "_per_s" not in k} for row in rows]


def final_files(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = sorted((folder / "checkpoints").iterdir())[-1]
    tensors = load_file(checkpoint / "policy" / "model.safetensors")
    critic = checkpoint / "critic.safetensors"
    return tensors | (load_file(critic) if critic.exists() else {})


def assert_same_run(ours: Path, theirs: Path, compare: Callable[[Any, Any], bool]) -> None:
    """Metrics, evaluations, episodes and weights."""
    rows, other_rows = read_rows(ours / "metrics.jsonl"), read_rows(theirs / "metrics.jsonl")
    assert len(rows) == len(other_rows)
    for row, other in zip(rows, other_rows, strict=True):
        assert row.keys() == other.keys()
        assert [name for name in row if not compare(row[name], other[name])] == []
    assert (ours / "evals.jsonl").read_bytes() == (theirs / "evals.jsonl").read_bytes()
    for file in (ours / "trajectories").iterdir():
        pairs = zip(read_rows(file), read_rows(theirs / "trajectories" / file.name), strict=True)
        for one, other in pairs:
            assert (one["group_id"], one["seed"]) == (other["group_id"], other["seed"])
            assert [t["action_ids"] for t in one["turns"]] == [
                t["action_ids"] for t in other["turns"]
            ]
    weights, other_weights = final_files(ours), final_files(theirs)
    assert weights.keys() == other_weights.keys()
    assert all(compare(weights[name], other_weights[name]) for name in weights)


def nearly(one: Any, other: Any) -> bool:
    return bool(torch.allclose(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-4, atol=1e-5))


def exactly(one: Any, other: Any) -> bool:
    return bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    train(["cases", str(tmp_path / "one")], 1)
    train(["cases", str(tmp_path / "two")], 2)
    for name in CASES:
        assert_same_run(tmp_path / "one" / name, tmp_path / "two" / name, nearly)


@pytest.mark.slow
def test_sharded_weights_learn_the_same_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    train(["sharded", str(tmp_path / "one")], 1)
    train(["sharded", str(tmp_path / "two")], 2)
    assert_same_run(tmp_path / "one", tmp_path / "two", nearly)


@pytest.mark.slow
@pytest.mark.parametrize(("overlap", "world_size"), [("none", 1), ("none", 2), ("one-step", 2)])
def test_a_killed_run_goes_on_and_plays_nothing_twice(
    tmp_path: Path, overlap: str, world_size: int
) -> None:
    if world_size > 1:
        pytest.importorskip("accelerate")
    train([overlap, str(tmp_path / "whole")], world_size)
    broken = tmp_path / "broken"
    victim, num_steps = world_size - 1, 3
    codes, text = finish(start([overlap, str(broken)], world_size, KILL=f"{victim},3,{num_steps}"))
    assert codes[victim] == -signal.SIGKILL
    if world_size > 1:
        assert codes[0] == 1
        assert "lost the others" in text
    recorded = sum(
        len(file.read_bytes().splitlines()) - 1
        for file in (broken / "journal").glob("update_000003.*")
    )
    assert 0 < recorded < 16
    train([overlap, str(broken)], world_size)
    turns = [int((broken / f"turns.{rank}").read_text()) for rank in range(world_size)]
    assert sum(turns) == 2 * (16 - recorded)
    assert_same_run(tmp_path / "whole", broken, exactly if world_size == 1 else nearly)
    assert list((broken / "journal").iterdir()) == []
