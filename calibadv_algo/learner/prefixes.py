"""Sequences as trees of tokens: a prefix that several of them begin with is computed once.

The episodes of a question share its prompt, and where a policy is sure of itself also queries and
passages. Each token's state depends on what stands before it alone, so sequences with a common
prefix have the same states there, and the gradients of both go through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from calibadv_algo.batching import TokenBatch, select_sequences

MIN_SHARED: Final = 8
"""Tokens that a prefix must have to be shared: a beginning that all sequences have, such as one
special token, would join all trees, and attention within a tree costs its size squared."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixForest:
    """Trees of the tokens of a batch.

    Attributes:
        node_of: Node of each token of the batch.
        tokens: A place in the batch where each node's token stands.
        depths: Position of each node in the sequences that go through it.
        masks: For each tree, which nodes (columns) each of its nodes (rows) attends to. The nodes
            of a tree lie together, in the order of the trees.
    """

    node_of: Int[Tensor, " position"]
    tokens: Int[Tensor, " node"]
    depths: Int[Tensor, " node"]
    masks: tuple[Bool[Tensor, "_ _"], ...]


def plant(batch: TokenBatch, min_shared: int = MIN_SHARED) -> PrefixForest:
    """Lays the sequences of a batch into trees.

    Args:
        batch: At least one sequence.
        min_shared: Shortest prefix that is shared.
    """
    starts = batch.row_starts.tolist()
    rows = [batch.input_ids[a:b].tolist() for a, b in pairwise(starts)]
    node_of = torch.empty(len(batch.input_ids), dtype=torch.int64)
    tokens, depths = [], []
    masks: list[Tensor] = []
    paths: list[tuple[Tensor, int]] = []  # nodes of a sequence, and how many it shares
    first, size, path = 0, 0, torch.empty(0, dtype=torch.int64)
    before: list[int] = []
    for index in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[index]
        shared = _common(before, row)
        if shared < min_shared:
            if paths:
                masks.append(_mask(paths, first, size))
            first, size, paths, shared = first + size, 0, [], 0
        new = torch.arange(first + size, first + size + len(row) - shared)
        path = torch.cat([path[:shared], new])
        node_of[starts[index] : starts[index + 1]] = path
        tokens.append(torch.arange(starts[index] + shared, starts[index + 1]))
        depths.append(torch.arange(shared, len(row)))
        paths.append((path, shared))
        size += len(new)
        before = row
    masks.append(_mask(paths, first, size))
    return PrefixForest(node_of, torch.cat(tokens), torch.cat(depths), tuple(masks))


def split_by_nodes(batch: TokenBatch, max_tokens: int) -> list[TokenBatch]:
    """Cuts a batch into micro-batches of sequences that share prefixes, within a token budget.

    Args:
        batch: Sequences to cut it between.
        max_tokens: Most different tokens of a micro-batch; a longer sequence gets one of its own.

    Raises:
        ValueError: if ``max_tokens`` is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, got {max_tokens}")
    starts = batch.sequence_starts.tolist()
    rows = [batch.input_ids[a:b].tolist() for a, b in pairwise(starts)]
    parts: list[list[int]] = []
    room, before = 0, list[int]()
    for index in sorted(range(len(rows)), key=rows.__getitem__):
        shared = _common(before, rows[index])
        new = len(rows[index]) - (shared if shared >= MIN_SHARED else 0)
        if not parts or new > room:
            parts.append([])
            room, new = max_tokens, len(rows[index])
        parts[-1].append(index)
        room -= new
        before = rows[index]
    return [select_sequences(batch, part) for part in parts]


def _common(one: list[int], other: list[int]) -> int:
    """Length of the common prefix."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _mask(paths: list[tuple[Tensor, int]], first: int, size: int) -> Bool[Tensor, "_ _"]:
    """Each node sees itself and the nodes above it."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    for path, shared in paths:
        own = path - first
        below = torch.ones(len(own), len(own), dtype=torch.bool).tril()
        mask[own[shared:, None], own] = below[shared:]
    return mask
