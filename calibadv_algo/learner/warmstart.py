"""Behaviour cloning of scripted demonstrations into a small causal language model.

The result is a policy to start reinforcement learning from: it writes well-formed turns and
copies names, and it has the faults of the script that it was cloned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.batching import TokenBatch
from calibadv_algo.learner.policy import Policy
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE, Checked

TAGS: tuple[str, ...] = tuple(
    f"<{slash}{tag}>" for tag in ("think", "search", "information", "answer") for slash in ("", "/")
)
"""Tags of the action grammar, one token each."""


CONTROL_TOKENS: tuple[str, ...] = ("<pad>", "<eos>")
"""Tokens that stand for no text: padding and the end."""


class Segment(Protocol):
    """A piece of a demonstration: some text, and who wrote it."""

    @property
    def text(self) -> str:
        """Exactly as the policy would have written or read it."""
        ...

    @property
    def kind(self) -> str:
        """``prompt``, ``action`` or ``observation``."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyShape(Checked):
    """Size of the policy, a Qwen2-style decoder with tied embeddings."""

    vocab_size: int = 1536
    """Tokens of the byte-pair vocabulary, tags and control tokens included."""
    hidden_size: Annotated[int, POSITIVE] = 128
    """Width of the residual stream."""
    num_layers: Annotated[int, POSITIVE] = 4
    """Decoder layers."""
    num_heads: Annotated[int, POSITIVE] = 4
    """Attention heads."""
    num_kv_heads: Annotated[int, POSITIVE] = 2
    """Key and value heads."""
    intermediate_size: Annotated[int, POSITIVE] = 384
    """Width of the feed-forward layer."""
    max_context: Annotated[int, POSITIVE] = 1024
    """Longest context in tokens."""

    def __post_init__(self) -> None:
        """Checks ranges, and that the sizes fit together."""
        Checked.__post_init__(self)
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads ({self.num_heads}), "
                f"got {self.hidden_size}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads ({self.num_kv_heads}), "
                f"got {self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class CloningConfig(Checked):
    """Settings of behaviour cloning."""

    num_steps: Annotated[int, POSITIVE] = 1200
    """Optimiser steps."""
    batch_size: Annotated[int, POSITIVE] = 24
    """Demonstrations a step."""
    lr: Annotated[float, POSITIVE] = 3e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 100
    """Steps of linear warm-up."""
    decay_from: Annotated[float, FRACTION] = 0.6
    """Share of the steps after which the rate falls linearly to 5 % of its peak."""
    short_steps: Annotated[int, NOT_NEGATIVE] = 200
    """Steps at the start that see one-hop demonstrations only."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """AdamW weight decay."""
    grad_clip: Annotated[float, POSITIVE] = 1.0
    """Largest gradient norm."""
    observation_weight: Annotated[float, NOT_NEGATIVE] = 0.3
    """Loss weight of observation tokens; action tokens weigh 1."""
    prompt_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Loss weight of prompt tokens."""
    micro_batch_tokens: Annotated[int, POSITIVE] = 1200
    """Tokens of one forward and backward pass; changes speed alone."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the initial weights and of the order of demonstrations."""


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, phrases: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE in which digits stand alone and each tag is one token.

    Args:
        texts: What the policy will read and write, tags excluded.
        vocab_size: Size of the whole vocabulary, control tokens, tags and phrases included.
        phrases: Fixed pieces of text, such as the heads of passages, that become one token each.

    Returns:
        A Hugging Face tokenizer that adds no special tokens of its own.

    Raises:
        ValueError: if the vocabulary is too small for the bytes and the fixed tokens.
    """
    least = len(CONTROL_TOKENS) + len(TAGS) + len(phrases) + 256
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least}, got {vocab_size}")
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS) - len(phrases),
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in (*TAGS, *phrases)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        pad_token=CONTROL_TOKENS[0],
        eos_token=CONTROL_TOKENS[1],
        clean_up_tokenization_spaces=False,
    )


def build_policy(
    shape: PolicyShape, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """Creates a policy with fresh weights; the global generator is left as it was."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


