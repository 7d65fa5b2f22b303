"""Engines without a model keep to the same rules as those with one."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.scripted import ReplayEngine, ScriptedEngine


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def request(tokenizer: PreTrainedTokenizerFast, text: str, seed: int = 0) -> GenerationRequest:
    return GenerationRequest("a", tuple(tokenizer.encode(text)), seed)


def test_the_script_sees_the_context_and_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine(lambda text, seed: f"{text}/{seed}", tokenizer)
    (generation,) = engine.generate([request(tokenizer, "Zürich", 7)], SamplingParams())
    assert generation.text == "Zürich/7"
    assert generation.logprobs == (0.0,) * len(generation.token_ids)
    assert tokenizer.decode(generation.token_ids) == "Zürich/7"
    assert generation.finish_reason == "eos"
    engine.sync_weights(torch.nn.Linear(1, 1), 1)
    engine.release(["a"])


def test_text_is_cut_as_a_models_would_be(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine(lambda *_: "ab</x>cd", tokenizer)
    (stopped,) = engine.generate([request(tokenizer, "q")], SamplingParams(stop=("</x>", "cd")))
    assert (stopped.text, stopped.finish_reason, len(stopped.token_ids)) == ("ab</x>", "stop", 6)
    (cut,) = engine.generate([request(tokenizer, "q")], SamplingParams(max_tokens=3))
    assert (cut.text, cut.finish_reason) == ("ab<", "length")


def test_replay_gives_texts_in_order_and_says_when_there_are_none(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    engine = ReplayEngine({"a": ["one", "two"]}, tokenizer)
    texts = [engine.generate([request(tokenizer, "q")], SamplingParams())[0].text for _ in range(2)]
    assert texts == ["one", "two"]
    with pytest.raises(EngineError, match="'a' has no text for turn 2"):
        engine.generate([request(tokenizer, "q")], SamplingParams())
    engine.release(["a"])
    assert engine.num_released == 1


def test_a_turn_without_tokens_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine(lambda *_: "", tokenizer)
    with pytest.raises(EngineError, match="at least one token"):
        engine.generate([request(tokenizer, "q")], SamplingParams())
