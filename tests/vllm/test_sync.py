"""Weights on their way to vLLM: taken over whole, checked, and what follows a failure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine
from calibadv_algo.rollout.engines.vllm.engine import VllmEngine
from calibadv_algo.rollout.engines.vllm.rebuilding import RebuildingEngine
from calibadv_algo.rollout.engines.vllm.versions import has_trainer_backends
from calibadv_algo.rollout.engines.vllm.weights import named_weights

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


def tokens(engine: Any, requests: list[GenerationRequest]) -> list[tuple[int, ...]]:
    return [each.token_ids for each in engine.generate(requests, GREEDY)]


def long_requests(kit: SimpleNamespace, tokenizer: Any, count: int = 12) -> list[GenerationRequest]:
    """Contexts of several blocks of the prefix cache."""
    return [
        GenerationRequest(each.episode_id, each.token_ids * 6, 0)
        for each in kit.requests(tokenizer, count)
    ]


def untied(model: Any) -> Any:
    """The same policy with an output layer of its own."""
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    other = type(model)(config)
    state = {**model.state_dict(), "lm_head.weight": model.get_input_embeddings().weight.clone()}
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize("is_tied", [True, False])
def test_new_weights_take_the_place_of_the_old_ones(
    kit: SimpleNamespace, loaded: tuple[Any, Any], is_tied: bool
) -> None:
    model, tokenizer = loaded
    old = model if is_tied else untied(model)
    new = kit.changed(old, scale=0.3)
    requests = long_requests(kit, tokenizer)
    expected_old = tokens(HfEngine(old, tokenizer), requests)
    expected_new = tokens(HfEngine(new, tokenizer), requests)
    assert sum(a != b for a, b in zip(expected_old, expected_new, strict=True)) >= 9
    engine = make_engine(VllmEngineConfig(), old, tokenizer, max_slots=16)
    try:
        assert tokens(engine, requests) == expected_old
        assert tokens(engine, requests) == expected_old
        engine.sync_weights(new, 1)
        assert engine.version == 1
        assert tokens(engine, requests) == expected_new
        engine.sync_weights(old, 2)
        assert tokens(engine, requests) == expected_old
    finally:
        engine.close()


def test_the_cache_of_old_weights_is_dropped(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reset left out, cached prefixes of the old weights do give other tokens."""
    model, tokenizer = loaded
    new = kit.changed(model, scale=0.3)
    requests = long_requests(kit, tokenizer)
    expected = tokens(HfEngine(new, tokenizer), requests)
    engine.sync_weights(model, 0)
    tokens(engine, requests)
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "reset_prefix_cache", lambda *_args, **_kwargs: True)
        engine.sync_weights(new, 1)
    reused = engine.counters.num_reused
    stale = tokens(engine, requests)
    assert engine.counters.num_reused > reused
    assert sum(a != b for a, b in zip(stale, expected, strict=True)) >= 6
    engine.sync_weights(new, 2)
    assert tokens(engine, requests) == expected


def test_turns_of_other_weights_than_expected_are_refused(
    kit: SimpleNamespace, loaded: tuple[Any, Any]
) -> None:
    engine = VllmEngine(*loaded, VllmEngineConfig(), max_slots=4)
    try:
        with pytest.raises(EngineError, match="no weights yet"):
            tokens(engine, kit.requests(loaded[1], 1))
        engine.sync_weights(loaded[0], 3)
        if not has_trainer_backends():
            pytest.skip("this vLLM stamps nothing on its turns")
        engine._engine.set_weight_version("4")
        with pytest.raises(EngineError, match=r"sampled from weights \['4'\], not 3"):
            tokens(engine, kit.requests(loaded[1], 1))
    finally:
        engine.close()


class Incomplete(torch.nn.Module):
    """A policy that hands out only some of its weights, then ends or fails."""

    def __init__(self, model: Any, error: Exception | None) -> None:
        super().__init__()
        self.inner, self.error = [model], error

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        for index, pair in enumerate(self.inner[0].named_parameters()):
            if index == 20 and self.error is not None:
                raise self.error
            if index != 20:
                yield pair


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "weights were not sent"),
        (RuntimeError("a rank died"), "a rank died"),
    ],
)
def test_a_transfer_that_fails_half_way_is_the_end_of_the_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any], error: Exception | None, message: str
) -> None:
    model, tokenizer = loaded
    engine = VllmEngine(model, tokenizer, VllmEngineConfig(), max_slots=4)
    engine.sync_weights(model, 0)
    with pytest.raises(EngineError, match=message):
        engine.sync_weights(Incomplete(model, error), 1)
    assert engine.is_dead
    with pytest.raises(EngineError, match="must be built anew"):
        tokens(engine, kit.requests(tokenizer, 1))
    with pytest.raises(EngineError, match="must be built anew"):
        engine.sync_weights(model, 1)
    engine.close()
    engine.close()


