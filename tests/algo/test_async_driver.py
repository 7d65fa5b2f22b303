"""Episodes that do not wait for each other are the same episodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.spaces import Text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calibadv_algo.errors import EngineError, RolloutError
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.scripted import PacedEngine, ScriptedEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec, RolloutBatch
from calibadv_algo.rollout.slots import (
    EnvSlots,
    ListSlots,
    SlotFailure,
    SlotReset,
    SlotStart,
    SlotStep,
    make_slots,
)
from calibadv_env.info import STOP_STRINGS
from tests.algo.letters import STOP, LetterEnv, make_model
from tests.algo.letters import make_tokenizer as letter_tokenizer

PARAMS = SamplingParams(max_tokens=40, stop=("!",))


class Asker(gymnasium.Env[str, str]):
    """Takes as many turns as the task says; may fail so often before a task's first step."""

    action_space = Text(100)
    observation_space = Text(100)

    def __init__(self, failures: dict[int, int] | None = None) -> None:
        self.failures = failures if failures is not None else {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {})["task_index"]
        self.turn = 0
        if self.task == 99:
            raise TimeoutError("reset")
        return f"Task {self.task}:", {"task_id": f"task-{self.task}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.failures.get(self.task, 0) > 0:
            self.failures[self.task] -= 1
            raise ConnectionError(f"task {self.task} is down")
        self.turn += 1
        info = {"turn": self.turn, "said": (action,)}
        return f"<{self.turn}>", 0.5, self.turn >= self.task, False, info


class SlowSlots:
    """Passes calls on and remembers them; a step takes a while."""

    def __init__(self, slots: EnvSlots, step_s: float = 0.0) -> None:
        self.slots, self.step_s = slots, step_s
        self.can_step_part = True
        self.stepped: list[tuple[int, ...]] = []
        self.threads: set[str] = set()
        self.num_inside = 0

    @property
    def num_slots(self) -> int:
        return self.slots.num_slots

    def reset(
        self, starts: Mapping[int, SlotStart], catch: tuple[type[Exception], ...]
    ) -> dict[int, SlotReset | SlotFailure]:
        self.threads.add(threading.current_thread().name)
        return self.slots.reset(starts, catch)

    def step(
        self, actions: Mapping[int, str], catch: tuple[type[Exception], ...]
    ) -> dict[int, SlotStep | SlotFailure]:
        self.num_inside += 1
        assert self.num_inside == 1, "the environment was called twice at one time"
        self.threads.add(threading.current_thread().name)
        self.stepped.append(tuple(actions))
        time.sleep(self.step_s)
        results = self.slots.step(actions, catch)
        self.num_inside -= 1
        return results

    def close(self) -> None:
        self.slots.close()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def spread(_context: str, seed: int) -> str:
    """A turn of 2 to 20 tokens."""
    return "x" * (1 + seed % 19) + "!"


def paced(
    tokenizer: PreTrainedTokenizerFast,
    script: Callable[[str, int], str] = spread,
    step_s: float = 0.0,
) -> PacedEngine:
    return PacedEngine(ScriptedEngine(script, tokenizer), lambda _: step_s)


def specs(*tasks: int) -> list[EpisodeSpec]:
    return [EpisodeSpec(task_index=t, group_id=f"g{t}", seed=i) for i, t in enumerate(tasks)]


def askers(count: int, failures: dict[int, int] | None = None) -> ListSlots:
    return ListSlots([Asker(failures) for _ in range(count)])


def run(
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[EpisodeSpec],
    *,
    slots: EnvSlots | None = None,
    engine: Any = None,
    config: DriverConfig | None = None,
    waits: list[float] | None = None,
) -> RolloutBatch:
    sleep = (waits if waits is not None else []).append
    player = AsyncPlayer(
        slots or askers(3),
        engine or paced(tokenizer),
        tokenizer,
        PARAMS,
        config or DriverConfig(),
        sleep,
    )
    return player.play(tasks, policy_version=3)


@pytest.mark.parametrize("num_slots", [1, 3, 9])
def test_the_trajectories_are_those_of_the_lock_step_driver(
    num_slots: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    tasks = specs(2, 5, 1, 3, 3, 1, 4)
    config = DriverConfig(max_context_tokens=90)
    player = Player(askers(2), paced(tokenizer), tokenizer, PARAMS, config)
    lock = player.play(tasks, policy_version=3)
    free = run(tokenizer, tasks, slots=SlowSlots(askers(num_slots), 0.002), config=config)
    assert free.trajectories == lock.trajectories
    assert lock.stats.num_overflows > 0
    for name in ("num_episodes", "num_turns", "num_sampled_tokens", "num_observed_tokens",
                 "num_overflows", "num_dropped", "num_retries"):  # fmt: skip
        assert getattr(free.stats, name) == getattr(lock.stats, name), name


def test_a_plain_engine_is_served_too(tokenizer: PreTrainedTokenizerFast) -> None:
    tasks = specs(2, 3, 1, 2)
    plain = ScriptedEngine(spread, tokenizer)
    batch = run(tokenizer, tasks, engine=plain)
    assert batch.trajectories == run(tokenizer, tasks).trajectories


def test_a_long_turn_holds_nobody_up(tokenizer: PreTrainedTokenizerFast) -> None:
    def script(context: str, _seed: int) -> str:
        return "y" * 38 + "!" if context.startswith("Task 1:") else "x!"

    lock, free = paced(tokenizer, script), paced(tokenizer, script)
    tasks = specs(1, 9, 9)
    expected = Player(askers(3), lock, tokenizer, PARAMS).play(tasks, policy_version=3)
    batch = run(tokenizer, tasks, engine=free)
    assert batch.trajectories == expected.trajectories
    assert lock.num_steps == 39 + 8 * 2
    assert free.num_steps <= 39 + 4


def test_searches_that_come_meanwhile_go_together(tokenizer: PreTrainedTokenizerFast) -> None:
    slots = SlowSlots(askers(6), 0.05)
    engine = paced(tokenizer, step_s=0.001)
    batch = run(tokenizer, specs(*[2] * 6), slots=slots, engine=engine)
    assert sum(map(len, slots.stepped)) == batch.stats.num_turns == 12
    assert len(slots.stepped) < 8
    assert max(map(len, slots.stepped)) > 1
    assert slots.threads == {"environment_0"}
    assert batch.stats.env_s > 0.05 * (len(slots.stepped) - 1)
    assert 0 < batch.stats.wait_s < batch.stats.total_s
    assert batch.stats.engine_s > 0


def test_only_the_failing_episode_waits(tokenizer: PreTrainedTokenizerFast) -> None:
    waits: list[float] = []
    slots = SlowSlots(askers(3, {4: 2}))
    config = DriverConfig(max_retries=3, backoff_s=30.0)
    tasks = specs(3, 4, 3)
    batch = run(tokenizer, tasks, slots=slots, config=config, waits=waits)
    assert batch.trajectories == run(tokenizer, tasks).trajectories
    assert (batch.stats.num_retries, batch.stats.num_dropped) == (2, 0)
    assert [round(wait) for wait in waits] == [30, 60]
    first_retry = [i for i, slots in enumerate(slots.stepped) if 1 in slots][1]
    assert sum(2 in slots for slots in slots.stepped[:first_retry]) == 3


def test_an_episode_that_keeps_failing_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    config = DriverConfig(max_retries=1, backoff_s=0)
    tasks = specs(1, 2, 99, 3)
    batch = run(tokenizer, tasks, slots=askers(2, {2: 9}), config=config)
    assert [t.task_id for t in batch.trajectories] == ["task-1", "task-3"]
    assert [(d.spec.task_index, d.reason) for d in batch.dropped] == [
        (2, "step_failed"),
        (99, "reset_failed"),
    ]
    assert batch.dropped[0].message == "ConnectionError: task 2 is down"
    with pytest.raises(RolloutError, match="all 1 episodes were dropped, step_failed"):
        run(tokenizer, specs(2), slots=askers(2, {2: 9}), config=config)
    assert run(tokenizer, []).trajectories == ()


class Recording(PacedEngine):
    """Remembers what was released, and can fail."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, fails_at: int = -1) -> None:
        super().__init__(ScriptedEngine(spread, tokenizer), lambda _: 0.0)
        self.released: set[str] = set()
        self.submitted: set[str] = set()
        self.fails_at = fails_at

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        self.submitted |= {request.episode_id for request in requests}
        super().submit(requests, params)

    def step(self) -> list[tuple[str, Generation]]:
        if self.num_steps == self.fails_at:
            raise EngineError("out of memory")
        return super().step()

    def release(self, episode_ids: Iterable[str]) -> None:
        self.released |= set(episode_ids)
        super().release(list(episode_ids))


def test_other_errors_are_not_swallowed(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Recording(tokenizer)
    config = DriverConfig(retry_on=(KeyError,))
    with pytest.raises(ConnectionError):
        run(tokenizer, specs(3, 2), slots=askers(2, {2: 1}), config=config, engine=engine)
    assert engine.released == engine.submitted
    failing = Recording(tokenizer, fails_at=3)
    with pytest.raises(EngineError, match="out of memory"):
        run(tokenizer, specs(3, 2), engine=failing)
    assert failing.released == failing.submitted
    assert not [t for t in threading.enumerate() if t.name.startswith("environment")]


def test_slots_that_cannot_step_in_part_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    slots = SlowSlots(askers(1))
    slots.can_step_part = False
    with pytest.raises(ValueError, match="step in part"):
        run(tokenizer, specs(1), slots=slots)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_says_the_same_to_the_bit_at_any_timing(temperature: float) -> None:
    letters = letter_tokenizer()
    model = make_model()
    params = SamplingParams(temperature=temperature, max_tokens=6, stop=(STOP,))
    tasks = [EpisodeSpec(task_index=i % 4, group_id=str(i % 4), seed=i) for i in range(24)]

    def play(count: int, step_s: float | None) -> list[Any]:
        envs = SlowSlots(ListSlots([LetterEnv(3) for _ in range(count)]), step_s or 0.0)
        kind = Player if step_s is None else AsyncPlayer
        batch = kind(envs, HfEngine(model, letters), letters, params).play(tasks)
        return list(batch.trajectories)

    alone = play(1, None)
    lengths = {len(turn.action_ids) for each in alone for turn in each.turns}
    assert temperature == 0 or len(lengths) > 1
    assert play(16, None) == alone
    assert play(12, 0.0) == alone
    assert play(24, 0.003) == alone


def test_deep_search_is_the_same_either_way(tokenizer: PreTrainedTokenizerFast) -> None:
    def script(context: str, seed: int) -> str:
        if context.count("<information>") >= 1 + seed % 3:
            return "<think>so</think><answer>Paris</answer>"
        return f"<think>{'hm ' * (seed % 7)}</think><search>airport {seed % 50}</search>"

    kwargs = {"dataset": "atlas", "split": "train", "max_turns": 4, "prompt": "question"}
    tasks = [EpisodeSpec(task_index=i % 5, group_id=str(i % 5), seed=i) for i in range(14)]
    params = SamplingParams(max_tokens=400, stop=STOP_STRINGS)
    slots = make_slots("calibadv_env:DeepSearch-v1", 6, kwargs)
    assert slots.can_step_part
    lock = Player(slots, paced(tokenizer, script), tokenizer, params).play(tasks)
    free = AsyncPlayer(slots, paced(tokenizer, script), tokenizer, params).play(tasks)
    assert repr(free.trajectories) == repr(lock.trajectories)
    assert len({len(each.turns) for each in free.trajectories}) > 2
    slots.close()


def test_weights_cannot_change_under_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = paced(tokenizer)
    engine.submit([GenerationRequest("a", (1,), 3)], PARAMS)
    with pytest.raises(EngineError, match="no turn may run for this, got 1 running"):
        engine.sync_weights(torch.nn.Linear(1, 1), 1)
    with pytest.raises(EngineError, match="got 1 running"):
        engine.generate([GenerationRequest("b", (1,), 3)], PARAMS)
    engine.release(["a"])
    engine.sync_weights(torch.nn.Linear(1, 1), 1)
