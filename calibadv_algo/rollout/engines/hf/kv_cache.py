"""A key/value store with one row per episode, handed to Hugging Face models as a ``Cache``.

Rows are left-aligned: position ``p`` of an episode lies in column ``p`` of its row. The rows in
use are kept at the front, so that a decoding step reads ``keys[:n, :, :longest]``: a view,
never a copy. A forward pass names its rows and its columns first (:meth:`SlotCache.plan`); the
model then calls :meth:`SlotCache.update` once per layer as it would on any cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

COLUMN_STEP = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the keys of one forward pass go, and which part of the store it reads.

    Attributes:
        rows: Rows of the batch ``[batch]``; None when they are the first ``batch`` ones.
        batch: Number of rows in the batch.
        columns: Column of every new token ``[batch, new]``.
        longest: Number of columns that attention reads.
    """

    rows: Tensor | None
    batch: int
    columns: Tensor
    longest: int


class SlotCache(Cache):
    """Keys and values of many episodes of different lengths, in fixed rows.

    The store knows nothing about lengths: its user says where tokens go and masks what is
    not valid. Everything is zero at first, so a masked column is always finite.
    """

    def __init__(self) -> None:
        """Makes an empty store; memory is taken at the first forward pass."""
        super().__init__(layers=[])
        self.num_rows = 0
        self.num_columns = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._plan: _Plan | None = None
        self._flat: Tensor | None = None
        self._flat_heads = 0

    def reserve(self, num_rows: int, num_columns: int) -> None:
        """Grows the store to at least this size; what it holds is kept.

        Args:
            num_rows: Rows needed.
            num_columns: Columns needed; rounded up so that growth is rare.
        """
        columns = -(-num_columns // COLUMN_STEP) * COLUMN_STEP
        if num_rows <= self.num_rows and columns <= self.num_columns:
            return
        self.num_rows = max(num_rows, self.num_rows)
        self.num_columns = max(columns, self.num_columns)
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._grown(old)

    def plan(self, columns: Tensor, longest: int, rows: Tensor | None = None) -> None:
        """Says where the next forward pass writes and how much it reads.

        Args:
            columns: Column of every new token, ``[batch, new]``, on the model's device.
            longest: Columns that attention reads, from the left.
            rows: Rows of the batch; None for the first ``batch`` rows, which is read in
                place. Other rows are gathered.
        """
        self._plan = _Plan(rows, columns.shape[0], columns, longest)
        self._flat = None

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Stores a layer's new keys and values and returns all that attention may read.

        Args:
            key_states: ``[batch, heads, new, head_dim]``.
            value_states: The same shape, its last dimension may differ.
            layer_idx: Which layer.
            *args: Ignored, part of the base class's signature.
            **kwargs: Ignored, likewise.

        Returns:
            Keys and values ``[batch, heads, longest, head_dim]``.

        Raises:
            RuntimeError: if no forward pass was planned.
        """
        if self._plan is None:
            raise RuntimeError("plan() must be called before a forward pass")
        self._extend(layer_idx, key_states, value_states)
        flat = self._flat_index(key_states.shape[1])
        keys = self._write(self._keys[layer_idx], flat, key_states)
        values = self._write(self._values[layer_idx], flat, value_states)
        return keys, values

    def layer(self, index: int, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """The store of a layer itself, to be written by row and column.

        Args:
            index: Which layer.
            key_states: ``[batch, heads, new, head_dim]``, for the shape of a layer not seen yet.
            value_states: The same shape, its last dimension may differ.

        Returns:
            Keys and values ``[row, heads, column, head_dim]``.
        """
        self._extend(index, key_states, value_states)
        return self._keys[index], self._values[index]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that the planned pass reads."""
        return self._plan.longest if self._plan is not None else 0

    def permute(self, new_rows: Sequence[int], old_rows: Sequence[int], length: int) -> None:
        """Moves rows: what stood in ``old_rows[i]`` stands in ``new_rows[i]`` afterwards.

        Args:
            new_rows: Targets, without repetition.
            old_rows: Sources; all are read before anything is written.
            length: Columns to move, counted from the left.
        """
        for tensor in (*self._keys, *self._values):
            source = torch.as_tensor(old_rows, device=tensor.device)
            target = torch.as_tensor(new_rows, device=tensor.device)
            part = tensor[:, :, :length]
            part.index_copy_(0, target, part.index_select(0, source))

    def copy_row(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copies the first ``length`` columns of one row into others."""
        for tensor in (*self._keys, *self._values):
            index = torch.as_tensor(targets, device=tensor.device)
            row = tensor[source, :, :length]
            tensor[:, :, :length].index_copy_(0, index, row.expand(len(targets), *row.shape))

    @property
    def memory_bytes(self) -> int:
        """Size of the store."""
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values))

    def _extend(self, layer: int, key_states: Tensor, value_states: Tensor) -> None:
        while len(self._keys) <= layer:
            self._keys.append(self._empty(key_states))
            self._values.append(self._empty(value_states))

    def _empty(self, like: Tensor) -> Tensor:
        shape = (self.num_rows, like.shape[1], self.num_columns, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _grown(self, old: Tensor) -> Tensor:
        new = self._empty(old)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def _flat_index(self, heads: int) -> Tensor:
        """Index of every new key in the store seen as ``[rows * heads * columns, head_dim]``."""
        if self._flat is not None and self._flat_heads == heads:
            return self._flat
        plan = self._plan
        assert plan is not None
        device = plan.columns.device
        rows = torch.arange(plan.batch, device=device) if plan.rows is None else plan.rows
        row_heads = rows[:, None] * heads + torch.arange(heads, device=device)
        flat = row_heads[:, :, None] * self.num_columns + plan.columns[:, None, :]
        self._flat, self._flat_heads = flat.reshape(-1), heads
        return self._flat

    def _write(self, store: Tensor, flat: Tensor, states: Tensor) -> Tensor:
        plan = self._plan
        assert plan is not None
        size = states.shape[3]
        store.view(-1, size).index_copy_(0, flat, states.reshape(-1, size))
        part = store[:, :, : plan.longest]
        return part[: plan.batch] if plan.rows is None else part.index_select(0, plan.rows)


class RowTable:
    """Which episode owns which row of a :class:`SlotCache`, and which tokens the row holds.

    Attributes:
        cache: The store.
        max_rows: Most rows that it may have.
        ids: For every row the tokens whose keys and values are valid; empty if it is free.
    """

    def __init__(self, cache: SlotCache, max_rows: int) -> None:
        """Starts with no row in use."""
        self.cache = cache
        self.max_rows = max_rows
        self.ids: list[tuple[int, ...]] = []
        self._owners: list[str | None] = []
        self._used_at: list[int] = []
        self._row_of: dict[str, int] = {}
        self._clock = 0

    def row_of(self, episode_id: str) -> int | None:
        """Row of an episode, None if nothing is kept for it."""
        return self._row_of.get(episode_id)

    def release(self, episode_id: str) -> None:
        """Frees an episode's row, if it has one."""
        row = self._row_of.pop(episode_id, None)
        if row is not None:
            self._owners[row], self.ids[row] = None, ()

    def assign(self, row: int, episode_id: str) -> None:
        """Makes an episode the owner of a row and marks the row as just used."""
        if self._owners[row] != episode_id:
            owner = self._owners[row]
            if owner is not None:
                self.release(owner)
            self._owners[row], self.ids[row] = episode_id, ()
            self._row_of[episode_id] = row
        self._clock += 1
        self._used_at[row] = self._clock

    def place(self, episode_ids: Sequence[str], first: int, columns: int) -> list[int]:
        """Brings episodes into the rows from ``first`` on, with what is kept for them.

        New episodes take free rows; if there are none, the store grows up to ``max_rows``, and
        then the rows that were not used for longest are given up.

        Args:
            episode_ids: Distinct episodes, at most ``max_rows - first``.
            first: Rows before this one are in use and stay where they are.
            columns: Columns that the store needs.

        Returns:
            The row of each episode: a permutation of ``first, first + 1, ...``.
        """
        kept = {e: self._row_of[e] for e in episode_ids if e in self._row_of}
        num_new = len(episode_ids) - len(kept)
        taken = set(kept.values())
        self._grow(first, num_new, columns)
        targets = range(first, first + len(episode_ids))
        candidates = [row for row in range(first, len(self.ids)) if row not in taken]
        candidates.sort(
            key=lambda row: (
                self._owners[row] is not None,
                self._used_at[row] if self._owners[row] is not None else 0,
                row not in targets,
                row,
            )
        )
        for row in candidates[:num_new]:
            owner = self._owners[row]
            if owner is not None:
                self.release(owner)
            taken.add(row)
        moved = self.gather(taken, first)
        rows = {episode: moved.get(row, row) for episode, row in kept.items()}
        free = iter(sorted(set(targets) - set(rows.values())))
        for episode in episode_ids:
            row = rows[episode] if episode in rows else next(free)
            rows[episode] = row
            self.assign(row, episode)
        return [rows[episode] for episode in episode_ids]

    def gather(self, rows: Iterable[int], first: int = 0) -> dict[int, int]:
        """Swaps rows so that the given ones come to stand together from ``first`` on.

        Args:
            rows: Which rows; those that stand in the target range already stay.
            first: Start of the target range.

        Returns:
            New place of every row that moved.
        """
        chosen = set(rows)
        targets = set(range(first, first + len(chosen)))
        pairs = list(zip(sorted(targets - chosen), sorted(chosen - targets), strict=True))
        moves = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        return self._move(moves)

    def _move(self, moves: list[tuple[int, int]]) -> dict[int, int]:
        """Moves row contents, ``(to, from)`` each; contents of length zero cost nothing."""
        full = [(to, source) for to, source in moves if self.ids[source]]
        if full:
            length = max(len(self.ids[source]) for _, source in full)
            self.cache.permute([to for to, _ in full], [source for _, source in full], length)
        old = {
            source: (self.ids[source], self._owners[source], self._used_at[source])
            for _, source in moves
        }
        for to, source in moves:
            self.ids[to], self._owners[to], self._used_at[to] = old[source]
            owner = self._owners[to]
            if owner is not None:
                self._row_of[owner] = to
        return {source: to for to, source in moves}

    def _grow(self, first: int, num_new: int, columns: int) -> None:
        free = sum(1 for row in range(first, len(self.ids)) if self._owners[row] is None)
        num_rows = min(self.max_rows, len(self.ids) + max(0, num_new - free))
        for _ in range(num_rows - len(self.ids)):
            self.ids.append(())
            self._owners.append(None)
            self._used_at.append(0)
        self.cache.reserve(num_rows, columns)
