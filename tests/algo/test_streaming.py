"""A plain engine behind the streaming interface keeps its rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    BatchedStreaming,
    Generation,
    GenerationRequest,
    SamplingParams,
    as_streaming,
)
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from tests.algo.letters import make_model, make_tokenizer

PARAMS = SamplingParams(max_tokens=3)


class Plain:
    """Repeats the seed; remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.released: list[str] = []
        self.version = 0

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        self.batches.append([request.episode_id for request in requests])
        if any(request.seed < 0 for request in requests):
            raise EngineError("failed")
        return [Generation((r.seed,), (0.0,), str(r.seed), "eos") for r in requests]

    def release(self, episode_ids: Sequence[str]) -> None:
        self.released += episode_ids

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        self.version = version


def request(name: str, seed: int = 7) -> GenerationRequest:
    return GenerationRequest(name, (1, 2), seed)


def test_what_waits_goes_into_one_call() -> None:
    plain = Plain()
    engine = as_streaming(plain)
    assert engine.step() == []
    engine.submit([request("a", 1), request("b", 2)], PARAMS)
    engine.submit([request("c", 3)], PARAMS)
    engine.release(["b", "z"])
    assert engine.num_running == 2
    ended = {name: turn.text for name, turn in engine.step()}
    assert ended == {"a": "1", "c": "3"}
    assert plain.batches == [["a", "c"]]
    assert plain.released == ["b", "z"]
    assert engine.num_running == 0
    engine.sync_weights(torch.nn.Linear(1, 1), 4)
    assert plain.version == 4


def test_bad_submissions_queue_nothing() -> None:
    engine = BatchedStreaming(Plain())
    with pytest.raises(EngineError, match="every request must be of another episode"):
        engine.submit([request("a"), request("a")], PARAMS)
    engine.submit([request("a")], PARAMS)
    with pytest.raises(EngineError, match="'a' already runs a turn"):
        engine.submit([request("b"), request("a")], PARAMS)
    with pytest.raises(EngineError, match="params must be those of the running turns"):
        engine.submit([request("b")], SamplingParams(max_tokens=4))
    with pytest.raises(EngineError, match="no turn may run for this, got 1 running"):
        engine.sync_weights(torch.nn.Linear(1, 1), 1)
    assert [name for name, _ in engine.step()] == ["a"]
    engine.submit([request("b")], SamplingParams(max_tokens=4))


def test_after_a_failure_nothing_runs() -> None:
    engine = BatchedStreaming(Plain())
    engine.submit([request("a", -1)], PARAMS)
    with pytest.raises(EngineError, match="failed"):
        engine.step()
    assert engine.num_running == 0


def test_an_engine_that_streams_is_taken_as_it_is() -> None:
    engine = HfEngine(make_model(), make_tokenizer())
    assert as_streaming(engine) is engine
