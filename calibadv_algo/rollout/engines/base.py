"""What a generation engine promises: token ids in, token ids and log-probs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample a turn.

    Attributes:
        temperature: 0 means greedy; log-probs are those of the tempered distribution
            (of the untempered one when greedy).
        top_p: Nucleus mass, 1 for none.
        max_tokens: Most tokens in one turn.
        stop: Strings that end a turn. A token may run past the end of one: it is kept as
            sampled, and ``Generation.text`` ends with the stop string.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, got {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The next turn of one episode.

    Attributes:
        episode_id: Names the episode: an engine may keep state for it between turns.
        token_ids: The whole context so far: prompt, earlier actions as sampled, observations.
        seed: Seed of this turn's sampling; the tokens depend on it and on the context alone,
            not on what shares the batch (up to floating-point rounding).
    """

    episode_id: str
    token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled turn.

    Attributes:
        token_ids: As sampled, the token that completes a stop string (or EOS) included.
        logprobs: One a token, natural log.
        text: The decoded turn, cut at the end of the first stop string, without EOS.
        finish_reason: Why it ended.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rollouts use."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> Any:
        """Text of token ids, a string for one sequence."""
        ...


class GenerationEngine(Protocol):
    """Samples turns for a batch of episodes."""

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Samples one turn for each request, in order.

        Raises:
            EngineError: if a context is too long for the model or the engine failed.
        """
        ...

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops whatever is kept for these episodes; unknown ids are ignored."""
        ...

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Takes over the trainer's weights; everything cached under the old ones is dropped."""
        ...
