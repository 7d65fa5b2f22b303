"""Lean forward passes against the modules of the same models, and the choice between the two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)

from calibadv_algo.rollout.engines.hf import lean as lean_module
from calibadv_algo.rollout.engines.hf.columns import (
    ATTENTION_BLOCK,
    PROBED_QUERIES,
    ColumnSteps,
    stable_columns,
)
from calibadv_algo.rollout.engines.hf.kv_cache import SlotCache
from calibadv_algo.rollout.engines.hf.lean import LeanForward, Piece, is_lean

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama3": LlamaConfig(**SIZES, head_dim=12, rope_parameters=LLAMA3),
}


def make(config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_logits_are_those_of_the_model(name: str) -> None:
    model = make(CONFIGS[name])
    assert is_lean(model)
    forward = LeanForward(model)
    forward.refresh()
    with torch.inference_mode():
        tokens = torch.randint(0, 90, (16, 70), generator=torch.Generator().manual_seed(0))
        expected = model(tokens).logits
        cache = SlotCache()
        cache.reserve(16, 96)
        lengths = [20 + 2 * row for row in range(16)]
        halves = [
            [Piece(row, 0, tokens[row, :9].tolist(), 16) for row in range(16)],
            [Piece(row, 9, tokens[row, 9:n].tolist(), 64) for row, n in enumerate(lengths)],
        ]
        for half in halves:
            logits = forward.prefill(cache, half, 16)
            for piece, found in zip(half, logits, strict=True):
                end = piece.start + len(piece.token_ids)
                torch.testing.assert_close(
                    found, expected[piece.row, end - 1], atol=1e-5, rtol=1e-5
                )
        for step in range(3):
            at = torch.tensor(lengths) + step
            rows = torch.arange(16)
            logits = forward.decode(cache, tokens[rows, at], at, at, 64)
            torch.testing.assert_close(logits, expected[rows, at], atol=1e-5, rtol=1e-5)


def test_changed_weights_are_fused_again() -> None:
    model = make(CONFIGS["qwen2"])
    forward = LeanForward(model)

    def logits() -> torch.Tensor:
        forward.refresh()
        cache = SlotCache()
        cache.reserve(1, 16)
        with torch.inference_mode():
            return forward.prefill(cache, [Piece(0, 0, (1, 2, 3), 16)], 16)[0]

    before = logits()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    after = logits()
    assert not torch.allclose(before, after)
    with torch.inference_mode():
        expected = model(torch.tensor([[1, 2, 3]])).logits[0, -1]
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


def test_other_models_keep_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(CONFIGS["llama"])
    assert is_lean(model)
    assert not is_lean(make(GPT2Config(vocab_size=90, n_embd=32, n_layer=1, n_head=2)))
    assert not is_lean(make(CONFIGS["llama"]).to(torch.bfloat16))
    dynamic = SIZES | {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    }
    assert not is_lean(make(LlamaConfig(**dynamic)))
    adapted = make(CONFIGS["llama"])
    adapted.model.layers[0].mlp.up_proj = torch.nn.Sequential(adapted.model.layers[0].mlp.up_proj)
    assert not is_lean(adapted)
    monkeypatch.setattr(lean_module, "MAX_COPIED_BYTES", 1000)
    assert not is_lean(model)


def test_a_hook_is_seen() -> None:
    model = make(CONFIGS["llama"])
    forward = LeanForward(model)
    assert not forward.is_watched()
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert forward.is_watched()
    handle.remove()
    assert not forward.is_watched()


def test_columns_cover_a_context_by_the_least_stable_number() -> None:
    steps = ColumnSteps((16, 32, 192, 384, ATTENTION_BLOCK))
    found = [steps.cover(end) for end in (1, 16, 17, 40, 192, 193, 400, 512, 513, 560, 1024)]
    assert found == [16, 16, 32, 192, 192, 384, 512, 512, 528, 704, 1024]
    assert ColumnSteps(()).cover(217) == 217


@pytest.mark.parametrize("queries", [2, PROBED_QUERIES])
def test_any_stable_number_of_columns_gives_the_same_bits(queries: int) -> None:
    steps = stable_columns(queries, 32, 16)
    assert steps.widths[-1] == ATTENTION_BLOCK
    assert set(steps.widths) >= set(range(16, 129, 16))
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(3, 2, queries, 32, generator=generator)
    key, value = torch.randn(2, 3, 2, ATTENTION_BLOCK, 32, generator=generator)
    for end in (90, 170, 230, 300, 390):
        outputs = []
        for width in (width for width in steps.widths if width >= end):
            hidden = torch.arange(width) >= end
            mask = torch.zeros(width).masked_fill_(hidden, torch.finfo(torch.float32).min)
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    query,
                    key[:, :, :width],
                    value[:, :, :width],
                    attn_mask=mask.expand(queries, -1),
                )
            )
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])
