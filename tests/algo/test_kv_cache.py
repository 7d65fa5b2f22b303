"""Rows keep what belongs to their episode, whatever is moved, given up or grown."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.rollout.engines.hf.kv_cache import RowTable, SlotCache

HEADS, SIZE = 2, 3


def store(cache: SlotCache, rows: list[int] | None, columns: list[list[int]], value: float) -> None:
    """Writes a constant with a forward pass's calls."""
    positions = torch.tensor(columns)
    index = None if rows is None else torch.tensor(rows)
    cache.plan(positions, int(positions.max()) + 1, index)
    states = torch.full((len(columns), HEADS, len(columns[0]), SIZE), value)
    cache.update(states, states, 0)


def test_update_writes_at_the_columns_and_reads_to_the_longest() -> None:
    cache = SlotCache()
    cache.reserve(3, 10)
    cache.plan(torch.tensor([[0, 1], [4, 5]]), 6)
    new = torch.arange(2.0 * HEADS * 2 * SIZE).reshape(2, HEADS, 2, SIZE)
    keys, values = cache.update(new, -new, 0)
    assert keys.shape == (2, HEADS, 6, SIZE)
    assert torch.equal(keys[0, :, :2], new[0])
    assert torch.equal(values[1, :, 4:], -new[1])
    assert keys[0, :, 2:].abs().sum() == 0
    cache.plan(torch.tensor([[2]]), 3, torch.tensor([1]))
    gathered, _ = cache.update(torch.ones(1, HEADS, 1, SIZE), torch.ones(1, HEADS, 1, SIZE), 0)
    assert gathered.shape == (1, HEADS, 3, SIZE)
    assert torch.equal(gathered[0, :, 2], torch.ones(HEADS, SIZE))
    assert cache.get_seq_length() == 3


def test_front_rows_are_read_without_a_copy_and_growth_keeps_them() -> None:
    cache = SlotCache()
    cache.reserve(2, 64)
    cache.plan(torch.tensor([[0]]), 1)
    keys, _ = cache.update(torch.ones(1, HEADS, 1, SIZE), torch.ones(1, HEADS, 1, SIZE), 0)
    cache.plan(torch.tensor([[1]]), 2)
    again, _ = cache.update(torch.ones(1, HEADS, 1, SIZE), torch.ones(1, HEADS, 1, SIZE), 0)
    assert again.data_ptr() == keys.data_ptr()
    before = cache.memory_bytes
    cache.reserve(3, 65)
    assert cache.num_columns == 128
    assert cache.memory_bytes == before * 3
    cache.plan(torch.tensor([[2]]), 3)
    grown, _ = cache.update(torch.zeros(1, HEADS, 1, SIZE), torch.zeros(1, HEADS, 1, SIZE), 0)
    assert torch.equal(grown[0, :, :2], torch.ones(HEADS, 2, SIZE))


def test_a_pass_must_be_planned() -> None:
    with pytest.raises(RuntimeError, match="plan"):
        SlotCache().update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sets(st.integers(0, 8), max_size=4), st.integers(0, 8), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_rows_follow_their_episodes(steps: list[tuple[set[int], int, bool]]) -> None:
    """A row is either gone (its tokens are forgotten) or holds what was written for it."""
    cache = SlotCache()
    table = RowTable(cache, max_rows=5)
    for wanted, released, is_gathered in steps:
        names = [f"e{i}" for i in sorted(wanted)]
        rows = table.place(names, 0, 4)
        assert sorted(rows) == list(range(len(names)))
        for name, row in zip(names, rows, strict=True):
            assert table.row_of(name) == row
            if not table.ids[row]:
                tag = int(name[1:]) + 1
                store(cache, [row], [[0, 1, 2]], float(tag))
                table.ids[row] = (tag,) * 3
        table.release(f"e{released}")
        assert table.row_of(f"e{released}") is None
        owned = [table.row_of(f"e{i}") for i in range(9)]
        kept = [row for row in owned if row is not None]
        assert len(set(kept)) == len(kept) <= 5
        if is_gathered:
            table.gather(kept[::2])
        for i in range(9):
            row = table.row_of(f"e{i}")
            if row is not None:
                assert table.ids[row] == (i + 1,) * 3
                cache.plan(torch.tensor([[3]]), 3, torch.tensor([row]))
                zero = torch.zeros(1, HEADS, 1, SIZE)
                keys, _ = cache.update(zero, zero, 0)
                assert keys[:, :, :3].unique().tolist() == [float(i + 1)]


def test_the_row_unused_for_longest_is_given_up_first() -> None:
    table = RowTable(SlotCache(), max_rows=2)
    for name in ("old", "new", "old"):
        table.ids[table.place([name], 0, 4)[0] if table.row_of(name) is None else 0] = (1,)
    table.place(["old"], 0, 4)
    table.place(["third"], 0, 4)
    assert table.row_of("new") is None
    assert table.row_of("old") is not None
