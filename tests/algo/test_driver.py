"""Episodes are recorded as they were played, whatever fails on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.errors import BadNumberError, RolloutError
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
)
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.episodes import (
    DriverConfig,
    EpisodeSpec,
    RolloutBatch,
    regroup,
    turn_seed,
)
from calibadv_algo.rollout.slots import ListSlots
from calibadv_algo.types import Trajectory, Turn

PARAMS = SamplingParams(max_tokens=30, stop=("!",))


class Echo(gymnasium.Env[str, str]):
    """Asks for as many turns as the task says and gives a reward for each."""

    action_space = Text(100)
    observation_space = Text(100)

    def __init__(self, failures: dict[int, int] | None = None) -> None:
        self.failures = failures if failures is not None else {}
        self.heard: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {})["task_index"]
        self.turn = 0
        if self.task == 99:
            raise TimeoutError("reset")
        return f"Task {self.task}:", {"task_id": f"task-{self.task}", "env_seed": seed}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.failures.get(self.task, 0) > 0:
            self.failures[self.task] -= 1
            raise ConnectionError(f"task {self.task}\nis down")
        self.turn += 1
        self.heard.append(action)
        is_last = self.turn >= self.task
        is_lazy = self.task == 7
        text = f"<obs>é{self.turn}</obs>"
        return text, 0.25, is_last and not is_lazy, is_last and is_lazy, {"turn": self.turn}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and merges that another encoding of the same text would not undo."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"ab": 256, "ab!": 257}
    core = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "!")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


class Recording:
    """Passes calls on and remembers them."""

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine
        self.requests: list[GenerationRequest] = []
        self.batch_sizes: list[int] = []
        self.released: list[str] = []

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        self.requests += requests
        self.batch_sizes.append(len(requests))
        return self.engine.generate(requests, params)

    def release(self, episode_ids: Sequence[str]) -> None:
        self.released += episode_ids

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        self.engine.sync_weights(model, version)


def specs(*tasks: int) -> list[EpisodeSpec]:
    return [EpisodeSpec(task_index=t, group_id=f"g{t}", seed=i) for i, t in enumerate(tasks)]


def run(
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[EpisodeSpec],
    *,
    num_slots: int = 2,
    failures: dict[int, int] | None = None,
    engine: GenerationEngine | None = None,
    config: DriverConfig | None = None,
    waits: list[float] | None = None,
) -> RolloutBatch:
    slots = ListSlots([Echo(failures) for _ in range(num_slots)])
    engine = engine or ScriptedEngine(lambda *_: "ab!", tokenizer)
    sleep = (waits if waits is not None else []).append
    player = Player(slots, engine, tokenizer, PARAMS, config or DriverConfig(), sleep)
    return player.play(tasks, policy_version=3)


def test_a_trajectory_is_what_was_played(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Recording(ScriptedEngine(lambda *_: "ab!", tokenizer))
    batch = run(tokenizer, specs(2), engine=engine)
    (trajectory,) = batch.trajectories
    prompt = tuple(tokenizer.encode("Task 2:"))
    observed = tuple(tokenizer.encode("<obs>é1</obs>"))
    assert (trajectory.task_id, trajectory.group_id) == ("task-2", "g2")
    assert (trajectory.prompt_text, trajectory.prompt_ids) == ("Task 2:", prompt)
    assert (trajectory.policy_version, trajectory.seed) == (3, 0)
    assert trajectory.reset_info == {"task_id": "task-2", "env_seed": 2}
    first, last = trajectory.turns
    assert (first.action_ids, first.action_text, first.reward) == ((257,), "ab!", 0.25)
    assert (first.observation_ids, first.observation_text) == (observed, "<obs>é1</obs>")
    assert (last.observation_ids, last.observation_text) == ((), "<obs>é2</obs>")
    assert (first.info, last.info) == ({"turn": 1}, {"turn": 2})
    assert (trajectory.is_terminated, trajectory.is_truncated) == (True, False)
    assert [r.token_ids for r in engine.requests] == [prompt, (*prompt, 257, *observed)]
    assert engine.released == [engine.requests[0].episode_id]


class Oddly:
    """Samples tokens whose text another encoding would cut differently."""

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        ids = (64, 65, 0)
        return [Generation(ids, (-1.0, -2.0, -3.0), "ab!", "length") for _ in requests]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """There are none."""


def test_sampled_tokens_are_never_encoded_again(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode([64, 65, 0]) == "ab!"
    engine = Recording(Oddly())
    (trajectory,) = run(tokenizer, specs(2), engine=engine).trajectories
    assert trajectory.turns[0].action_ids == (64, 65, 0)
    assert trajectory.turns[0].logprobs == (-1.0, -2.0, -3.0)
    assert trajectory.turns[0].is_cut
    prompt = len(trajectory.prompt_ids)
    assert engine.requests[1].token_ids[prompt : prompt + 3] == (64, 65, 0)


def test_free_slots_start_the_next_episode_at_once(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Recording(ScriptedEngine(lambda *_: "ab!", tokenizer))
    tasks = specs(3, 1, 1, 1, 2)
    batch = run(tokenizer, tasks, engine=engine)
    assert [t.task_id for t in batch.trajectories] == [f"task-{s.task_index}" for s in tasks]
    assert [t.seed for t in batch.trajectories] == [0, 1, 2, 3, 4]
    assert [len(t.turns) for t in batch.trajectories] == [3, 1, 1, 1, 2]
    assert engine.batch_sizes == [2, 2, 2, 1, 1]
    assert sorted(engine.released) == sorted({r.episode_id for r in engine.requests})
    stats = batch.stats
    assert (stats.num_episodes, stats.num_turns, stats.num_sampled_tokens) == (5, 8, 8)
    assert stats.num_observed_tokens == sum(
        len(t.prompt_ids) + sum(len(turn.observation_ids) for turn in t.turns)
        for t in batch.trajectories
    )
    assert stats.engine_s >= 0
    assert stats.total_s >= stats.env_s
    assert stats.tokens_per_s > 0


@pytest.mark.parametrize("num_slots", [1, 3, 8])
def test_the_number_of_slots_changes_nothing(
    num_slots: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine(lambda text, seed: f"{len(text)}-{seed}!", tokenizer)
    tasks = specs(2, 3, 1, 2, 2)
    batch = run(tokenizer, tasks, engine=engine, num_slots=num_slots)
    assert batch.trajectories == run(tokenizer, tasks, engine=engine, num_slots=2).trajectories
    texts = [turn.action_text for t in batch.trajectories for turn in t.turns]
    assert len(set(texts)) == len(texts)


def test_the_same_with_a_model(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=258, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    tasks = specs(2, 3, 1, 2)
    few = run(tokenizer, tasks, engine=HfEngine(model, tokenizer), num_slots=2)
    many = run(tokenizer, tasks, engine=HfEngine(model, tokenizer, max_slots=2), num_slots=4)
    for one, other in zip(few.trajectories, many.trajectories, strict=True):
        assert [t.action_ids for t in one.turns] == [t.action_ids for t in other.turns]
        for a, b in zip(one.turns, other.turns, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_an_episode_without_room_ends_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, observed = 7, len(tokenizer.encode("<obs>é1</obs>"))
    room = prompt + 1 + observed + PARAMS.max_tokens
    fits = DriverConfig(max_context_tokens=room)
    (trajectory,) = run(tokenizer, specs(5), config=fits).trajectories
    assert len(trajectory.turns) == 2
    batch = run(tokenizer, specs(5), config=DriverConfig(max_context_tokens=room - 1))
    (trajectory,) = batch.trajectories
    assert len(trajectory.turns) == 1
    assert (trajectory.is_terminated, trajectory.is_truncated) == (False, True)
    assert trajectory.turns[0].observation_ids == ()
    assert trajectory.final_info == {"turn": 1, "is_context_overflow": True}
    assert trajectory.reward == 0.25
    assert batch.stats.num_overflows == 1


def test_a_prompt_without_room_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(max_context_tokens=7 + PARAMS.max_tokens)
    batch = run(tokenizer, specs(1, 10, 1), config=config)
    assert [d.reason for d in batch.dropped] == ["prompt_too_long"]
    assert len(batch.trajectories) == 2


def test_the_environments_truncation_is_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    (trajectory,) = run(tokenizer, specs(7)).trajectories
    assert (trajectory.is_terminated, trajectory.is_truncated) == (False, True)
    assert len(trajectory.turns) == 7


def test_failures_are_retried_with_growing_waits(tokenizer: PreTrainedTokenizerFast) -> None:
    waits: list[float] = []
    config = DriverConfig(max_retries=3, backoff_s=0.5)
    batch = run(tokenizer, specs(2, 1), failures={2: 3}, config=config, waits=waits)
    assert [len(t.turns) for t in batch.trajectories] == [2, 1]
    assert waits == [0.5, 1.0, 2.0]
    assert (batch.stats.num_retries, batch.stats.num_dropped) == (3, 0)


def test_an_episode_that_keeps_failing_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(max_retries=1, backoff_s=0)
    tasks = [
        *specs(1, 1, 2, 99),
        EpisodeSpec(task_index=3, group_id="g2", seed=9),
        EpisodeSpec(task_index=99, group_id="alone", seed=1),
    ]
    engine = Recording(ScriptedEngine(lambda *_: "ab!", tokenizer))
    batch = run(tokenizer, tasks, failures={2: 2}, config=config, engine=engine)
    assert [t.task_id for t in batch.trajectories] == ["task-1", "task-1", "task-3"]
    assert [(d.spec.task_index, d.reason) for d in batch.dropped] == [
        (2, "step_failed"),
        (99, "reset_failed"),
        (99, "reset_failed"),
    ]
    assert batch.dropped[0].message == "ConnectionError: task 2 is down"
    assert batch.stats.num_dropped == 3
    assert batch.stats.num_groups_lost == 1
    assert len(set(engine.released)) == 4
    groups = regroup(batch.trajectories)
    assert [(group.group_id, len(group)) for group in groups] == [("g1", 2)]


def test_other_errors_are_not_swallowed(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(retry_on=(KeyError,))
    engine = Recording(ScriptedEngine(lambda *_: "ab!", tokenizer))
    with pytest.raises(ConnectionError):
        run(tokenizer, specs(1), failures={1: 1}, config=config, engine=engine)
    assert engine.released == [engine.requests[0].episode_id]


def test_nothing_left_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(max_retries=0)
    with pytest.raises(RolloutError, match="all 2 episodes were dropped, step_failed"):
        run(tokenizer, specs(1, 1), failures={1: 9}, config=config)
    assert run(tokenizer, []).trajectories == ()


def test_the_reset_seed_is_the_groups(tokenizer: PreTrainedTokenizerFast) -> None:
    tasks = [
        EpisodeSpec(task_index=1, group_id="g", seed=5),
        EpisodeSpec(task_index=1, group_id="g", seed=6, env_seed=44),
    ]
    batch = run(tokenizer, tasks)
    assert [t.reset_info["env_seed"] for t in batch.trajectories] == [1, 44]


def test_turn_seeds_differ_and_repeat() -> None:
    seeds = {turn_seed(episode, turn) for episode in range(20) for turn in range(20)}
    assert len(seeds) == 400
    assert turn_seed(3, 1) == turn_seed(3, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_chat_template_wraps_the_prompt_only(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(chat_template=True)
    with pytest.raises(ValueError, match="chat template"):
        run(tokenizer, specs(1), config=config)
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template="{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[policy]{% endif %}",
    )
    (trajectory,) = run(chat, specs(2), config=config).trajectories
    assert chat.decode(trajectory.prompt_ids) == "[user]Task 2:[policy]"
    assert chat.decode(trajectory.turns[0].observation_ids) == "<obs>é1</obs>"


@pytest.mark.parametrize(
    ("setting", "value"), [("max_context_tokens", 1), ("max_retries", -1), ("backoff_s", -0.5)]
)
def test_settings_are_checked(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must .*, got {value}"):
        DriverConfig(**{setting: value})  # type: ignore[arg-type]


def test_regroup_keeps_orders_and_leaves_out_small_groups() -> None:
    def one(group: str, seed: int) -> Trajectory:
        info: Mapping[str, Any] = {}
        turn = Turn(action_ids=(1,), action_text="", logprobs=(0.0,), info=info)
        return Trajectory(
            group_id=group, task_id="t", prompt_ids=(1,), prompt_text="", turns=(turn,), seed=seed
        )

    trajectories = [one("b", 0), one("a", 1), one("c", 2), one("a", 3), one("b", 4)]
    groups = regroup(trajectories)
    assert [(g.group_id, [t.seed for t in g.trajectories]) for g in groups] == [
        ("b", [0, 4]),
        ("a", [1, 3]),
    ]
    assert len(regroup(trajectories, min_size=1)) == 3
    assert regroup([]) == []


def spoil(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Task 2 reports other numbers at its second turn."""
    step = Echo.step

    def other(self: Echo, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        text, reward, is_over, is_cut, info = step(self, action)
        if self.task == 2 and self.turn == 2:
            reward = changes.get("reward", reward)
            info |= {key: value for key, value in changes.items() if key != "reward"}
        return text, reward, is_over, is_cut, info

    monkeypatch.setattr(Echo, "step", other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": math.nan}, "reward is nan"),
        ({"reward": math.inf}, "reward is inf"),
        ({"reward": np.float32("-inf")}, "reward is -inf"),
        ({"f1": math.nan}, "info 'f1' is nan"),
        ({"gold_recall": math.inf}, "info 'gold_recall' is inf"),
        ({"f1": "0.5"}, "info 'f1' is '0.5', no number but str"),
        ({"gold_similarity": (0.5, np.float32("nan"))}, "info 'gold_similarity' is nan"),
    ],
)
def test_a_number_that_is_none_names_its_episode(
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    words: str,
) -> None:
    """GRPO would take NaN for the mean of its group and give the whole group zeros."""
    spoil(monkeypatch, **changes)
    with pytest.raises(BadNumberError, match=rf"{words} at turn 2 of episode 1:g2 \(task 2\)"):
        run(tokenizer, specs(1, 2, 3))
    batch = run(tokenizer, specs(1, 2, 3), config=DriverConfig(bad_numbers="drop"))
    assert [each.task_id for each in batch.trajectories] == ["task-1", "task-3"]
    (dropped,) = batch.dropped
    assert (dropped.reason, dropped.num_turns) == ("bad_number", 1)
    assert words in dropped.message
    assert (batch.stats.num_dropped, batch.stats.num_bad_numbers) == (1, 1)


def test_unknown_recall_is_no_fault(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, gold_recall=math.nan, f1=1, em=True, other=math.nan)
    assert len(run(tokenizer, specs(1, 2)).trajectories) == 2


def test_an_engine_s_log_probs_are_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    class Broken(Recording):
        def generate(
            self, requests: Sequence[GenerationRequest], params: SamplingParams
        ) -> list[Generation]:
            found = super().generate(requests, params)
            return [replace(each, logprobs=(-math.inf,) * len(each.logprobs)) for each in found]

    engine = Broken(ScriptedEngine(lambda *_: "ab!", tokenizer))
    with pytest.raises(BadNumberError, match=r"log-probability of token 0 is -inf at turn 1 of"):
        run(tokenizer, specs(1), engine=engine)
