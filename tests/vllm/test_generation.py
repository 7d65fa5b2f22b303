"""What vLLM samples, against the Hugging Face engine with the same weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine


def test_greedy_turns_are_those_of_the_hugging_face_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    requests = kit.requests(loaded[1], 24)
    params = SamplingParams(temperature=0.0, max_tokens=40, stop=kit.STOP)
    ours = engine.generate(requests, params)
    theirs = HfEngine(*loaded).generate(requests, params)
    assert [each.token_ids for each in ours] == [each.token_ids for each in theirs]
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert [each.finish_reason for each in ours] == [each.finish_reason for each in theirs]
    assert {each.finish_reason for each in ours} >= {"stop"}
    difference = [
        abs(a - b)
        for one, two in zip(ours, theirs, strict=True)
        for a, b in zip(one.logprobs, two.logprobs, strict=True)
    ]
    assert max(difference) < 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logprobs_are_those_of_the_tempered_distribution(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any, temperature: float
) -> None:
    requests = kit.requests(loaded[1], 32)
    params = SamplingParams(temperature=temperature, max_tokens=40, stop=kit.STOP)
    generations = engine.generate(requests, params)
    contexts = [request.token_ids for request in requests]
    ours, theirs = kit.recomputed(loaded[0], contexts, generations, temperature)
    assert len(ours) > 300
    assert np.abs(ours - theirs).max() < 1e-3
    _, other = kit.recomputed(loaded[0], contexts, generations, temperature + 0.5)
    assert np.abs(ours - other).mean() > 0.01, "the test could not see another temperature"


def test_tokens_do_not_depend_on_what_shares_the_batch(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    requests = kit.requests(loaded[1], 40)
    params = SamplingParams(max_tokens=40, stop=kit.STOP)
    together = engine.generate(requests, params)
    alone = [engine.generate([request], params)[0] for request in requests[:6]]
    assert [each.token_ids for each in alone] == [each.token_ids for each in together[:6]]
    reverse = engine.generate(requests[::-1], params)[::-1]
    assert [each.token_ids for each in reverse] == [each.token_ids for each in together]
    other = engine.generate([replace(each, seed=each.seed + 1) for each in requests], params)
    same = sum(a.token_ids == b.token_ids for a, b in zip(other, together, strict=True))
    assert same < 0.75 * len(requests)  # many turns have one likely form


def test_sampling_follows_the_distribution(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    """Frequencies of the first token over many seeds, against the model's probabilities."""
    prompt = kit.prompts(loaded[1], 1)[0]
    with torch.no_grad():
        logits = loaded[0](input_ids=torch.tensor([prompt])).logits[0].float()
    distributions = (logits / 2.0).softmax(-1)
    place = int((distributions > 0.01).sum(-1).argmax())
    expected, ids = distributions[place].numpy(), prompt[: place + 1]
    count = 2048
    requests = [GenerationRequest(str(i), ids, i) for i in range(count)]
    first = [
        each.token_ids[0]
        for each in engine.generate(requests, SamplingParams(temperature=2.0, max_tokens=1))
    ]
    found = np.bincount(first, minlength=len(expected)) / count
    likely = expected > 0.01
    error = np.sqrt(expected * (1 - expected) / count)
    assert likely.sum() > 3
    assert np.all(np.abs(found - expected)[likely] < 4.5 * error[likely])


