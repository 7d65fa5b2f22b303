"""Behaviour cloning: the tokenizer, the fresh policy, the loss and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from calibadv_algo.cli.warmstart import WarmStart, name_source, passage_heads, tokenizer_texts
from calibadv_algo.learner.warmstart import (
    TAGS,
    CloningConfig,
    PolicyShape,
    build_policy,
    clone,
    cloning_loss,
    encode_demonstration,
    learning_rate,
    train_tokenizer,
)
from calibadv_env.data.registry import get_dataset

SMALL = PolicyShape(
    vocab_size=400,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=64,
    max_context=256,
)
HEADS = passage_heads(3)
Demonstrations = Callable[[int | None], Iterator[Sequence[Any]]]


@dataclass(frozen=True)
class Piece:
    """Stands in for a segment of a demonstration."""

    text: str
    kind: str


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    toy = get_dataset("toy")
    tasks = toy.tasks("train")
    return train_tokenizer(tokenizer_texts(toy, tasks, name_source(toy, tasks)), 400, HEADS)


@pytest.fixture(scope="module")
def toy_demonstrations() -> Demonstrations:
    toy = get_dataset("toy")
    tasks = toy.tasks("train")
    return WarmStart(dataset="toy")._demonstrations(tasks, name_source(toy, tasks))


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


# The tokenizer


@pytest.mark.parametrize("piece", [*TAGS, *HEADS])
def test_tags_and_heads_are_one_token_wherever_they_stand(
    tokenizer: PreTrainedTokenizerFast, piece: str
) -> None:
    (token,) = ids_of(tokenizer, piece)
    assert ids_of(tokenizer, f"x{piece}y").count(token) == 1
    assert tokenizer.decode([token]) == piece


def test_there_are_eight_tags() -> None:
    assert len(set(TAGS)) == 8
    assert {"<think>", "</information>", "</search>", "<answer>"} <= set(TAGS)


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["1964 " * 50, "1964"]
    trained = train_tokenizer(texts * 50, 300)
    for each in (tokenizer, trained):
        assert len(ids_of(each, "1964")) == 4
        assert len(set(ids_of(each, "1111"))) == 1


@given(st.text(max_size=40))
@example("Łódź, 東京 and 🏔️\n")
@example("  two  spaces ")
@example("a ,b .c 'd n't")
def test_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_vocabulary_is_as_large_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 400
    assert {tokenizer.pad_token, tokenizer.eos_token} == {"<pad>", "<eos>"}
    with pytest.raises(ValueError, match="vocab_size must be at least 269, got 268"):
        train_tokenizer(["a"], 268, HEADS)


def test_the_saved_tokenizer_is_the_same(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    build_policy(SMALL, tokenizer, 0).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think> need river of Łódź 1964</think><information>Doc 2(Title: A) B, c .\n"
    assert loaded.encode(text) == ids_of(tokenizer, text)
    assert loaded.decode(ids_of(tokenizer, text)) == text


# The fresh policy


def test_the_fresh_policy_depends_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_policy(SMALL, tokenizer, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build_policy(SMALL, tokenizer, 0), build_policy(SMALL, tokenizer, 1)
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_shape_is_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    config = build_policy(SMALL, tokenizer, 0).config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 2, 400)
    assert config.tie_word_embeddings
    assert config.eos_token_id == tokenizer.eos_token_id
    small_enough = build_policy(PolicyShape(), tokenizer, 0).num_parameters()
    assert small_enough < 5_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be positive, got 0"),
        ({"max_context": -1}, "max_context must be positive, got -1"),
        ({"hidden_size": 130}, r"hidden_size must be a multiple of twice num_heads \(4\), got 130"),
        ({"num_kv_heads": 3}, r"num_heads must be a multiple of num_kv_heads \(3\), got 4"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyShape(**changes)


# Weights, loss and schedule


def test_each_segment_is_encoded_by_itself_with_its_weight(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    pieces = [
        Piece("Question: a", "prompt"),
        Piece("b<answer>", "action"),
        Piece("c", "observation"),
    ]
    weights = {"prompt": 0.1, "action": 1.0, "observation": 0.3}
    encoded = encode_demonstration(pieces, tokenizer, weights)
    parts = [ids_of(tokenizer, piece.text) for piece in pieces]
    assert list(encoded.input_ids) == [token for part in parts for token in part]
    expected = [weights[p.kind] for p, part in zip(pieces, parts, strict=True) for _ in part]
    assert list(encoded.weights) == expected
    joined = ids_of(tokenizer, "".join(piece.text for piece in pieces))
    assert len(joined) <= len(encoded.input_ids)


def test_the_loss_is_a_weighted_mean() -> None:
    loss = cloning_loss(torch.tensor([-1.0, -2.0, -8.0]), torch.tensor([1.0, 0.5, 0.0]), 1.5)
    assert float(loss) == pytest.approx(2 / 1.5)


def test_the_rate_rises_stays_and_falls() -> None:
    config = CloningConfig(num_steps=100, lr=1.0, warmup_steps=10, decay_from=0.6)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:61] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    for edge in (replace(config, warmup_steps=0), replace(config, decay_from=1.0)):
        assert all(0 < learning_rate(step, edge) <= 1 for step in range(100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be positive, got 0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens must be positive, got 0"),
        ({"prompt_weight": -0.1}, "prompt_weight must not be negative, got -0.1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"decay_from": 1.5}, r"decay_from must be in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CloningConfig(**changes)


# Cloning


def gradients_after_a_step(
    tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[Sequence[Any]], **changes: Any
) -> tuple[torch.Tensor, float]:
    """Gradient and loss of the first step; a huge clipping norm leaves them as they are."""
    model = build_policy(SMALL, tokenizer, 0)
    config = CloningConfig(num_steps=1, batch_size=6, grad_clip=1e9, **changes)
    seen: list[tuple[torch.Tensor, float]] = []

    def on_step(step: int, loss: float, num_tokens: int) -> None:
        flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        seen.append((torch.cat(flat), loss))

    clone(model, tokenizer, lambda hops: iter(demonstrations), config, on_step)
    return seen[0]


def test_micro_batches_give_the_gradient_of_the_whole(
    tokenizer: PreTrainedTokenizerFast, toy_demonstrations: Demonstrations
) -> None:
    items = list(islice(toy_demonstrations(None), 6))
    whole, loss = gradients_after_a_step(tokenizer, items, micro_batch_tokens=100_000)
    for max_tokens in (1, 150):
        parts, parts_loss = gradients_after_a_step(tokenizer, items, micro_batch_tokens=max_tokens)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)
        assert parts_loss == pytest.approx(loss, rel=1e-5)


def test_the_loss_is_that_of_the_model(
    tokenizer: PreTrainedTokenizerFast, toy_demonstrations: Demonstrations
) -> None:
    items = list(islice(toy_demonstrations(None), 6))
    _, loss = gradients_after_a_step(tokenizer, items, observation_weight=0.2, prompt_weight=0.0)
    weights = {"action": 1.0, "observation": 0.2, "prompt": 0.0}
    model = build_policy(SMALL, tokenizer, 0).eval()
    total = mass = 0.0
    for item in items:
        encoded = encode_demonstration(item, tokenizer, weights)
        ids = torch.tensor([encoded.input_ids])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = logprobs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        total -= float((picked * torch.tensor(encoded.weights[1:])).sum())
        mass += sum(encoded.weights[1:])
    assert loss == pytest.approx(total / mass, rel=1e-5)


def test_cloning_learns_the_grammar_of_the_toy_world(
    tokenizer: PreTrainedTokenizerFast, toy_demonstrations: Demonstrations
) -> None:
    model = build_policy(SMALL, tokenizer, 0)
    config = CloningConfig(
        num_steps=40,
        batch_size=6,
        lr=1e-2,
        warmup_steps=3,
        short_steps=5,
        observation_weight=0.0,
        prompt_weight=0.0,
    )
    losses: list[float] = []
    hops: list[int | None] = []

    def source(max_hops: int | None) -> Iterator[Sequence[Any]]:
        hops.append(max_hops)
        return toy_demonstrations(max_hops)

    clone(model, tokenizer, source, config, lambda step, loss, _: losses.append(loss))
    assert hops == [1, None]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.55 * losses[0]
    assert not model.training


def test_each_step_has_the_gradient_of_its_own_batch(
    tokenizer: PreTrainedTokenizerFast, toy_demonstrations: Demonstrations
) -> None:
    items = cycle(list(islice(toy_demonstrations(None), 3)))
    model = build_policy(SMALL, tokenizer, 0)
    config = CloningConfig(num_steps=2, batch_size=3, lr=1e-12, grad_clip=1e9, short_steps=0)
    gradients: list[torch.Tensor] = []

    def on_step(step: int, loss: float, num_tokens: int) -> None:
        flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(flat).clone())

    clone(model, tokenizer, lambda hops: items, config, on_step)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-3)


def test_cloning_is_repeatable(
    tokenizer: PreTrainedTokenizerFast, toy_demonstrations: Demonstrations
) -> None:
    items = list(islice(toy_demonstrations(None), 4))

    def weights() -> torch.Tensor:
        model = build_policy(SMALL, tokenizer, 0)
        config = CloningConfig(num_steps=3, batch_size=2)
        clone(model, tokenizer, lambda hops: cycle(items), config, lambda *_: None)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights())


def test_a_gradient_that_is_not_finite_ends_it(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_policy(SMALL, tokenizer, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = float("nan")
    items = cycle([[Piece("Question: a\n", "prompt"), Piece("<answer> b</answer>", "action")]])
    steps: list[int] = []
    with pytest.raises(FloatingPointError, match="gradient of step 0 is not finite"):
        clone(
            model,
            tokenizer,
            lambda hops: items,
            CloningConfig(num_steps=2, batch_size=2),
            lambda step, *_: steps.append(step),
        )
    assert steps == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ValueError, match="did not write"):
        WarmStart(output_dir=tmp_path).run()
    assert (tmp_path / "letter").read_text() == "dear"
