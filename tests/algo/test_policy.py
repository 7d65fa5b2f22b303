"""Log-probabilities: packed, padded and one by one must agree, for several families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from calibadv_algo.batching import TokenBatch
from calibadv_algo.learner.policy import Policy

VOCAB = 61

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def qwen2(**changes: Any) -> PreTrainedModel:
    return make(Qwen2ForCausalLM, Qwen2Config(**SMALL | changes))


def make(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """A model with weights large enough that attention matters."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model


def make_batch(lengths: tuple[int, ...] = (5, 23, 1, 12, 12), seed: int = 0) -> TokenBatch:
    """Random tokens; about half of them actions, never the first of a sequence."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(length) < 0.5 for length in lengths]
    for mask in masks:
        mask[0] = False
    counts = [int(mask.sum()) for mask in masks]
    total = sum(counts)
    return TokenBatch(
        input_ids=torch.from_numpy(rng.integers(0, VOCAB, sum(lengths))),
        sequence_starts=torch.tensor([0, *np.cumsum(lengths)]),
        action_mask=torch.from_numpy(np.concatenate(masks)),
        advantages=torch.from_numpy(rng.normal(size=total).astype(np.float32)),
        sampling_logprobs=torch.zeros(total),
        sequence=torch.from_numpy(np.repeat(np.arange(len(lengths)), counts)),
        turn=torch.zeros(total, dtype=torch.int64),
    )


@torch.no_grad()
def one_by_one(
    model: PreTrainedModel, batch: TokenBatch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slow way: the whole model on each sequence alone, all logits."""
    logprobs, entropies = [], []
    for start, end in zip(batch.sequence_starts[:-1], batch.sequence_starts[1:], strict=True):
        ids = batch.input_ids[start:end]
        table = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
        for place in batch.action_mask[start:end].nonzero().flatten():
            row = table[place - 1]
            logprobs.append(row[ids[place]])
            entropies.append(-(row.exp() * row).sum())
    return torch.stack(logprobs), torch.stack(entropies)


FAMILIES = {
    "qwen2": (qwen2, True, True),
    "qwen2-window": (
        lambda: qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1),
        True,
        True,
    ),
    "llama": (lambda: make(LlamaForCausalLM, LlamaConfig(**SMALL)), True, True),
    "mistral-window": (
        lambda: make(MistralForCausalLM, MistralConfig(**SMALL, sliding_window=6)),
        True,
        True,
    ),
    "gpt2": (
        lambda: make(GPT2LMHeadModel, GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4)),
        True,
        True,
    ),
    "gemma2-softcap": (
        lambda: make(
            Gemma2ForCausalLM,
            Gemma2Config(
                **SMALL,
                head_dim=8,
                final_logit_softcapping=3.0,
                attn_logit_softcapping=5.0,
                attn_implementation="eager",
            ),
        ),
        False,
        False,
    ),
    "mamba": (
        lambda: make(
            MambaForCausalLM,
            MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4),
        ),
        False,
        True,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_one_sequence_at_a_time(family: str) -> None:
    build, is_packed, has_plain_head = FAMILIES[family]
    model = build()
    before = model.config._attn_implementation
    policy = Policy(model)
    assert (policy.is_packed, policy.has_plain_head) == (is_packed, has_plain_head)
    batch = make_batch()
    logprobs, entropies = policy.logprobs(batch)
    expected, expected_entropies = one_by_one(model, batch)
    assert model.config._attn_implementation == before
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "qwen2-window", "llama", "gpt2"])
def test_packed_and_padded_agree_with_their_gradients(family: str) -> None:
    model = FAMILIES[family][0]()
    batch = make_batch()
    results = []
    for packing in ("packed", "padded"):
        policy = Policy(model, packing=packing)  # type: ignore[arg-type]
        model.zero_grad()
        logprobs, entropies = policy.logprobs(batch, 0.7, has_entropy_grad=True)
        (logprobs * batch.advantages + 0.1 * entropies).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((logprobs.detach(), entropies.detach(), gradient))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    policy = Policy(qwen2(), packing="packed")
    batch = make_batch((9, 9, 9))
    changed = make_batch((9, 9, 9), seed=0)
    changed.input_ids[:9] = (changed.input_ids[:9] + 1) % VOCAB
    ours = policy.logprobs(batch)[0]
    theirs = policy.logprobs(changed)[0]
    is_other = batch.sequence > 0
    assert torch.equal(ours[is_other], theirs[is_other])
    assert not torch.allclose(ours[~is_other], theirs[~is_other])


def test_temperature_divides_the_logits() -> None:
    model = qwen2()
    batch = make_batch()
    expected = one_by_one(model, batch, 0.5)[0]
    torch.testing.assert_close(Policy(model).logprobs(batch, 0.5)[0], expected, atol=1e-5, rtol=0)
    greedy = Policy(model).logprobs(batch, 0.0)[0]
    assert torch.equal(greedy, Policy(model).logprobs(batch, 1.0)[0])


def test_small_blocks_of_logits_change_nothing() -> None:
    model = qwen2()
    batch = make_batch()
    gradients = []
    for limit in (2**26, VOCAB * 7):
        policy = Policy(model, max_logit_elements=limit)
        model.zero_grad()
        logprobs, entropies = policy.logprobs(batch, has_entropy_grad=True)
        (logprobs.sum() - entropies.sum()).backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    batch = make_batch()
    gradients = []
    for is_checkpointing in (False, True):
        model = qwen2(attention_dropout=0.5)
        policy = Policy(model, is_gradient_checkpointing=is_checkpointing)
        assert policy.is_packed
        with policy.packed_attention():
            policy.logprobs(batch)[0].sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


def test_entropies_carry_gradients_only_on_request() -> None:
    policy = Policy(qwen2())
    assert not policy.logprobs(make_batch())[1].requires_grad
    assert policy.logprobs(make_batch(), has_entropy_grad=True)[1].requires_grad


def test_autocast_computes_in_bfloat16_and_scores_in_float32() -> None:
    batch = make_batch()
    exact = Policy(qwen2()).logprobs(batch)[0].detach()
    rough = Policy(qwen2(), autocast_dtype=torch.bfloat16).logprobs(batch)[0].detach()
    assert rough.dtype == torch.float32
    assert 1e-5 < float((rough - exact).abs().max()) < 0.2


def test_packing_can_be_demanded() -> None:
    with pytest.raises(ValueError, match="packing must be 'auto' or 'padded' for Mamba"):
        Policy(FAMILIES["mamba"][0](), packing="packed")


def test_an_action_without_context_is_refused() -> None:
    batch = make_batch()
    batch.action_mask[0] = True
    with pytest.raises(ValueError, match="False on the first token"):
        Policy(qwen2()).logprobs(batch)
    with pytest.raises(ValueError, match="temperature must not be negative"):
        Policy(qwen2()).logprobs(make_batch(), -1.0)
