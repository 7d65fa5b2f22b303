"""The engine against plain forward passes of the same model, and the ends of turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import calibadv_algo
from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine

EOS, PAD = 0, 1
LIMIT = 256


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, a few merges, and <answer> as one special token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<eos>", "<pad>", "<answer>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(["</search> </search> the search the end>x"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<answer>"],
    )


def config_of(family: str, vocab_size: int) -> PreTrainedConfig:
    common: dict[str, Any] = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": EOS}
    llama = common | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": LIMIT,
        "initializer_range": 0.2,
    }
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LIMIT}
        return GPT2Config(**common, **sizes, initializer_range=0.2)
    kinds = {"qwen2": Qwen2Config, "llama": LlamaConfig, "mistral": MistralConfig}
    return kinds[family](**llama)


def make_model(family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config_of(family, len(tokenizer))).eval()


def plain_logprobs(
    model: PreTrainedModel, context: Sequence[int], sampled: Sequence[int], temperature: float
) -> np.ndarray[Any, Any]:
    """The oracle: one forward pass over everything, without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *sampled]])).logits[0].float()
    table = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    rows = range(len(context) - 1, len(context) + len(sampled) - 1)
    return np.array([table[row, token] for row, token in zip(rows, sampled, strict=True)])


def random_contexts(count: int, vocab_size: int, seed: int = 0) -> dict[str, tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    contexts = {
        f"e{i}": tuple(rng.integers(2, vocab_size, rng.integers(3, 30)).tolist())
        for i in range(count)
    }
    for twin in ("e3", "e5"):
        contexts[twin] = contexts["e0"]
    return contexts


def play(
    engine: HfEngine,
    contexts: dict[str, tuple[int, ...]],
    temperatures: Sequence[float],
    vocab_size: int,
) -> Iterator[tuple[tuple[int, ...], Generation, float]]:
    """Several turns of ragged episodes, some of which end early."""
    rng = np.random.default_rng(1)
    contexts = dict(contexts)
    for turn, temperature in enumerate(temperatures):
        requests = [
            GenerationRequest(name, ids, 100 * turn + i)
            for i, (name, ids) in enumerate(contexts.items())
        ]
        params = SamplingParams(temperature=temperature, max_tokens=20, stop=("e", "</search>"))
        for request, generation in zip(requests, engine.generate(requests, params), strict=True):
            yield request.token_ids, generation, temperature
            observed = rng.integers(2, vocab_size, rng.integers(3, 30)).tolist()
            contexts[request.episode_id] = (
                *request.token_ids,
                *generation.token_ids,
                *observed,
            )
        for name in list(contexts)[1:3]:
            engine.release([name])
            del contexts[name]


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "gpt2"])
@pytest.mark.parametrize("max_slots", [32, 5])
def test_logprobs_equal_a_plain_forward_pass(
    family: str, max_slots: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model(family, tokenizer)
    engine = HfEngine(model, tokenizer, max_slots=max_slots, max_prefill_tokens=64)
    lengths = []
    for context, generation, temperature in play(
        engine, random_contexts(11, len(tokenizer)), (1.0, 0.7, 1.3, 0.0), len(tokenizer)
    ):
        oracle = plain_logprobs(model, context, generation.token_ids, temperature)
        np.testing.assert_allclose(generation.logprobs, oracle, atol=1e-4)
        lengths.append(len(generation.token_ids))
    assert len(set(lengths)) > 3
    assert max(lengths) <= 20


@pytest.mark.parametrize("compact_share", [0.0, 0.3, 1.0])
def test_tokens_depend_on_seed_and_context_alone(
    compact_share: float, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("qwen2", tokenizer)
    together = HfEngine(model, tokenizer, compact_share=compact_share)
    waves = HfEngine(model, tokenizer, max_slots=3, compact_share=compact_share)
    contexts = random_contexts(9, len(tokenizer))
    params = SamplingParams(max_tokens=16, stop=("e",), top_p=0.9)
    requests = [GenerationRequest(name, ids, len(name)) for name, ids in contexts.items()]
    alone = [
        HfEngine(model, tokenizer).generate([request], params)[0].token_ids for request in requests
    ]
    assert [g.token_ids for g in together.generate(requests, params)] == alone
    assert [g.token_ids for g in waves.generate(requests, params)] == alone
    twins = {
        g.token_ids
        for request, g in zip(requests, together.generate(requests, params), strict=True)
        if request.token_ids == contexts["e0"]
    }
    assert len(twins) == 1
    other = [GenerationRequest(r.episode_id, r.token_ids, r.seed + 1) for r in requests]
    assert [g.token_ids for g in together.generate(other, params)] != alone


def test_only_new_tokens_are_computed(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = HfEngine(make_model("qwen2", tokenizer), tokenizer)
    params = SamplingParams(max_tokens=6)
    contexts = [(5, 6, 7, 8), (9, 10, 11), (5, 6, 7, 8)]
    requests = [GenerationRequest(str(i), ids, i) for i, ids in enumerate(contexts)]
    first = engine.generate(requests, params)
    assert engine.counters.num_prefilled == 4 + 3
    longer = [
        GenerationRequest(r.episode_id, (*r.token_ids, *g.token_ids, 20, 21), r.seed)
        for r, g in zip(requests, first, strict=True)
    ]
    engine.generate(longer, params)
    assert engine.counters.num_prefilled == 4 + 3 + 3 * (1 + 2)
    engine.release(["0", "unknown"])
    engine.generate(longer[:1], params)
    assert engine.counters.num_prefilled == 16 + len(longer[0].token_ids)


def test_a_long_common_beginning_is_computed_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama", tokenizer)
    engine = HfEngine(model, tokenizer)
    beginning = tuple(range(10, 60))
    requests = [GenerationRequest(str(i), (*beginning, 70 + i, 9), i) for i in range(4)]
    for request, generation in zip(
        requests, engine.generate(requests, SamplingParams(max_tokens=5)), strict=True
    ):
        oracle = plain_logprobs(model, request.token_ids, generation.token_ids, 1.0)
        np.testing.assert_allclose(generation.logprobs, oracle, atol=1e-4)
    assert engine.counters.num_prefilled == 50 + 4 * 2


def test_a_changed_context_is_computed_from_the_change(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model("qwen2", tokenizer)
    engine = HfEngine(model, tokenizer)
    params = SamplingParams(max_tokens=8)
    engine.generate([GenerationRequest("a", (5, 6, 7, 8, 9, 10), 0)], params)
    for changed in ((5, 6, 7, 99, 9, 10, 11), (5, 6), (40, 41, 42)):
        (generation,) = engine.generate([GenerationRequest("a", changed, 1)], params)
        oracle = plain_logprobs(model, changed, generation.token_ids, 1.0)
        np.testing.assert_allclose(generation.logprobs, oracle, atol=1e-4)


def test_ended_rows_are_not_computed(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = HfEngine(make_model("qwen2", tokenizer), tokenizer, compact_share=0.0, align=1)
    contexts = random_contexts(12, len(tokenizer))
    requests = [GenerationRequest(name, ids, i) for i, (name, ids) in enumerate(contexts.items())]
    generations = engine.generate(requests, SamplingParams(max_tokens=30, stop=("e", "s", "t")))
    lengths = [len(g.token_ids) for g in generations]
    assert max(lengths) > min(lengths)
    assert engine.counters.num_decode_rows == sum(lengths) - len(lengths)


Sampled = dict[tuple[int, int], tuple[tuple[int, ...], tuple[float, ...]]]


def stream(
    engine: HfEngine,
    num_episodes: int,
    at_once: int,
    vocab_size: int,
    num_turns: int = 3,
    longest: int = 25,
) -> Sampled:
    """Plays episodes of their own pace, so many at one time."""
    params = SamplingParams(max_tokens=12, stop=("e", "</search>"), top_p=0.9)
    waiting, sampled = list(range(num_episodes)), Sampled()
    turns = dict.fromkeys(waiting, 0)
    contexts: dict[int, tuple[int, ...]] = {}

    def piece(episode: int, turn: int) -> tuple[int, ...]:
        rng = np.random.default_rng([episode // 2 if turn == 0 else episode, turn])
        return tuple(rng.integers(2, vocab_size, rng.integers(5, longest)).tolist())

    def submit(episode: int) -> None:
        seed = 100 * episode + turns[episode]
        engine.submit([GenerationRequest(str(episode), contexts[episode], seed)], params)

    while waiting or contexts:
        while waiting and len(contexts) < at_once:
            contexts[waiting[0]] = piece(waiting[0], 0)
            submit(waiting.pop(0))
        for name, generation in engine.step():
            episode = int(name)
            sampled[episode, turns[episode]] = generation.token_ids, generation.logprobs
            turns[episode] += 1
            if turns[episode] == num_turns:
                engine.release([name])
                del contexts[episode]
                continue
            contexts[episode] += generation.token_ids + piece(episode, turns[episode])
            submit(episode)
    assert engine.num_running == 0
    return sampled


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_turn_is_the_same_to_the_bit_whatever_shares_its_batch(
    family: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model(family, tokenizer)
    alone = stream(HfEngine(model, tokenizer), 12, 1, len(tokenizer))
    assert len({len(ids) for ids, _ in alone.values()}) > 3
    for at_once, compact_share in ((5, 0.125), (12, 1.0)):
        engine = HfEngine(model, tokenizer, compact_share=compact_share)
        assert stream(engine, 12, at_once, len(tokenizer)) == alone
    loose = stream(HfEngine(model, tokenizer, align=1), 12, 12, len(tokenizer))
    assert loose != alone


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_atlas_policy_is_the_same_to_the_bit_at_any_length(threads: int) -> None:
    path = Path(calibadv_algo.__file__).parent / "learner" / "assets" / "atlas_policy"
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        settings = {"vocab_size": model.config.vocab_size, "num_turns": 6, "longest": 220}
        alone = stream(HfEngine(model, tokenizer), 20, 1, **settings)
        assert stream(HfEngine(model, tokenizer), 20, 20, **settings) == alone
        assert stream(HfEngine(model, tokenizer), 20, 6, **settings) == alone
    finally:
        torch.set_num_threads(before)


def test_turns_join_the_running_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", tokenizer)
    engine = HfEngine(model, tokenizer, max_slots=3)
    params = SamplingParams(max_tokens=9)
    contexts = [tuple(range(5 + i, 12 + 2 * i)) for i in range(5)]
    requests = [GenerationRequest(str(i), ids, i) for i, ids in enumerate(contexts)]
    done: dict[str, Generation] = {}
    engine.submit(requests[:2], params)
    for _ in range(4):
        done |= engine.step()
    assert (done, engine.num_running) == ({}, 2)
    engine.submit(requests[2:], params)
    assert engine.num_running == 5
    while engine.num_running:
        done |= engine.step()
    assert list(done) == ["0", "1", "2", "3", "4"]
    for i, context in enumerate(contexts):
        generation = done[str(i)]
        oracle = plain_logprobs(model, context, generation.token_ids, 1.0)
        np.testing.assert_allclose(generation.logprobs, oracle, atol=1e-4)
    assert engine.step() == []


def test_a_running_turn_can_be_given_up(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", tokenizer)
    engine = HfEngine(model, tokenizer, max_slots=2)
    params = SamplingParams(max_tokens=8)
    requests = [GenerationRequest(str(i), (5, 6, 7 + i), i) for i in range(4)]
    (expected,) = HfEngine(model, tokenizer).generate(requests[3:], params)
    engine.submit(requests, params)
    engine.step()
    engine.release(["0", "2", "unknown"])
    assert engine.num_running == 2
    done: dict[str, Generation] = {}
    while engine.num_running:
        done |= engine.step()
    assert sorted(done) == ["1", "3"]
    assert done["3"] == expected
    engine.submit(requests[:1], params)
    assert engine.num_running == 1


def test_turns_that_cannot_run_are_not_queued(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", tokenizer)
    engine = HfEngine(model, tokenizer, max_context=16)
    params = SamplingParams(max_tokens=4)
    good, long = GenerationRequest("a", (5, 6), 0), GenerationRequest("b", (5,) * 16, 0)
    with pytest.raises(EngineError, match="1 to 15 tokens, got 16"):
        engine.submit([good, long], params)
    assert engine.num_running == 0
    engine.submit([good], params)
    with pytest.raises(EngineError, match="'a' already runs a turn"):
        engine.submit([good], params)
    with pytest.raises(EngineError, match="params must be those of the running turns"):
        engine.submit([GenerationRequest("c", (5,), 0)], SamplingParams(max_tokens=5))
    with pytest.raises(EngineError, match="no turn may run for this, got 1"):
        engine.sync_weights(model, 1)
    with pytest.raises(EngineError, match="no turn may run for this, got 1"):
        engine.generate([GenerationRequest("c", (5,), 0)], params)
    assert engine.num_running == 1


@contextmanager
def writing(model: PreTrainedModel, token_ids: Sequence[int], start: int) -> Iterator[None]:
    """Makes the model write these tokens from position ``start`` on, whatever it reads."""

    def force(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        for row, position in enumerate(kwargs["position_ids"][:, -1].tolist()):
            index = min(position + 1 - start, len(token_ids) - 1)
            output.logits[row, -1] = -50.0
            output.logits[row, -1, token_ids[index]] = 50.0
        return output

    handle = model.register_forward_hook(force, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def write(
    tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int], params: SamplingParams
) -> Generation:
    model = make_model("qwen2", tokenizer)
    with writing(model, token_ids, start=3):
        (generation,) = HfEngine(model, tokenizer).generate(
            [GenerationRequest("a", (5, 6, 7), 0)], params
        )
    return generation


def byte_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """One token a byte, as an untrained byte-level tokenizer would cut it."""
    alphabet = {i: tokenizer.convert_ids_to_tokens(i) for i in range(3, 259)}
    ids = {tokenizer.decode([i]): i for i in alphabet}
    if text.isascii():
        return [ids[character] for character in text]
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((mapped, _),) = pieces.pre_tokenize_str(text)
    return [int(tokenizer.convert_tokens_to_ids(character)) for character in mapped]


@pytest.mark.parametrize("stop", ["</search>", "é", "→", "ch>", " end"])
def test_a_stop_string_is_found_across_tokens(
    stop: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = byte_tokens(tokenizer, "so: é"[:4] + stop)
    params = SamplingParams(max_tokens=40, stop=("never", stop))
    generation = write(tokenizer, [*ids, *byte_tokens(tokenizer, "zzz")], params)
    assert generation.token_ids == tuple(ids)
    assert generation.text == "so: " + stop
    assert generation.finish_reason == "stop"


def test_a_token_may_run_past_a_stop_string(tokenizer: PreTrainedTokenizerFast) -> None:
    crossing = int(tokenizer.convert_tokens_to_ids("the"))
    assert tokenizer.decode([crossing]) == "the"
    ids = [*byte_tokens(tokenizer, "on "), crossing]
    generation = write(tokenizer, [*ids, 9, 9], SamplingParams(max_tokens=9, stop=("n th",)))
    assert generation.token_ids == tuple(ids)
    assert generation.text == "on th"
    assert generation.finish_reason == "stop"


def test_special_tokens_are_visible_but_eos_and_pad_are_not(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    answer = int(tokenizer.convert_tokens_to_ids("<answer>"))
    ids = [answer, PAD, *byte_tokens(tokenizer, "Zürich"), EOS]
    generation = write(tokenizer, ids, SamplingParams(max_tokens=40, stop=("</search>",)))
    assert generation.token_ids == tuple(ids)
    assert generation.text == "<answer>Zürich"
    assert generation.finish_reason == "eos"
    assert len(generation.logprobs) == len(ids)
    stopped = write(tokenizer, ids, SamplingParams(max_tokens=40, stop=("<answer>",)))
    assert (stopped.token_ids, stopped.finish_reason) == ((answer,), "stop")


def test_length_ends_a_turn_at_the_token_or_the_context_limit(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model("gpt2", tokenizer)
    ids = byte_tokens(tokenizer, "abcdefghijkl")
    with writing(model, ids, start=3):
        engine = HfEngine(model, tokenizer, max_context=10)
        (short,) = engine.generate([GenerationRequest("a", (5, 6, 7), 0)], SamplingParams())
        (cut,) = engine.generate(
            [GenerationRequest("a", (5, 6, 7), 0)], SamplingParams(max_tokens=2)
        )
    assert (short.text, short.finish_reason) == ("abcdefg", "length")
    assert (cut.text, cut.finish_reason) == ("ab", "length")


def test_an_ended_row_at_the_context_limit_can_wait_for_the_others(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model("gpt2", tokenizer)
    engine = HfEngine(model, tokenizer, compact_share=1.0)
    contexts = [(7,) * (LIMIT - 2), (5, 6, 7)]
    requests = [GenerationRequest(str(i), ids, i) for i, ids in enumerate(contexts)]
    full, short = engine.generate(requests, SamplingParams(max_tokens=20))
    assert (len(full.token_ids), len(short.token_ids)) == (2, 20)
    oracle = plain_logprobs(model, contexts[1], short.token_ids, 1.0)
    np.testing.assert_allclose(short.logprobs, oracle, atol=1e-4)


def test_new_weights_drop_what_was_computed(tokenizer: PreTrainedTokenizerFast) -> None:
    model, other = make_model("qwen2", tokenizer), make_model("qwen2", tokenizer, seed=5)
    engine = HfEngine(model, tokenizer)
    params = SamplingParams(max_tokens=8)
    request = GenerationRequest("a", tuple(range(5, 30)), 3)
    (before,) = engine.generate([request], params)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    engine.sync_weights(model, 1)
    assert engine.memory_bytes == 0
    (after,) = engine.generate([request], params)
    oracle = plain_logprobs(model, request.token_ids, after.token_ids, 1.0)
    np.testing.assert_allclose(after.logprobs, oracle, atol=1e-4)
    assert after.logprobs != before.logprobs
    engine.sync_weights(other, 2)
    (third,) = engine.generate([request], params)
    oracle = plain_logprobs(other, request.token_ids, third.token_ids, 1.0)
    np.testing.assert_allclose(third.logprobs, oracle, atol=1e-4)
    assert engine.version == 2


def test_modes_and_gradients_are_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", tokenizer).train()
    model.lm_head.eval()
    engine = HfEngine(model, tokenizer)
    engine.generate([GenerationRequest("a", (5, 6), 0)], SamplingParams(max_tokens=2))
    assert model.training
    assert not model.lm_head.training
    loss = model(torch.tensor([[5, 6, 7]])).logits.sum()
    loss.backward()
    assert torch.is_grad_enabled()


def test_bfloat16_stays_near_its_plain_forward_pass(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", tokenizer).to(torch.bfloat16)
    engine = HfEngine(model, tokenizer)
    contexts = random_contexts(7, len(tokenizer))
    errors = [
        np.abs(np.array(g.logprobs) - plain_logprobs(model, context, g.token_ids, t)).mean()
        for context, g, t in play(engine, contexts, (1.0, 1.0), len(tokenizer))
    ]
    assert max(errors) < 0.2


def test_bad_requests_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = HfEngine(make_model("qwen2", tokenizer), tokenizer, max_context=8)
    params = SamplingParams(max_tokens=2)
    assert engine.generate([], params) == []
    with pytest.raises(EngineError, match="1 to 7 tokens, got 8"):
        engine.generate([GenerationRequest("a", (5,) * 8, 0)], params)
    with pytest.raises(EngineError, match="got 0"):
        engine.generate([GenerationRequest("a", (), 0)], params)
    twice = [GenerationRequest("a", (5,), 0), GenerationRequest("a", (6,), 0)]
    with pytest.raises(EngineError, match="another episode"):
        engine.generate(twice, params)


def test_a_failing_model_is_an_engine_error_and_leaves_nothing_behind(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model("qwen2", tokenizer)
    engine = HfEngine(model, tokenizer)
    request = GenerationRequest("a", (5, 6, 7), 0)
    (expected,) = engine.generate([request], SamplingParams(max_tokens=4))

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = model.register_forward_hook(fail)
    with pytest.raises(EngineError, match="out of memory"):
        engine.generate([request], SamplingParams(max_tokens=4))
    handle.remove()
    assert engine.memory_bytes == 0
    assert engine.generate([request], SamplingParams(max_tokens=4)) == [expected]


def test_models_of_another_kind_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    ids = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    mamba = MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, **ids)
    bloom = BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2, **ids)
    for config in (mamba, bloom):
        with pytest.raises(ValueError, match="model must"):
            HfEngine(AutoModelForCausalLM.from_config(config), tokenizer, max_context=64)
    window = config_of("mistral", size)
    window.sliding_window = 16
    model = AutoModelForCausalLM.from_config(window)
    with pytest.raises(ValueError, match="sliding window 16, got 17"):
        HfEngine(model, tokenizer, max_context=17)
    HfEngine(model, tokenizer, max_context=16)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_slots", 0),
        ("max_context", LIMIT + 1),
        ("max_prefill_tokens", 0),
        ("compact_share", 2),
        ("align", 0),
    ],
)
def test_settings_are_checked(setting: str, value: int, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be .*, got {value}"):
        HfEngine(make_model("qwen2", tokenizer), tokenizer, **{setting: value})