def test_a_token_that_runs_past_a_stop_string_is_kept(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    model, tokenizer = loaded
    requests = kit.requests(tokenizer, 12)
    greedy = SamplingParams(temperature=0.0, max_tokens=40)
    free = engine.generate(requests, greedy)
    checked = 0
    for request, turn in zip(requests, free, strict=True):
        pieces = [tokenizer.decode([token]) for token in turn.token_ids[:-1]]
        long = next((i for i, piece in enumerate(pieces) if i > 2 and len(piece) > 2), None)
        if long is None:
            continue
        before = "".join(pieces[:long])
        stop = before[-2:] + pieces[long][:2]
        if stop in before + pieces[long][:1]:
            continue
        params = replace(greedy, stop=(stop,))
        (ours,) = engine.generate([request], params)
        (theirs,) = HfEngine(model, tokenizer).generate([request], params)
        assert ours.token_ids == theirs.token_ids == turn.token_ids[: long + 1]
        assert ours.text == theirs.text == before + pieces[long][:2]
        assert len(ours.logprobs) == long + 1
        assert ours.finish_reason == "stop"
        checked += 1
    assert checked >= 3


def test_turns_end_at_eos_at_the_limit_and_at_the_end_of_the_context(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    tokenizer = loaded[1]
    requests = kit.requests(tokenizer, 32)
    for params in (
        SamplingParams(temperature=2.0, max_tokens=60),
        SamplingParams(temperature=0.0, max_tokens=3, stop=kit.STOP),
    ):
        for each in engine.generate(requests, params):
            if each.finish_reason == "eos":
                assert each.token_ids[-1] == tokenizer.eos_token_id
                assert tokenizer.eos_token not in each.text
            else:
                assert each.finish_reason == "length"
                assert len(each.token_ids) == params.max_tokens
    long = GenerationRequest("long", tuple(requests[0].token_ids * 200)[:1020], 1)
    (full,) = engine.generate([long], SamplingParams(temperature=0.0, max_tokens=40))
    assert len(full.token_ids) == 4 or full.finish_reason == "eos"


def test_later_turns_reuse_what_is_cached(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    """Three turns with observations between them: same tokens as without any cache."""
    model, tokenizer = loaded
    params = SamplingParams(temperature=0.0, max_tokens=24, stop=kit.STOP)
    observation = tuple(tokenizer.encode("<information>Doc 1(Title: A) A is in B.</information>\n"))
    contexts = {request.episode_id: request.token_ids for request in kit.requests(tokenizer, 16)}
    engine.sync_weights(model, 0)
    shares = []
    for turn in range(3):
        requests = [GenerationRequest(name, ids, turn) for name, ids in contexts.items()]
        before = replace(engine.counters)
        ours = engine.generate(requests, params)
        reused = engine.counters.num_reused - before.num_reused
        shares.append(reused / (engine.counters.num_prompt - before.num_prompt))
        theirs = HfEngine(model, tokenizer).generate(requests, params)
        assert [each.token_ids for each in ours] == [each.token_ids for each in theirs]
        contexts = {
            request.episode_id: (*request.token_ids, *each.token_ids, *observation)
            for request, each in zip(requests, ours, strict=True)
        }
    assert shares[2] > 0.5
    assert shares[2] > shares[0]


def test_turns_stream(kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any) -> None:
    """Turns that join a running batch give the tokens that they give alone."""
    requests = kit.requests(loaded[1], 20)
    params = SamplingParams(max_tokens=40, stop=kit.STOP)
    expected = {
        request.episode_id: generation
        for request, generation in zip(requests, engine.generate(requests, params), strict=True)
    }
    waiting, found, most = list(requests), {}, 0
    while waiting or engine.num_running:
        if waiting:
            engine.submit([waiting.pop()], params)
        most = max(most, engine.num_running)
        found.update(engine.step())
    assert most > 3
    assert {name: each.token_ids for name, each in found.items()} == {
        name: each.token_ids for name, each in expected.items()
    }
    assert engine.step() == []


def test_a_running_turn_can_be_given_up(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    requests = kit.requests(loaded[1], 3)
    params = SamplingParams(temperature=0.0, max_tokens=40, stop=kit.STOP)
    expected = engine.generate(requests, params)
    engine.submit(requests, params)
    engine.step()
    engine.release(["e1", "unknown"])
    assert engine.num_running == 2
    found: dict[str, Any] = {}
    while engine.num_running:
        found.update(engine.step())
    assert set(found) == {"e0", "e2"}
    assert found["e2"].token_ids == expected[2].token_ids


def test_bad_requests_are_refused_and_nothing_is_lost(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    good, other = kit.requests(loaded[1], 2)
    params = SamplingParams(temperature=0.0, max_tokens=8)
    with pytest.raises(EngineError, match="must have 1 to 1023 tokens, got 0"):
        engine.generate([good, replace(other, token_ids=())], params)
    with pytest.raises(EngineError, match="got 1024"):
        engine.generate([replace(good, token_ids=(5,) * 1024)], params)
    with pytest.raises(EngineError, match="has 0 to 1535"):
        engine.generate([good, replace(other, token_ids=(5, 1536))], params)
    with pytest.raises(EngineError, match="of another episode"):
        engine.generate([good, good], params)
    with pytest.raises(EngineError, match="set up for top_p 1"):
        engine.generate([good], SamplingParams(top_p=0.9))
    with pytest.raises(EngineError, match=r"0\.01 to 2\.0, got 3\.0"):
        engine.generate([good], SamplingParams(temperature=3.0))
    assert engine.num_running == 0
    engine.submit([good], params)
    with pytest.raises(EngineError, match="already runs a turn"):
        engine.submit([good], params)
    with pytest.raises(EngineError, match="must be those of the running turns"):
        engine.submit([other], replace(params, max_tokens=9))
    with pytest.raises(EngineError, match="no turn may run for this, got 1"):
        engine.sync_weights(loaded[0], 1)
    with pytest.raises(EngineError, match="no turn may run for this, got 1"):
        engine.generate([other], params)
    assert engine.num_running == 1
    assert not engine.is_dead
    ended: list[Any] = []
    while engine.num_running:
        ended += engine.step()
    assert [name for name, _ in ended] == ["e0"]
    assert engine.generate([], params) == []
