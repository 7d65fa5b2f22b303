"""TRL's own GRPOTrainer on the atlas, with the shipped policy on the CPU."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl", reason="trl is not installed; `make test-integrations` installs it")

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.batching import build_token_batch
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.integrations.trl import CalibAdvTrainer, SearchRollout, episode_reward
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.base import GenerationEngine
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.types import Group, Trajectory
from calibadv_env.errors import RetrieverError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

DOCS = Path(__file__).parents[2] / "docs"
ENV: dict[str, Any] = {"split": "train", "prompt": "question", "max_turns": 3}
SIZE = 4
GOOD = "<think> so </think>\n<answer> .es </answer>"
BAD = "<think> so </think>\n<answer> nowhere </answer>"


def script(context: str, seed: int) -> str:
    """Finds the first hop of task 0; half of the episodes then answer well."""
    if "</information>" not in context:
        place = ("Frutillar", "Spain domain")[seed // 2 % 2]
        return f"<think> look up {seed % 7} </think>\n<search> {place} </search>"
    return GOOD if seed % 2 else BAD


def scripted(trainer: Any) -> GenerationEngine:
    return ScriptedEngine(script, trainer.processing_class)


def make(
    folder: Path, cls: Any = CalibAdvTrainer, make_engine: Any = None, **kwargs: Any
) -> tuple[Any, SearchRollout]:
    settings = kwargs.pop("settings", {})
    tasks = kwargs.pop("tasks", [0, 10])
    model, tokenizer = load_policy("atlas-tiny")
    rollout = SearchRollout(
        env_id="calibadv_env:DeepSearch-Atlas-v1",
        env_kwargs=ENV,
        num_slots=4,
        max_turn_tokens=48,
        make_engine=make_engine,
    )
    args = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2 * SIZE,
        num_generations=SIZE,
        max_steps=2,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **settings,
    )
    trainer = cls(
        model=model,
        args=args,
        reward_funcs=episode_reward,
        train_dataset=Dataset.from_list(rollout.rows(tasks)),
        processing_class=tokenizer,
        rollout_func=rollout,
        **kwargs,
    )
    return trainer, rollout


def batch_of(rollout: SearchRollout, tasks: list[int]) -> list[dict[str, Any]]:
    return [dict(row) for row in rollout.rows(tasks) for _ in range(SIZE)]


def groups_of(rows: list[dict[str, Any]]) -> list[Group]:
    episodes: list[Trajectory] = [row["trajectory"] for row in rows]
    return [Group(tuple(episodes[i : i + SIZE])) for i in range(0, len(episodes), SIZE)]


def own_advantages(groups: list[Group], estimator: Any) -> np.ndarray:
    """What this package's own path from groups to tokens gives, sampled tokens in order."""
    matrices = [estimator(group, SilverCredit()(group)) for group in groups]
    rows = [row for matrix in matrices for row in matrix]
    trajectories = [each for group in groups for each in group.trajectories]
    return build_token_batch(trajectories, rows).advantages.numpy()


def test_a_real_run_learns_from_the_atlas(tmp_path: Path) -> None:
    trainer, _ = make(tmp_path, settings={"temperature": 1.5})
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    moved = [
        not torch.equal(old, new.detach())
        for old, new in zip(before, trainer.model.parameters(), strict=True)
    ]
    rewards = [row["reward_std"] for row in trainer.state.log_history if "reward_std" in row]
    assert any(moved) == any(std > 0 for std in rewards)


def test_advantages_are_those_of_our_own_estimator(tmp_path: Path) -> None:
    trainer, rollout = make(tmp_path, make_engine=scripted)
    rows = batch_of(rollout, [0, 10])
    output = trainer._generate_and_score_completions(rows)
    mask = (output["completion_mask"] * output["tool_mask"]).bool()
    groups = groups_of(rows)
    ours = own_advantages(groups, CalibAdv())
    np.testing.assert_array_equal(output["advantages"][mask].numpy(), ours)
    assert not output["advantages"][~mask].any()
    plain = own_advantages(groups, Grpo())
    assert (ours != plain).any(), "the groups must hold something that CalibAdv spares"
    assert (ours != 0).any()


def test_with_grpo_it_is_the_plain_trainer(tmp_path: Path) -> None:
    weights, losses = [], []
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (GRPOTrainer, {}),
        (CalibAdvTrainer, {"estimator": Grpo(epsilon=1e-4)}),
        (CalibAdvTrainer, {"estimator": CalibAdv()}),
    ]
    for cls, kwargs in kinds:
        trainer, _ = make(tmp_path, cls, scripted, **kwargs)
        trainer.train()
        losses.append([row["grad_norm"] for row in trainer.state.log_history if "loss" in row])
        weights.append(torch.cat([each.detach().flatten() for each in trainer.model.parameters()]))
    assert max(losses[0]) > 0
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=2e-6)
    assert (weights[2] - weights[0]).abs().max() > 1e-4