@dataclass(frozen=True, slots=True)
class ClonedTokens:
    """A demonstration in tokens.

    Attributes:
        input_ids: Token ids.
        weights: Loss weight of each token.
    """

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode_demonstration(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerFast, weights: Mapping[str, float]
) -> ClonedTokens:
    """Encodes each segment by itself, as rollouts do.

    Args:
        segments: The episode.
        tokenizer: Of the policy.
        weights: Loss weight of each kind of segment.

    Returns:
        Tokens and their weights.
    """
    ids: list[int] = []
    token_weights: list[float] = []
    for segment in segments:
        encoded = tokenizer.encode(segment.text, add_special_tokens=False)
        ids += encoded
        token_weights += [weights[segment.kind]] * len(encoded)
    return ClonedTokens(tuple(ids), tuple(token_weights))


def learning_rate(step: int, config: CloningConfig) -> float:
    """Linear warm-up, a plateau, then linear decay to 5 % of the peak."""
    done = step / config.num_steps
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if done > config.decay_from:
        rate *= max(0.05, (1 - done) / (1 - config.decay_from))
    return rate


def cloning_loss(
    logprobs: Float[Tensor, " token"], weights: Float[Tensor, " token"], total_weight: float
) -> Float[Tensor, ""]:
    """Weighted negative log-likelihood of demonstrated tokens, over a given total weight."""
    return -(logprobs * weights).sum() / total_weight


def _as_batch(items: Sequence[ClonedTokens]) -> tuple[TokenBatch, Float[Tensor, " token"]]:
    """A batch that scores every token but the first of each sequence, and the weights."""
    lengths = np.array([len(item.input_ids) for item in items])
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    tokens = torch.tensor([i for item in items for i in item.input_ids], dtype=torch.int64)
    weights = torch.tensor([w for item in items for w in item.weights])
    is_scored = torch.ones(len(tokens), dtype=torch.bool)
    is_scored[starts[:-1]] = False
    count = int(is_scored.sum())
    batch = TokenBatch(
        input_ids=tokens,
        sequence_starts=starts,
        action_mask=is_scored,
        advantages=torch.zeros(count),
        sampling_logprobs=torch.zeros(count),
        sequence=torch.from_numpy(np.repeat(np.arange(len(items)), lengths - 1)),
        turn=torch.zeros(count, dtype=torch.int64),
    )
    return batch, weights[is_scored]


def _micro_batches(items: Sequence[ClonedTokens], max_tokens: int) -> Iterator[list[ClonedTokens]]:
    """Neighbours within a token budget; a longer item comes alone."""
    part: list[ClonedTokens] = []
    room = max_tokens
    for item in items:
        if part and len(item.input_ids) > room:
            yield part
            part, room = [], max_tokens
        part.append(item)
        room -= len(item.input_ids)
    if part:
        yield part


def clone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    demonstrations: Callable[[int | None], Iterator[Sequence[Segment]]],
    config: CloningConfig,
    on_step: Callable[[int, float, int], None],
) -> None:
    """Trains a policy to imitate demonstrations.

    Args:
        model: Changed in place.
        tokenizer: Of the policy.
        demonstrations: Endless source of episodes of at most so many hops (None for all).
        config: How to train.
        on_step: Called after each step with its number, the loss and the tokens that it saw.
    """
    kinds = {
        "action": 1.0,
        "observation": config.observation_weight,
        "prompt": config.prompt_weight,
    }
    policy = Policy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    source = demonstrations(1)
    for step in range(config.num_steps):
        if step == config.short_steps:
            source = demonstrations(None)
        items = [
            encode_demonstration(next(source), tokenizer, kinds) for _ in range(config.batch_size)
        ]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        total_weight = sum(sum(item.weights[1:]) for item in items)
        optimizer.zero_grad()
        loss = 0.0
        for part in _micro_batches(items, config.micro_batch_tokens):
            batch, weights = _as_batch(part)
            logprobs, _ = policy.logprobs(batch, temperature=1.0)
            part_loss = cloning_loss(logprobs, weights, total_weight)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(part_loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"the gradient of step {step} is not finite")
        optimizer.step()
        on_step(step, loss, sum(len(item.input_ids) for item in items))
    model.eval()  # type: ignore[no-untyped-call]
