"""Several processes that train one policy: who this one is, and what they tell each other.

Each process is a *rank*. All of them hold the same settings, see the same trajectories and
compute the same advantages; playing and the passes through the model are divided. A run begins
several of them with ``accelerate launch`` or ``torchrun``; everything else starts with one.
"""

from __future__ import annotations

import gc
import heapq
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from calibadv_algo.batching import TokenBatch, select_sequences, split_by_tokens
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_env.common.checks import require_positive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed import ProcessGroup

Value = TypeVar("Value")

Split = Callable[[TokenBatch, int], list[TokenBatch]]
"""Cuts a batch into micro-batches of at most so many tokens."""

DEFAULT_TIMEOUT_S = 3600.0
"""Longest wait of a rank for another one."""

_BUCKET_ELEMENTS = 2**25


class RanksError(CalibadvAlgoError):
    """The processes of a run lost each other, or their weights are no longer the same."""


class Ranks(Protocol):
    """One of several processes, as it sees itself and the others.

    Every method but the properties has to be called by all ranks in the same order.

    Attributes:
        wait_s: Seconds spent in these calls so far: waiting for others, and the exchange.
    """

    wait_s: float

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only one that writes files."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """All-gather: the values of all ranks, in their order, on each."""
        ...

    def broadcast(self, value: Value) -> Value:
        """The value of rank 0, on every rank."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over the ranks."""
        ...

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        ...

    def fork(self) -> Ranks:
        """These ranks with a line of their own, for another thread's calls."""
        ...

    def close(self) -> None:
        """Leaves the others; nothing may be called afterwards."""
        ...


