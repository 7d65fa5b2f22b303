"""An engine that is built anew when it fails: what is repeated, and when it is given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.vllm.rebuilding import RebuildingEngine
from calibadv_algo.rollout.engines.vllm.turns import VllmCounters

PARAMS = SamplingParams()
MODEL = torch.nn.Linear(1, 1)


class Fragile:
    """Ends one turn every second step, in order, and dies at the steps that it is told."""

    def __init__(self, dies_at: Sequence[int]) -> None:
        self.dies_at = dies_at
        self.num_steps = 0
        self.is_dead = False
        self.version = -1
        self.counters = VllmCounters()
        self.turns: list[GenerationRequest] = []

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        self.turns += requests

    def step(self) -> list[tuple[str, Generation]]:
        self.num_steps += 1
        if self.num_steps in self.dies_at:
            self.is_dead = True
            raise EngineError(f"died at step {self.num_steps}")
        if self.num_steps % 2 or not self.turns:
            return []
        turn = self.turns.pop(0)
        return [(turn.episode_id, Generation(turn.token_ids, (0.0,), "x", "eos"))]

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        self.version = version

    def close(self) -> None:
        self.is_dead = True


def rebuilding(lives: Sequence[Sequence[int]], **settings: Any) -> tuple[RebuildingEngine, list]:
    """An engine whose n-th life dies at the n-th steps; the last life is repeated."""
    built: list[Fragile] = []

    def build() -> Any:
        built.append(Fragile(lives[min(len(built), len(lives) - 1)]))
        return built[-1]

    engine = RebuildingEngine(build, **settings)
    engine.sync_weights(MODEL, 3)
    return engine, built


def play(engine: RebuildingEngine, count: int) -> list[str]:
    engine.submit([GenerationRequest(f"e{i}", (i,), 0) for i in range(count)], PARAMS)
    ended: list[str] = []
    while engine.num_running:
        ended += [name for name, _ in engine.step()]
    return ended


def test_turns_of_a_dead_engine_begin_again_under_the_same_weights() -> None:
    engine, built = rebuilding([(4,), ()])
    assert play(engine, 3) == ["e0", "e1", "e2"]
    assert engine.num_rebuilds == 1
    assert [each.version for each in built] == [3, 3]


def test_failures_with_progress_between_them_are_not_in_a_row() -> None:
    engine, built = rebuilding([(3,), (3,), (3,), (3,), ()], max_rebuilds=1)
    assert len(play(engine, 5)) == 5
    assert len(built) == 5


def test_an_engine_that_always_dies_before_a_turn_ends_is_given_up() -> None:
    engine, built = rebuilding([(2,)], max_rebuilds=2)
    with pytest.raises(EngineError, match="died at step 2"):
        play(engine, 1)
    assert len(built) == 3
