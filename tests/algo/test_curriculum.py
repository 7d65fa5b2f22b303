"""A training tells its environments how far it is, so that a curriculum can follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import pytest

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.simulator import EngineWriter
from calibadv_algo.rollout.slots import ListSlots, SlotStart, make_slots
from calibadv_algo.training.collection import make_eval_player, make_player
from calibadv_algo.training.config import EnvConfig, EvalConfig, RolloutConfig
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.trainer import Trainer
from calibadv_env.retrieval.remote.simulated import SimulatedRetriever


class Watched(SimulatedRetriever):
    """Notes the step of every search."""

    steps: list[tuple[int, bool]]

    def search_for(self, queries: Any, top_k: int, tasks: Any) -> Any:
        for task in tasks:
            self.steps.append((self.step_of(task), hasattr(task, "training_progress")))
        return super().search_for(queries, top_k, tasks)


def test_the_curriculum_of_a_simulated_search_follows_a_real_training(tmp_path: Any) -> None:
    model, tokenizer = load_policy("atlas-tiny")
    writer_model, _ = load_policy("atlas-tiny")
    params = SamplingParams(temperature=0.8, max_tokens=12)
    engine = HfEngine(writer_model, tokenizer, max_slots=8)
    retriever = Watched(writer=EngineWriter(engine, tokenizer, params=params), num_steps=3, end=0.9)
    retriever.steps = []
    kwargs = {"dataset": "atlas", "prompt": "question", "retriever": retriever, "max_turns": 2}
    config = replace(
        ATLAS_TINY,
        advantage=Grpo(),
        credit=NoCredit(),
        env=EnvConfig(dataset="atlas", prompt="question"),
        rollout=RolloutConfig(num_questions=2, group_size=2, num_slots=4),
        optim=OptimConfig(num_updates=3, num_minibatches=1),
        evaluation=EvalConfig(every=3, episodes=2),
        output_dir=tmp_path / "run",
        quiet=True,
    )
    slots = make_slots("calibadv_env:DeepSearch-v1", 4, kwargs)
    eval_slots = make_slots("calibadv_env:DeepSearch-v1", 2, {**kwargs, "split": "dev"})
    policy_engine = HfEngine(model, tokenizer, max_slots=4, max_context=1024)
    player = make_player(config, slots, policy_engine, tokenizer)
    eval_player = make_eval_player(config, player, eval_slots)
    trainer = Trainer(config, model=model, player=player, eval_player=eval_player)
    trainer.train()
    in_training = [step for step, is_training in retriever.steps if is_training]
    assert sorted(set(in_training)) == [0, 1, 2]
    assert in_training == sorted(in_training)
    assert {step for step, is_training in retriever.steps if not is_training} == {0}


class Strict(gymnasium.Env[str, str]):
    """An environment of somebody else, which refuses options that it does not know."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        assert set(options) == {"task_index"}
        return "", {}


@pytest.mark.parametrize("is_vector", [False, True])
def test_only_environments_that_ask_for_it_are_told(is_vector: bool) -> None:
    start = SlotStart(0, 0, training_progress=0.5)
    assert set(ListSlots([Strict()]).reset({0: start}, ())) == {0}
    steps: list[Any] = []

    class Probe:
        def search(self, queries: Any, top_k: int) -> Any:
            raise AssertionError("environments tell the task")

        def search_for(self, queries: Any, top_k: int, tasks: Any) -> Any:
            steps.extend(getattr(task, "training_progress", None) for task in tasks)
            return [[] for _ in queries]

    kwargs = {"dataset": "toy", "retriever": Probe()}
    if is_vector:
        slots: Any = make_slots("calibadv_env:DeepSearch-v1", 2, kwargs)
    else:
        envs = [gymnasium.make("calibadv_env:DeepSearch-v1", **kwargs) for _ in range(2)]
        slots = ListSlots(envs)
    slots.reset({0: start, 1: SlotStart(1, 1)}, ())
    slots.step(dict.fromkeys(range(2), "<think>x</think><search>q</search>"), ())
    assert steps == [0.5, None]