def test_tokens_come_through_as_sampled(tmp_path: Path) -> None:
    trainer, rollout = make(tmp_path)
    rows = batch_of(rollout, [0])
    output = trainer._generate_and_score_completions(rows)
    ids, mask = output["completion_ids"], output["tool_mask"] * output["completion_mask"]
    for place, row in enumerate(rows):
        episode: Trajectory = row["trajectory"]
        sampled = [token for turn in episode.turns for token in turn.action_ids]
        assert ids[place][mask[place].bool()].tolist() == sampled
        length = int(output["prompt_mask"][place].sum())
        assert output["prompt_ids"][place][-length:].tolist() == list(episode.prompt_ids)
    everything = torch.cat([output["prompt_ids"], ids], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    with torch.no_grad():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, everything, attention, ids.size(1)
        )
    chosen = mask.bool()
    torch.testing.assert_close(
        output["sampling_per_token_logps"][chosen], logps[chosen], atol=2e-4, rtol=1e-3
    )


def test_runs_repeat_themselves_and_updates_differ(tmp_path: Path) -> None:
    first, rollout = make(tmp_path, settings={"temperature": 1.5})
    again, other = make(tmp_path, settings={"temperature": 1.5})
    prompts = [row["prompt"] for row in batch_of(rollout, [0])]
    other.rows([0])
    one, two = rollout(prompts, first), other(prompts, again)
    assert one["completion_ids"] == two["completion_ids"]
    assert rollout(prompts, first)["completion_ids"] != one["completion_ids"]


class Failing:
    """A retriever that fails on one query."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def search(self, queries: list[str], top_k: int) -> Any:
        if any("Spain" in query for query in queries):
            raise RetrieverError("no connection")
        return self._inner.search(queries, top_k)


def test_lost_episodes_take_no_part(tmp_path: Path) -> None:
    from calibadv_env.data.registry import get_dataset

    trainer, rollout = make(tmp_path, make_engine=scripted)
    rollout._slots = None
    rollout.num_slots = 1
    rollout.env_kwargs = ENV | {"retriever": Failing(get_dataset("atlas").retriever("bm25"))}
    rollout.driver = DriverConfig(retry_on=(RetrieverError,), max_retries=0)
    rows = batch_of(rollout, [0, 10])
    output = trainer._generate_and_score_completions(rows)
    lost = [row["trajectory"] is None for row in rows]
    assert any(lost)
    assert not all(lost)
    assert not output["advantages"][lost].any()
    assert not output["tool_mask"][lost][:, 0].any()
    assert torch.isfinite(trainer._compute_loss(trainer.model, output))


def test_episodes_that_outgrow_the_context_are_trained_on(tmp_path: Path) -> None:
    trainer, rollout = make(tmp_path, make_engine=scripted)
    rollout.max_context = 130
    rows = batch_of(rollout, [0, 10])
    output = trainer._generate_and_score_completions(rows)
    episodes: list[Trajectory] = [row["trajectory"] for row in rows]
    assert any(each.is_truncated for each in episodes)
    assert torch.isfinite(output["advantages"]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_truncated_completions", True), ("top_k", 5), ("repetition_penalty", 1.1)],
)
def test_settings_that_would_not_be_followed_are_refused(
    tmp_path: Path, name: str, value: Any
) -> None:
    trainer, rollout = make(tmp_path, settings={name: value})
    with pytest.raises(ValueError, match=name):
        rollout([rollout.rows([0])[0]["prompt"]], trainer)


def test_bad_input_is_named(tmp_path: Path) -> None:
    trainer, rollout = make(tmp_path)
    with pytest.raises(ValueError, match=r"prompts must be texts of SearchRollout\.rows"):
        rollout(["Question: unheard of?\n"], trainer)
    with pytest.raises(ValueError, match="PpoGae"):
        make(tmp_path, estimator=PpoGae())
    with pytest.raises(ValueError, match="whole groups of 4"):
        trainer._generate_and_score_completions(batch_of(rollout, [0, 10])[:6])


def test_a_rollout_without_trajectories_is_refused(tmp_path: Path) -> None:
    trainer, rollout = make(tmp_path, make_engine=scripted)

    def bare(prompts: list[str], trainer: Any) -> dict[str, Any]:
        output = rollout(prompts, trainer)
        return {("episode" if key == "trajectory" else key): output[key] for key in output}

    trainer.rollout_func = bare
    trainer.reward_funcs = [lambda episode, **_: [each.reward for each in episode]]
    with pytest.raises(ValueError, match="the column 'trajectory'"):
        trainer._generate_and_score_completions(batch_of(rollout, [0, 10]))


def test_missing_facts_are_named(tmp_path: Path) -> None:
    class Greedy(SilverCredit):
        @property
        def required_info_keys(self) -> frozenset[str]:
            return frozenset({"action", "unheard_of"})

    trainer, rollout = make(tmp_path, make_engine=scripted, credit=Greedy())
    with pytest.raises(MissingInfoKeyError, match="unheard_of"):
        trainer._generate_and_score_completions(batch_of(rollout, [0, 10]))


def test_the_docs_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "trl.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(code.splitlines()) <= 30
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "trl.md", "exec"), names)
    assert len([row for row in names["trainer"].state.log_history if "loss" in row]) == 2
