"""Small decision processes in text whose values are known exactly, and policies that play them.

A world is a tree: after a history of letters it either ends or asks for another letter. A policy
gives each letter a probability. So values, advantages and gradients follow by recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.slots import ListSlots

Policy = Callable[[str], Mapping[str, float]]


@dataclass(frozen=True)
class World:
    """A decision process.

    Attributes:
        name: Of the world.
        policy: Probability of every letter after a history.
        reward: Of the last letter of a history.
        is_over: Whether a history is the whole episode.
        searches: Letters that are searches; the others answer.
    """

    name: str
    policy: Policy
    reward: Callable[[str], float]
    is_over: Callable[[str], bool]
    searches: str = "a"

    def value(self, history: str) -> float:
        """Expected sum of the rewards to come."""
        if history and self.is_over(history):
            return 0.0
        return sum(
            chance * (self.reward(history + letter) + self.value(history + letter))
            for letter, chance in self.policy(history).items()
        )

    def advantage(self, history: str) -> float:
        """True advantage of the last letter of a history."""
        return self.reward(history) + self.value(history) - self.value(history[:-1])

    def episodes(self, history: str = "", chance: float = 1.0) -> list[tuple[str, float]]:
        """All whole episodes with their probabilities."""
        if history and self.is_over(history):
            return [(history, chance)]
        return [
            each
            for letter, share in self.policy(history).items()
            if share > 0
            for each in self.episodes(history + letter, chance * share)
        ]


def stop_or_search(chance: float = 0.5, length: int = 3) -> World:
    """Each search (a) pays 1; b stops; the policy decides when."""
    return World(
        name="stop-or-search",
        policy=lambda _: {"a": chance, "b": 1 - chance},
        reward=lambda history: float(history[-1] == "a"),
        is_over=lambda history: history[-1] == "b" or len(history) == length,
    )


def two_hop_lottery() -> World:
    """Two searches, each of which may go wrong; the answer c pays if both went right."""
    draws = {0: {"a": 0.6, "b": 0.4}, 1: {"a": 0.3, "b": 0.7}, 2: {"c": 0.8, "d": 0.2}}
    return World(
        name="two-hop-lottery",
        policy=lambda history: draws[len(history)],
        reward=lambda history: float(history == "aac"),
        is_over=lambda history: len(history) == 3,
        searches="ab",
    )


def delayed_chain() -> World:
    """The first letter decides the return, which is paid at the end of four turns."""
    return World(
        name="delayed-chain",
        policy=lambda history: {"a": 0.5, "b": 0.5} if not history else {"c": 0.5, "d": 0.5},
        reward=lambda history: float(len(history) == 4 and history[0] == "a"),
        is_over=lambda history: len(history) == 4,
        searches="abcd",
    )


def when_to_stop() -> World:
    """The policy stops (b) when it likes; the chance of a right answer (c) grows with searches."""

    def policy(history: str) -> Mapping[str, float]:
        if history.endswith("b"):
            right = (0.2, 0.6, 0.9)[history.count("a")]
            return {"c": right, "d": 1 - right}
        return {"a": 0.5, "b": 0.5} if len(history) < 2 else {"b": 1.0}

    return World(
        name="when-to-stop",
        policy=policy,
        reward=lambda history: float(history[-1] == "c"),
        is_over=lambda history: history[-1] in "cd",
        searches="ab",
    )


WORLDS = (stop_or_search(), two_hop_lottery(), delayed_chain(), when_to_stop())


class WorldEnv(gymnasium.Env[str, str]):
    """A world as an environment; ``task_index`` is shown and changes nothing."""

    def __init__(self, world: World, num_tasks: int = 64) -> None:
        self.observation_space = spaces.Text(8)
        self.action_space = spaces.Text(8)
        self._world, self._num_tasks = world, num_tasks
        self._history = ""
        self._task = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._history = ""
        self._task = int((options or {}).get("task_index", 0))
        return ">", {"num_tasks": self._num_tasks, "task_id": str(self._task), "hops": 2}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        letter = action[0]
        self._history += letter
        is_search = letter in self._world.searches
        info = {
            "action": "search" if is_search else "answer",
            "passage_ids": (f"p{self._history}",) if is_search else (),
            "gold_new": ("g",) if letter == "a" else (),
            "gold_recall": 0.0,
            "answer_in_passages": letter == "a",
            "think": "",
            "is_format_valid": True,
        }
        over = self._world.is_over(self._history)
        return ">", self._world.reward(self._history), over, False, info


class CloneableWorldEnv(WorldEnv):
    """The same, whose state can be kept."""

    def clone_state(self) -> tuple[str, int]:
        return self._history, self._task

    def restore_state(self, snapshot: tuple[str, int]) -> str:
        self._history, self._task = snapshot
        return ">"


class Letters:
    """A tokenizer with a token a character."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, token_ids))


class WorldEngine:
    """Samples a world's policy: one letter a turn, by the seed of the turn alone.

    Attributes:
        contexts: Contexts that were asked for.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._tokenizer = Letters()
        self.contexts: list[tuple[int, ...]] = []

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        turns = []
        for request in requests:
            self.contexts.append(request.token_ids)
            text = self._tokenizer.decode(list(request.token_ids))
            chances = self._world.policy(text.replace(">", ""))
            draw = np.random.default_rng(request.seed).random()
            places = np.cumsum(list(chances.values()))
            place = min(int(np.searchsorted(places, draw, side="right")), len(places) - 1)
            letter = list(chances)[place]
            ids = tuple(self._tokenizer.encode(letter, add_special_tokens=False))
            logprob = float(np.log(chances[letter]))
            turns.append(Generation(ids, (logprob,), letter, "stop"))
        return turns

    def release(self, episode_ids: Sequence[str]) -> None:
        pass

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        pass


def make_player(world: World, *, num_slots: int = 16, cloneable: bool = True) -> Player:
    """A player of a world."""
    kind = CloneableWorldEnv if cloneable else WorldEnv
    slots = ListSlots([kind(world) for _ in range(num_slots)])
    return Player(slots, WorldEngine(world), Letters(), SamplingParams(max_tokens=1))


def letters_of(trajectory: Any) -> str:
    """The letters of an episode."""
    return "".join(turn.action_text for turn in trajectory.turns)