class SingleRank:
    """The only process."""

    wait_s = 0.0
    rank = 0
    world_size = 1
    is_main = True

    def gather(self, value: Value) -> list[Value]:
        """The value in a list."""
        return [value]

    def broadcast(self, value: Value) -> Value:
        """The value itself."""
        return value

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Leaves the tensors as they are."""

    def barrier(self) -> None:
        """Returns at once."""

    def fork(self) -> SingleRank:
        """This object."""
        return self

    def close(self) -> None:
        """Does nothing."""


class AccelerateRanks:
    """Processes that ``accelerate launch`` or ``torchrun`` started.

    Tensors go through NCCL where there are GPUs and through gloo elsewhere; objects always go
    through gloo, so a thread that collects episodes does not meet the gradients.
    """

    def __init__(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Joins the others; sets the process's GPU.

        Args:
            timeout_s: How long to wait for another rank; longer than the slowest collection.

        Raises:
            ImportError: if accelerate is not installed.
            ValueError: if the timeout is not positive.
        """
        require_positive(timeout_s=timeout_s)
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ImportError(
                "several processes need the package accelerate: pip install 'calibadv[accelerate]'"
            ) from error
        self._timeout = timedelta(seconds=timeout_s)
        self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=self._timeout)
        self._objects = _gloo_group(self._timeout)
        # Without its launcher nobody would end this process when another rank dies.
        self._parent = os.getppid()
        self.wait_s = 0.0

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self._state.process_index)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._state.device)

    def gather(self, value: Value) -> list[Value]:
        """All-gather: the values of all ranks, in their order, on each."""
        values: list[Any] = [None] * self.world_size
        with self._exchange():
            torch.distributed.all_gather_object(values, value, group=self._objects)
        return values

    def broadcast(self, value: Value) -> Value:
        """The value of rank 0, on every rank."""
        values: list[Any] = [value if self.is_main else None]
        with self._exchange():
            torch.distributed.broadcast_object_list(values, src=0, group=self._objects)
        result: Value = values[0]
        return result

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over the ranks, many of them in one exchange."""
        with self._exchange():
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).to(self.device)
                torch.distributed.all_reduce(flat)
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        with self._exchange():
            torch.distributed.barrier(group=self._objects)

    def fork(self) -> AccelerateRanks:
        """These ranks with a line of their own, for another thread's calls."""
        other = object.__new__(AccelerateRanks)
        other.__dict__.update(self.__dict__)
        other._objects = _gloo_group(self._timeout)
        other.wait_s = 0.0
        return other

    def close(self) -> None:
        """Leaves the others."""
        # Models that were shared out hold their process group in reference cycles. As long as it
        # lives so do its threads, and one that wants the interpreter while it shuts down aborts the
        # process ("terminate called without an active exception").
        gc.collect()
        self._state.destroy_process_group()

    def _exchange(self) -> AbstractContextManager[None]:
        """Measures an exchange, and refuses it to a process whose launcher died."""
        if os.getppid() != self._parent:
            raise RanksError("the launcher of the processes is gone; start the run again")
        return self._measured()

    @contextmanager
    def _measured(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            raise RanksError(
                f"rank {self.rank} of {self.world_size} lost the others: {error}"
            ) from error
        finally:
            self.wait_s += time.perf_counter() - began


def make_ranks() -> Ranks:
    """Several ranks or a single one, as the launcher of this process meant.

    ``accelerate launch`` and ``torchrun`` set ``WORLD_SIZE``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return AccelerateRanks()
    return SingleRank()


def on_main(ranks: Ranks, function: Callable[[], Value]) -> Value:
    """Calls a function on rank 0 alone; its result, or its error, is everybody's.

    Args:
        ranks: All of them come here.
        function: What reads or writes files.

    Returns:
        The result, which other processes must be able to take (pickle).

    Raises:
        Exception: what the function raised, on every rank.
    """
    if ranks.world_size == 1:
        return function()
    answer: tuple[Value | None, Exception | None] = (None, None)
    if ranks.is_main:
        try:
            answer = (function(), None)
        except Exception as error:  # noqa: BLE001 (raised again on every rank)
            answer = (None, error)
    result, failure = ranks.broadcast(answer)
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def own_share(items: Sequence[Value], ranks: Ranks) -> Sequence[Value]:
    """This rank's part of a sequence: neighbours, nearly equal numbers, all ranks' in order."""
    count, size = len(items), ranks.world_size
    return items[count * ranks.rank // size : count * (ranks.rank + 1) // size]


def deal(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Deals things of different cost, so that shares cost nearly the same.

    The dearest first, each to the share that is cheapest so far.

    Args:
        costs: Of each thing, not negative.
        num_shares: How many shares, positive.

    Returns:
        For each share the indices of its things in rising order; some may have none.
    """
    heap = [(0, share) for share in range(num_shares)]
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    for index in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        total, share = heapq.heappop(heap)
        shares[share].append(index)
        heapq.heappush(heap, (total + costs[index], share))
    return [sorted(share) for share in shares]


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Sequences that go through the model together.

    Attributes:
        batch: The sequences.
        is_filler: Whether they are another rank's, repeated so that all ranks make as many
            passes; nothing of them counts.
    """

    batch: TokenBatch
    is_filler: bool = False


def micro_batches(
    batch: TokenBatch,
    max_tokens: int,
    ranks: Ranks,
    *,
    is_even: bool = False,
    split: Split = split_by_tokens,
) -> list[MicroBatch]:
    """This rank's part of a batch, cut to what goes through the model at a time.

    Args:
        batch: The same one on every rank.
        max_tokens: Most tokens of a micro-batch; a longer sequence gets one of its own.
        ranks: Who shares the work; the parts have nearly equal numbers of tokens.
        is_even: Whether all ranks must make equally many passes.
        split: Cuts a part into micro-batches.

    Returns:
        Micro-batches in the order of ``split``; fillers at the end.
    """
    if batch.num_sequences == 0:
        return []
    if ranks.world_size == 1:
        return [MicroBatch(part) for part in split(batch, max_tokens)]
    shares = deal(batch.lengths.tolist(), ranks.world_size)
    own = _cut(batch, shares[ranks.rank], max_tokens, split)
    parts = [MicroBatch(part) for part in own]
    if is_even:
        most = max(len(_cut(batch, share, max_tokens, split)) for share in shares)
        shortest = select_sequences(batch, [int(batch.lengths.argmin())])
        parts += [MicroBatch(shortest, is_filler=True)] * (most - len(parts))
    return parts


def is_sharded(tensor: Tensor) -> bool:
    """Tells whether this process holds only a part of the tensor."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor; of a sharded one all ranks have to ask together."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _cut(
    batch: TokenBatch, share: Sequence[int], max_tokens: int, split: Split
) -> list[TokenBatch]:
    """Micro-batches of some sequences; none of no sequence."""
    return split(select_sequences(batch, share), max_tokens) if share else []


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type whose number of elements is bounded, a larger tensor alone."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        is_full = size + tensor.numel() > _BUCKET_ELEMENTS
        if bucket and (is_full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def _gloo_group(timeout: timedelta) -> ProcessGroup:
    """All ranks in a group of their own."""
    group: ProcessGroup = torch.distributed.new_group(backend="gloo", timeout=timeout)
    return group
