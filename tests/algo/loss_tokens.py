"""Tokens for tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from calibadv_algo.batching import TokenBatch
from calibadv_algo.losses.base import LossTokens


def loss_tokens(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor | None = None,
    turn: Tensor | None = None,
) -> LossTokens:
    """Tokens of one-token trajectories unless told otherwise; ends of sequences are found."""
    size = len(logprobs)
    sequence = torch.arange(size) if sequence is None else sequence
    turn = torch.zeros(size, dtype=torch.int64) if turn is None else turn
    pairs = list(zip(sequence.tolist(), turn.tolist(), strict=True))
    is_last = [turn == max(t for s, t in pairs if s == own) for own, turn in pairs]
    return LossTokens(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        sampling_logprobs=old_logprobs,
        advantages=advantages,
        sequence=sequence,
        turn=turn,
        is_last_turn=torch.tensor(is_last, dtype=torch.bool),
        sequence_reward=torch.zeros_like(advantages),
    )


def batch_of(tokens: LossTokens) -> TokenBatch:
    """The same tokens as a batch without prompts and observations."""
    count = len(tokens.advantages)
    lengths = torch.bincount(tokens.sequence)
    return TokenBatch(
        input_ids=torch.zeros(count, dtype=torch.int64),
        sequence_starts=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        action_mask=torch.ones(count, dtype=torch.bool),
        advantages=tokens.advantages.float(),
        sampling_logprobs=tokens.old_logprobs.float(),
        sequence=tokens.sequence,
        turn=tokens.turn,
    )