class Flaky:
    """Makes an engine's transfers fail after some tensors, a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, engine: VllmEngine) -> VllmEngine:
        client = engine._sender._client
        send = client.update_weights

        def update(update_info: Any) -> None:
            if self.failures and engine.version >= 0:
                self.failures -= 1
                half = update_info["weights"][: len(update_info["weights"]) // 2]
                send({"weights": half})
                raise ConnectionError("the connection was lost")
            send(update_info)

        client.update_weights = update
        return engine


def test_a_failed_transfer_is_repeated_with_a_new_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    new = kit.changed(model, scale=0.3)
    requests = long_requests(kit, tokenizer)
    flaky = Flaky(1)
    engine = RebuildingEngine(
        lambda: flaky(VllmEngine(model, tokenizer, VllmEngineConfig(), max_slots=16))
    )
    try:
        engine.sync_weights(model, 0)
        assert tokens(engine, requests) == tokens(HfEngine(model, tokenizer), requests)
        first = engine.engine
        engine.sync_weights(new, 1)
        assert engine.num_rebuilds == engine.counters.num_rebuilds == 1
        assert engine.engine is not first
        assert engine.version == 1
        assert tokens(engine, requests) == tokens(HfEngine(new, tokenizer), requests)
    finally:
        engine.close()


def test_turns_in_flight_begin_again_in_a_new_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampled, not greedy: the seeds are in the requests."""
    requests = kit.requests(loaded[1], 12)
    params = SamplingParams(max_tokens=40, stop=kit.STOP)
    engine = make_engine(VllmEngineConfig(), *loaded, max_slots=16)
    try:
        expected = [each.token_ids for each in engine.generate(requests, params)]
        engine.submit(requests, params)
        found: dict[str, Any] = {}
        for _ in range(8):
            found.update(engine.step())

        def crash(*_args: Any) -> Any:
            raise RuntimeError("device-side assert")

        monkeypatch.setattr(engine.engine._engine, "step", crash)
        while engine.num_running:
            found.update(engine.step())
        assert engine.num_rebuilds == 1
        assert [found[each.episode_id].token_ids for each in requests] == expected
    finally:
        engine.close()


def test_an_engine_that_fails_again_and_again_ends_the_run(
    kit: SimpleNamespace, loaded: tuple[Any, Any]
) -> None:
    built = []

    def build() -> VllmEngine:
        built.append(VllmEngine(*loaded, VllmEngineConfig(), max_slots=4))
        return built[-1]

    engine = RebuildingEngine(build, max_rebuilds=1)
    with pytest.raises(EngineError, match="weights were not sent"):
        engine.sync_weights(Incomplete(loaded[0], None), 0)
    assert len(built) == 2
    engine.sync_weights(loaded[0], 0)
    with pytest.raises(EngineError, match="must have 1 to"):
        engine.generate([GenerationRequest("e", (), 0)], GREEDY)
    assert len(built) == 3, "a bad request is no reason to build an engine anew"
    engine.close()


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.1), ("fp16", 0.02)])
def test_half_precision_engines_stay_near_the_trainer(
    kit: SimpleNamespace, loaded: tuple[Any, Any], dtype: Any, bound: float
) -> None:
    model, tokenizer = loaded
    requests = kit.requests(tokenizer, 32)
    engine = make_engine(VllmEngineConfig(dtype=dtype), model, tokenizer, max_slots=32)
    try:
        generations = engine.generate(requests, SamplingParams(max_tokens=40, stop=kit.STOP))
    finally:
        engine.close()
    contexts = [request.token_ids for request in requests]
    ours, theirs = kit.recomputed(model, contexts, generations, 1.0)
    assert 1e-6 < np.abs(ours - theirs).mean() < bound


def with_lora(model: Any, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    )
    adapted = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05)
    return adapted.eval()


@pytest.mark.parametrize("way", ["merged", "adapter"])
def test_lora_policies_are_sent(kit: SimpleNamespace, loaded: tuple[Any, Any], way: Any) -> None:
    pytest.importorskip("peft")
    model, tokenizer = loaded
    if way == "adapter" and not has_trainer_backends():
        with pytest.raises(ValueError, match=r"lora must be merged: adapter needs vLLM 0\.27"):
            make_engine(VllmEngineConfig(lora=way), with_lora(model, 0), tokenizer, max_slots=16)
        return
    requests = long_requests(kit, tokenizer)
    plain = tokens(HfEngine(model, tokenizer), requests)
    policy = with_lora(model, 0)
    engine = make_engine(VllmEngineConfig(lora=way), policy, tokenizer, max_slots=16)
    try:
        for version, seed in enumerate((0, 1), start=1):
            if seed:
                policy.load_state_dict(with_lora(model, seed).state_dict())
            engine.sync_weights(policy, version)
            generations = engine.generate(requests, GREEDY)
            contexts = [request.token_ids for request in requests]
            ours, theirs = kit.recomputed(policy, contexts, generations, 0.0)
            assert np.abs(ours - theirs).max() < 1e-3
            new = [each.token_ids for each in generations]
            assert sum(a != b for a, b in zip(new, plain, strict=True)) >= 6
    finally:
        engine.close()


def test_weights_have_the_names_of_the_checkpoint(loaded: tuple[Any, Any]) -> None:
    pytest.importorskip("peft")
    model = loaded[0]
    plain = {name: tensor for name, tensor, _ in named_weights(model)}
    policy = with_lora(model, 0)
    merged = {name: whole() for name, _, whole in named_weights(policy)}
    assert list(merged) == list(plain) == [name for name, _ in model.named_parameters()]
    unloaded = dict(copy.deepcopy(policy).merge_and_unload().named_parameters())
    for name, tensor in merged.items():
        assert torch.allclose(tensor, unloaded[name], atol=1e-6), name
    wrapped = torch.nn.Module()
    wrapped.module = model
    assert [name for name, _, _ in named_weights(wrapped)] == list(plain)
