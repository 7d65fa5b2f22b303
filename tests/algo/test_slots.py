"""A list of environments and a vector environment look the same through slots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text
from gymnasium.vector import AutoresetMode, VectorEnv

from calibadv_algo.errors import EnvironmentFaultError
from calibadv_algo.rollout.slots import (
    ListSlots,
    SlotFailure,
    SlotReset,
    SlotStart,
    SlotStep,
    VectorSlots,
    make_slots,
    unstack_info,
)


class Countdown(gymnasium.Env[str, str]):
    """Ends after as many steps as the task's index; knows nothing of search."""

    action_space = Text(100)
    observation_space = Text(100)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.task = (options or {})["task_index"]
        return f"count down from {self.task}", {"task_id": f"t{self.task}", "noise": seed}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "break":
            raise ConnectionError("lost")
        self.left -= 1
        return f"{self.left} left", 0.5, self.left == 0, False, {"said": action, "path": (1, "x")}


class CountdownVector(VectorEnv[Any, Any, Any]):
    """The same, many at a time, without automatic resets."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs = num_envs
        self.envs = [Countdown() for _ in range(num_envs)]
        self.is_over = np.ones(num_envs, dtype=bool)
        self.is_started = np.zeros(num_envs, dtype=bool)
        self.received: list[tuple[str, ...]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        infos: dict[str, Any] = {}
        texts = [""] * self.num_envs
        for i in np.flatnonzero(options["reset_mask"]):
            task = {"task_index": options["task_index"][i]}
            texts[i], info = self.envs[i].reset(seed=seed[i], options=task)
            infos = self._add_info(infos, info, i)
            self.is_over[i], self.is_started[i] = False, True
        return tuple(texts), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.is_started.all()
        self.received.append(actions)
        infos: dict[str, Any] = {}
        texts, rewards = [""] * self.num_envs, np.zeros(self.num_envs)
        for i, action in enumerate(actions):
            if not self.is_over[i]:
                texts[i], rewards[i], self.is_over[i], _, info = self.envs[i].step(action)
                values = np.empty(self.num_envs, dtype=object)
                values[i] = info.pop("path")
                infos = self._add_info(infos, info, i)
                old = infos.get("path", np.full(self.num_envs, None, dtype=object))
                old[i] = values[i]
                infos["path"] = old
                infos["_path"] = infos.get("_path", np.zeros(self.num_envs, dtype=bool))
                infos["_path"][i] = True
        infos["is_idle"] = np.zeros(self.num_envs, dtype=bool)
        return tuple(texts), rewards, self.is_over.copy(), np.zeros(self.num_envs, bool), infos


class PartialVector(CountdownVector):
    """One that leaves a slot alone whose action is None."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "is_partial_step": True}  # noqa: RUF012

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        over = self.is_over.copy()
        left_alone = np.array([action is None for action in actions])
        self.is_over |= left_alone
        states = [getattr(env, "left", 0) for env in self.envs]
        try:
            texts, rewards, terminated, truncated, infos = super().step(actions)
        except ConnectionError:
            for env, left in zip(self.envs, states, strict=True):
                env.left = left
            self.is_over = over
            raise
        self.is_over = np.where(left_alone, over, self.is_over)
        return texts, rewards, terminated, truncated, infos


