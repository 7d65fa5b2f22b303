"""The loop: what it writes, what it repeats, and that arms of a seed see the same questions."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.calibadv import Rebalance
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.errors import CheckpointError, EngineError, MissingInfoKeyError
from calibadv_algo.learner.checkpoint import list_checkpoints
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.mismatch import TokenTis
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.records import trajectory_from_json
from calibadv_algo.shaping.base import RewardShaping, turn_rewards, with_rewards
from calibadv_algo.shaping.filters import DynamicSampling, OverlongMask, VoidTurnMask
from calibadv_algo.training.collection import probe_info_keys
from calibadv_algo.types import Group


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()


def short_config(output_dir: Path, num_updates: int = 2, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "optim": letters.OptimConfig(num_updates=num_updates, lr=1e-2),
        "evaluation": letters.EvalConfig(every=2, episodes=3),
    }
    return letters.make_config(output_dir, **values | changes)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def final_weights(trainer: Any) -> torch.Tensor:
    parameters = trainer.learner.policy.model.parameters()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def test_a_run_leaves_metrics_evaluations_trajectories_and_a_policy(tmp_path: Path) -> None:
    trainer = letters.make_trainer(short_config(tmp_path, 3))
    result = trainer.train()
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["update"] for row in rows] == [0, 1, 2, 3]
    assert [row["update"] for row in rows if "eval_reward" in row] == [0, 2, 3]
    assert {"reward_mean", "entropy", "clip_fraction", "collapse_alarm"} <= set(rows[1])
    evals = read_lines(tmp_path / "evals.jsonl")
    assert [row["update"] for row in evals] == [0, 0, 0, 2, 2, 2, 3, 3, 3]
    assert len({row["task_id"] for row in evals[:3]}) == 3
    assert (result.policy_dir / "model.safetensors").is_file()
    assert result.num_updates == 3
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert config["advantage"]["type"] == "Grpo"


def test_trajectories_are_written_with_their_advantages(tmp_path: Path) -> None:
    letters.make_trainer(short_config(tmp_path, 1)).train()
    rows = read_lines(tmp_path / "trajectories" / "update_000000.jsonl")
    assert len(rows) == 32
    for row in rows:
        advantages = row.pop("advantages")
        trajectory = trajectory_from_json(json.dumps(row))
        assert len(advantages) == len(trajectory.turns)
        assert trajectory.policy_version == 0
    for start in range(0, 32, 8):
        assert len({row["group_id"] for row in rows[start : start + 8]}) == 1
    silent = letters.make_trainer(short_config(tmp_path / "silent", 1, save_trajectories=False))
    silent.train()
    assert not (tmp_path / "silent" / "trajectories").exists()


def test_the_same_settings_give_the_same_run(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        trainer = letters.make_trainer(short_config(tmp_path / name))
        trainer.train()
        runs.append(final_weights(trainer))
    assert torch.equal(*runs)
    other = letters.make_trainer(short_config(tmp_path / "c", seed=1), model=letters.make_model(0))
    other.train()
    assert not torch.equal(runs[0], final_weights(other))


def test_arms_of_a_seed_see_the_same_questions_and_seeds(tmp_path: Path) -> None:
    seen = []
    for name, advantage in (("grpo", None), ("rebalance", Rebalance())):
        changes = {} if advantage is None else {"advantage": advantage}
        letters.make_trainer(short_config(tmp_path / name, **changes)).train()
        seen.append(
            [
                (row["task_id"], row["seed"])
                for update in range(2)
                for row in read_lines(
                    tmp_path / name / "trajectories" / f"update_00000{update}.jsonl"
                )
            ]
        )
    assert seen[0] == seen[1]
    assert len({seed for _, seed in seen[0]}) == 64


class Interrupted(Exception):
    """Stands for a run that ends early."""


def interrupt_at(update: int) -> Any:
    def stop(done: int, metrics: Mapping[str, float]) -> None:
        if done == update:
            raise Interrupted

    return stop


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, stop_at: int) -> None:
    whole = letters.make_trainer(short_config(tmp_path / "whole", 4, checkpoint_every=2))
    whole.train()
    config = short_config(tmp_path / "broken", 4, checkpoint_every=2)
    with pytest.raises(Interrupted):
        letters.make_trainer(config).train(on_update=interrupt_at(stop_at))
    resumed = letters.make_trainer(config)
    resumed.train()
    assert torch.equal(final_weights(whole), final_weights(resumed))
    rows = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken")]
    timeless = [
        [{k: v for k, v in row.items() if "time" not in k and "_per_s" not in k} for row in run]
        for run in rows
    ]
    assert timeless[0] == timeless[1]
    texts = [(tmp_path / name / "evals.jsonl").read_text() for name in ("whole", "broken")]
    assert texts[0] == texts[1]


RUNS = {
    "ppo": {
        "advantage": PpoGae(),
        "optim": letters.OptimConfig(
            num_updates=4,
            lr=1e-2,
            dtype="fp16",
            kl_reward_coef=0.05,
            critic=CriticConfig(lr=1e-2),
            old_logprobs="recomputed",
            mismatch=TokenTis(),
        ),
    },
    "dapo": {
        "filters": (DynamicSampling(max_batches=3, min_range=0.9),),
        "loss_masks": (OverlongMask(),),
        "optim": letters.OptimConfig(
            num_updates=4, lr=1e-2, objective=ClippedSurrogate(clip_high=0.28)
        ),
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_systems_of_many_parts_go_on_exactly(tmp_path: Path, name: str) -> None:
    whole = letters.make_trainer(short_config(tmp_path / "whole", **RUNS[name], checkpoint_every=1))
    if name == "ppo":
        overflow = next(whole.learner.policy.model.parameters()).sum() * torch.inf
        whole.learner.stepper.backward(overflow)
        whole.learner.stepper.step()
    scale = whole.learner.stepper.loss_scale
    whole.train()
    config = short_config(tmp_path / "broken", **RUNS[name], checkpoint_every=1)
    broken = letters.make_trainer(config)
    if scale is not None:
        state = broken.learner.stepper.scaler_state()
        broken.learner.stepper.load_scaler_state(state | {"scale": scale})
    with pytest.raises(Interrupted):
        broken.train(on_update=interrupt_at(2))
    resumed = letters.make_trainer(config)
    resumed.train()
    assert torch.equal(final_weights(whole), final_weights(resumed))
    assert resumed.learner.stepper.loss_scale == scale
    rows = [read_lines(tmp_path / folder / "metrics.jsonl") for folder in ("whole", "broken")]
    timeless = [
        [{k: v for k, v in row.items() if "time" not in k and "_per_s" not in k} for row in run]
        for run in rows
    ]
    assert timeless[0] == timeless[1]
    last = rows[0][-1]
    if name == "dapo":
        assert max(row.get("batches_collected", 0) for row in rows[0]) > 1
        assert sum(row.get("groups_filtered", 0) for row in rows[0]) > 0
        assert last["episodes"] == 32 * last["batches_collected"]
        state = json.loads(
            (list_checkpoints(tmp_path / "whole" / "checkpoints")[-1] / "state.json").read_text()
        )
        num_batches = sum(row.get("batches_collected", 0) for row in rows[0])
        assert state["num_questions_seen"] == 4 * num_batches
    else:
        assert {"value_loss", "kl_reward_penalty", "mismatch_k3", "loss_scale"} <= set(last)


def test_a_critic_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    config = short_config(tmp_path, advantage=PpoGae())
    trainer = letters.make_trainer(config)
    trainer.train()
    folder = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert {"critic.safetensors", "critic_optimizer.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    again = letters.make_trainer(config)
    again.train()
    assert again.learner.critic is not None
    pairs = zip(
        trainer.learner.critic.module.parameters(),
        again.learner.critic.module.parameters(),
        strict=True,
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    (folder / "critic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"critic.safetensors is missing"):
        letters.make_trainer(config).train()


def test_ppo_learns_the_letters(tmp_path: Path) -> None:
    seen: list[float] = []
    optim = letters.OptimConfig(num_updates=25, lr=1e-2, critic=CriticConfig(lr=1e-2))
    config = letters.make_config(tmp_path, advantage=PpoGae(), optim=optim)
    letters.make_trainer(config).train(on_update=lambda _, row: seen.append(row["reward_mean"]))
    assert float(np.mean(seen[-5:])) > float(np.mean(seen[:3])) + 0.15


def test_shaped_rewards_are_learnt_from_and_env_rewards_reported(tmp_path: Path) -> None:
    class Inverted(RewardShaping):
        def __call__(self, group: Group) -> Group:
            return with_rewards(group, -turn_rewards(group))

    config = short_config(tmp_path, 2, shaping=(Inverted(),))
    trainer = letters.make_trainer(config)
    trainer.train()
    for row in read_lines(tmp_path / "metrics.jsonl")[1:]:
        assert row["reward_mean"] > 0
        assert row["shaped_reward_mean"] == pytest.approx(-row["reward_mean"])
    rows = read_lines(tmp_path / "trajectories" / "update_000000.jsonl")
    best = max(rows, key=lambda row: sum(turn["reward"] for turn in row["turns"]))
    assert sum(best["shaped_rewards"]) < 0
    assert best["advantages"][0] < 0


def test_a_curriculum_is_told_of_every_update(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    config = short_config(tmp_path, 3)
    note = lambda done, total: calls.append((done, total))  # noqa: E731
    letters.make_trainer(config, before_update=note).train()
    assert calls == [(0, 3), (1, 3), (2, 3)]


def test_missing_facts_of_a_part_are_named(tmp_path: Path) -> None:
    config = short_config(tmp_path, loss_masks=(VoidTurnMask(),))
    with pytest.raises(MissingInfoKeyError, match=r"VoidTurnMask.*action"):
        letters.make_trainer(config).train()


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = short_config(tmp_path)
    first = letters.make_trainer(config).train()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = letters.make_trainer(config).train()
    assert again == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_journal_that_a_kill_left_behind_its_checkpoint_is_swept(tmp_path: Path) -> None:
    config = short_config(tmp_path)
    letters.make_trainer(config).train()
    left = tmp_path / "journal" / f"update_{config.optim.num_updates - 1:06d}.rank0.jsonl"
    left.write_text("", encoding="utf-8")
    letters.make_trainer(config).train()
    assert not left.exists()


def test_another_run_in_the_folder_is_not_overwritten(tmp_path: Path) -> None:
    letters.make_trainer(short_config(tmp_path)).train()
    with pytest.raises(CheckpointError, match=r"other settings.*choose another output_dir"):
        letters.make_trainer(short_config(tmp_path, seed=5)).train()
    with pytest.raises(CheckpointError, match="earlier run; resume it"):
        letters.make_trainer(short_config(tmp_path)).train(resume=False)


def test_a_damaged_checkpoint_stops_the_run_unless_told(tmp_path: Path) -> None:
    config = short_config(tmp_path, 4, checkpoint_every=1)
    letters.make_trainer(config).train()
    latest = list_checkpoints(tmp_path / "checkpoints")[-1]
    (latest / "optimizer.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        letters.make_trainer(config).train()
    result = letters.make_trainer(config).train(allow_older=True)
    assert result.num_updates == 4


def test_the_engine_is_told_of_every_update(tmp_path: Path) -> None:
    versions: list[int] = []

    class Listening(ScriptedEngine):
        def sync_weights(self, model: torch.nn.Module, version: int) -> None:
            versions.append(version)

    engine = Listening(lambda context, seed: "a.", letters.make_tokenizer())
    letters.make_trainer(short_config(tmp_path), engine=engine).train()
    assert versions == [0, 0, 1, 2]


def test_groups_without_signal_do_not_stop_the_run(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda context, seed: "d.", letters.make_tokenizer())
    trainer = letters.make_trainer(short_config(tmp_path), engine=engine)
    before = final_weights(trainer)
    trainer.train()
    row = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert row["trained_tokens"] == 0
    assert row["groups_with_signal_share"] == 0
    assert torch.equal(before, final_weights(trainer))


def test_a_failing_engine_is_not_swallowed(tmp_path: Path) -> None:
    class Broken(ScriptedEngine):
        def generate(self, requests: list[GenerationRequest], params: SamplingParams) -> list[Any]:
            raise EngineError("out of memory")

    engine = Broken(lambda context, seed: "a.", letters.make_tokenizer())
    with pytest.raises(EngineError, match="out of memory"):
        letters.make_trainer(short_config(tmp_path), engine=engine).train()


def test_an_episode_that_overflows_is_trained_on_as_ill_formed(tmp_path: Path) -> None:
    rollout = letters.RolloutConfig(
        num_questions=2, group_size=4, max_tokens=3, max_context=8, num_slots=8
    )
    letters.make_trainer(short_config(tmp_path, 1, rollout=rollout)).train()
    row = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert row["context_overflows"] > 0
    turns = [r["turns"] for r in read_lines(tmp_path / "trajectories" / "update_000000.jsonl")]
    cut = [each for each in turns if "is_context_overflow" in each[-1]["info"]]
    assert len(cut) == row["context_overflows"]
    assert all(each[-1]["info"]["is_format_valid"] is False for each in cut)


def test_the_look_at_info_keys_plays_to_the_end() -> None:
    slots = letters.ListSlots([letters.LetterEnv()])
    assert probe_info_keys(slots) == ({"length"}, True)
    endless = letters.ListSlots([letters.LetterEnv(num_turns=10**6)])
    assert probe_info_keys(endless) == ({"length"}, False)


def test_a_kl_term_holds_the_policy_back(tmp_path: Path) -> None:
    divergences = []
    for coefficient in (1e-9, 5.0):
        optim = letters.OptimConfig(num_updates=8, lr=3e-3, kl_coef=coefficient)
        config = short_config(tmp_path / str(coefficient), optim=optim)
        letters.make_trainer(config).train()
        rows = read_lines(tmp_path / str(coefficient) / "metrics.jsonl")
        divergences.append(rows[-1]["ref_kl"])
    assert divergences[1] < 0.3 * divergences[0]
