"""Numbers of columns that attention may read without a turn's bits depending on the number.

Attention sums over the columns of a row's context. The matrix products of some processors cut a
long sum into parts whose lengths depend on the whole: with the AVX2 kernels of MKL, sums of more
than 192 and fewer than 384 terms are halved, others are cut every 192. Two numbers of columns then
give one context two roundings. Which numbers agree with each other is measured here, once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

ATTENTION_BLOCK = 512
"""Columns that PyTorch's attention on a CPU takes at a time."""
PROBED_QUERIES = 32
"""Queries of a probe that stands for passes over several tokens of a row."""


@dataclass(frozen=True, slots=True)
class ColumnSteps:
    """Numbers of columns that all give a context that they cover the same numbers.

    Attributes:
        widths: Numbers up to a block that may be read, ascending; the last is the block. Empty
            if any number will do.
    """

    widths: tuple[int, ...]

    def cover(self, end: int) -> int:
        """Columns to read of a context that ends at ``end``."""
        if not self.widths:
            return end
        blocks, rest = divmod(end, ATTENTION_BLOCK)
        if rest == 0:
            return end
        return blocks * ATTENTION_BLOCK + next(width for width in self.widths if width >= rest)


@functools.cache
def stable_columns(queries: int, head_dim: int, align: int) -> ColumnSteps:
    """Measures which numbers of columns agree with a whole block, in float32 on this machine.

    Args:
        queries: Queries that share keys in one call of attention: the query heads of a key head
            where one token a row is read, ``PROBED_QUERIES`` where several are.
        head_dim: Size of a head.
        align: Multiple of which the numbers are.

    Returns:
        Those multiples that give the same bits as the block, both in PyTorch's attention and as
        a batched product; the block is always one.
    """
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, count, head_dim, generator=generator)
        for count in (queries, ATTENTION_BLOCK, ATTENTION_BLOCK)
    )

    def outputs(end: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.zeros(1, 1, queries, width)
        mask[..., end:] = torch.finfo(torch.float32).min
        keys, values = key[:, :, :width], value[:, :, :width]
        attention = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask.expand(1, 2, queries, width)
        )
        scores = query @ keys.transpose(-1, -2) + mask
        return attention, torch.softmax(scores, dim=-1) @ values

    stable = []
    with torch.inference_mode():
        for width in range(align, ATTENTION_BLOCK, align):
            ends = (width, width - align // 2)
            pairs = ((outputs(end, width), outputs(end, ATTENTION_BLOCK)) for end in ends)
            if all(all(map(torch.equal, *pair)) for pair in pairs):
                stable.append(width)
    return ColumnSteps((*stable, ATTENTION_BLOCK))