class AutoVector(CountdownVector):
    """One that resets finished slots by itself."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("SlotsSingle-v0", entry_point=Countdown)
    gymnasium.register("SlotsVector-v0", entry_point=Countdown, vector_entry_point=CountdownVector)
    gymnasium.register("SlotsPartial-v0", entry_point=Countdown, vector_entry_point=PartialVector)
    gymnasium.register("SlotsAuto-v0", entry_point=Countdown, vector_entry_point=AutoVector)
    yield
    for name in ("SlotsSingle-v0", "SlotsVector-v0", "SlotsPartial-v0", "SlotsAuto-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize("env_id", ["SlotsSingle-v0", "SlotsVector-v0", "SlotsPartial-v0"])
def test_both_kinds_play_the_same_episodes(env_id: str) -> None:
    slots = make_slots(env_id, 3)
    assert slots.num_slots == 3
    starts = {2: SlotStart(1, 70), 0: SlotStart(2, 80)}
    assert slots.reset(starts, ()) == {
        2: SlotReset("count down from 1", {"task_id": "t1", "noise": 70}),
        0: SlotReset("count down from 2", {"task_id": "t2", "noise": 80}),
    }
    first = slots.step({0: "hello", 2: "there"}, ())
    assert first[0] == SlotStep("1 left", 0.5, False, False, {"said": "hello", "path": (1, "x")})
    assert first[2].is_terminated  # type: ignore[union-attr]
    slots.reset({2: SlotStart(3, 1)}, ())
    second = slots.step({0: "a", 2: "b"}, ())
    assert second[0] == SlotStep("0 left", 0.5, True, False, {"said": "a", "path": (1, "x")})
    assert second[2] == SlotStep("2 left", 0.5, False, False, {"said": "b", "path": (1, "x")})
    slots.close()


def test_kinds_are_chosen_by_the_spec() -> None:
    assert isinstance(make_slots("SlotsSingle-v0", 2), ListSlots)
    assert isinstance(make_slots("SlotsVector-v0", 2), VectorSlots)
    assert isinstance(make_slots("SlotsAuto-v0", 2), ListSlots)
    assert isinstance(make_slots("gymnasium:SlotsVector-v0", 2), VectorSlots)
    with pytest.raises(ModuleNotFoundError):
        make_slots("no_such_module:SlotsVector-v0", 2)
    with pytest.raises(ValueError, match="num_slots must be positive, got 0"):
        make_slots("SlotsSingle-v0", 0)
    with pytest.raises(ValueError, match="must be DISABLED"):
        VectorSlots(AutoVector(1))
    with pytest.raises(ValueError, match="envs must not be empty"):
        ListSlots([])


def test_expected_errors_are_failures_and_others_are_raised() -> None:
    single = make_slots("SlotsSingle-v0", 2)
    vector = make_slots("SlotsVector-v0", 2)
    starts = {0: SlotStart(2, 0), 1: SlotStart(2, 0)}
    for slots, others_go_on in ((single, True), (vector, False)):
        slots.reset(starts, ())
        results = slots.step({0: "break", 1: "fine"}, (OSError,))
        assert isinstance(results[0], SlotFailure)
        assert isinstance(results[0].error, ConnectionError)
        assert isinstance(results[1], SlotStep) == others_go_on
        with pytest.raises(ConnectionError):
            slots.step({0: "break", 1: "fine"}, (KeyError,))


@pytest.mark.parametrize("env_id", ["SlotsSingle-v0", "SlotsPartial-v0"])
def test_slots_that_are_not_named_stay_as_they_are(env_id: str) -> None:
    slots = make_slots(env_id, 3)
    assert slots.can_step_part
    assert not make_slots("SlotsVector-v0", 1).can_step_part
    slots.reset({slot: SlotStart(3, 0) for slot in range(3)}, ())
    for slot in (1, 1, 2):
        assert list(slots.step({slot: "go"}, ())) == [slot]
    results = slots.step({0: "a", 1: "b", 2: "c"}, ())
    texts = [results[slot].text for slot in range(3)]  # type: ignore[union-attr]
    assert texts == ["2 left", "0 left", "1 left"]


@pytest.mark.parametrize("bad", [{1}, {0, 5}, {0, 1, 2}])
def test_one_slots_failure_is_no_other_slots(bad: set[int]) -> None:
    slots = make_slots("SlotsPartial-v0", 6)
    slots.reset({slot: SlotStart(2, 0) for slot in range(6)}, ())
    actions = {slot: "break" if slot in bad else "fine" for slot in range(6)}
    results = slots.step(actions, (OSError,))
    assert {s for s, result in results.items() if isinstance(result, SlotFailure)} == bad
    again = slots.step(dict.fromkeys(range(6), "fine"), (OSError,))
    texts = [again[slot].text for slot in range(6)]  # type: ignore[union-attr]
    assert texts == ["1 left" if slot in bad else "0 left" for slot in range(6)]


def test_a_common_failure_is_not_asked_for_slot_by_slot() -> None:
    env = PartialVector(30)
    slots = VectorSlots(env)
    slots.reset({slot: SlotStart(2, 0) for slot in range(30)}, ())
    results = slots.step(dict.fromkeys(range(30), "break"), (OSError,))
    assert len(env.received) == 1 + 4
    assert list(results) == list(range(30))
    assert all(isinstance(result, SlotFailure) for result in results.values())
    with pytest.raises(ConnectionError):
        slots.step(dict.fromkeys(range(30), "break"), (KeyError,))


def test_slots_without_an_episode_of_ours_get_the_empty_action() -> None:
    env = CountdownVector(3)
    slots = VectorSlots(env)
    slots.reset({1: SlotStart(5, 0)}, ())
    slots.step({1: "go"}, ())
    assert env.received == [("", "go", "")]
    assert slots.reset({}, ()) == {}
    assert slots.step({}, ()) == {}


def test_unstacking_follows_masks_and_nesting() -> None:
    infos = {
        "a": np.array([1, 2]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([0.5, 1.5]), "_c": np.array([True, True])},
        "_b": np.array([True, True]),
        "_odd": np.array(["x", "y"]),
        "plain": np.array([True, False]),
    }
    assert unstack_info(infos, 0) == {"a": 1, "b": {"c": 0.5}, "_odd": "x", "plain": True}
    assert unstack_info(infos, 1) == {"b": {"c": 1.5}, "_odd": "y", "plain": False}
    assert type(unstack_info(infos, 0)["a"]) is int


class Faulty(Countdown):
    """Breaks down, or gives what is no reward."""

    fault: Any = None

    def reset(self, **given: Any) -> tuple[str, dict[str, Any]]:
        if self.fault == "reset":
            raise KeyError("where")
        return super().reset(**given)

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:  # type: ignore[override]
        if isinstance(self.fault, Exception):
            raise self.fault
        text, _, is_over, is_cut, info = super().step(action)
        return text, self.fault, is_over, is_cut, info


class FaultyVector(CountdownVector):
    def __init__(self, fault: Any) -> None:
        super().__init__(1)
        self.envs = [Faulty()]
        self.envs[0].fault = fault  # type: ignore[attr-defined]


def faulty(kind: str, fault: Any) -> Any:
    if kind == "vector":
        return VectorSlots(FaultyVector(fault))
    env = Faulty()
    env.fault = fault
    return ListSlots([env])


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_an_environment_that_breaks_down_is_named_with_the_place(kind: str) -> None:
    slots = faulty(kind, RuntimeError("boom"))
    slots.reset({0: SlotStart(3, 0)}, ())
    words = r"Faulty\w*\.step failed with RuntimeError: boom \(.*test_slots.py:\d+\)\. Mend"
    with pytest.raises(EnvironmentFaultError, match=words) as caught:
        slots.step({0: "x"}, (OSError,))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert isinstance(slots.step({0: "x"}, (RuntimeError,))[0], SlotFailure)
    with pytest.raises(
        EnvironmentFaultError, match=r"Faulty\w*\.reset failed with KeyError: 'where'"
    ):
        faulty(kind, "reset").reset({0: SlotStart(3, 0)}, ())


@pytest.mark.parametrize("reward", ["0.5", b"1", [1.0], {"score": 1}])
def test_what_is_no_number_is_no_reward(reward: Any) -> None:
    slots = faulty("list", reward)
    slots.reset({0: SlotStart(3, 0)}, ())
    with pytest.raises(EnvironmentFaultError, match=r"of Faulty\.step must be a number, got"):
        slots.step({0: "x"}, ())


def test_no_reward_at_all_is_nan() -> None:
    slots = faulty("list", None)
    slots.reset({0: SlotStart(3, 0)}, ())
    assert math.isnan(slots.step({0: "x"}, ())[0].reward)
