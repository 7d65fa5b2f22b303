"""One step off policy: the next batch is collected while the policy learns from this one.

The update ``u`` learns from episodes that the policy of version ``u - 1`` sampled (the first
update: version 0). The engine holds a copy of the weights, which changes only while nothing is
being collected, so a run gives the same numbers whatever its timing. Truncated importance
sampling corrects for the step in between: every trajectory has its ``policy_version`` and the
log-probabilities under that policy.

    rollouts = OverlappedRollouts(collect, sync_weights)
    for update in range(num_updates):
        batch = rollouts.take(update, policy_version=update)
        if update + 1 < num_updates:
            rollouts.start(update + 1, policy_version=update)
        learner.update(batch)
        rollouts.wait()        # only before an evaluation or a checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class OverlappedRollouts(Generic[Batch]):
    """Collects one batch in a thread of its own while something else goes on.

    A checkpoint needs :meth:`wait` before it: the weights that sample the batch are not those
    in the checkpoint, so the whole batch has to be in the journal by then. After a resumption
    :meth:`take` finds it there.

    Attributes:
        wait_s: Seconds for which the caller had to wait for episodes so far.
    """

    def __init__(
        self, collect: Callable[[int, int], Batch], sync_weights: Callable[[int], None]
    ) -> None:
        """Takes the two things that are done.

        Args:
            collect: ``(update, policy_version) -> batch``; called in the thread.
            sync_weights: ``(policy_version)``: copies the learner's weights to the engine;
                called by the caller's thread while nothing is being collected.
        """
        self._collect = collect
        self._sync_weights = sync_weights
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._pending: tuple[int, Future[Batch]] | None = None
        self.wait_s = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether a batch was started and not taken."""
        return self._pending is not None

    def start(self, update: int, policy_version: int) -> None:
        """Begins to collect the batch of an update with the weights as they are now.

        Args:
            update: Which update will learn from it.
            policy_version: Number of updates behind the weights.

        Raises:
            RuntimeError: if another batch was not taken yet.
        """
        if self._pending is not None:
            raise RuntimeError(f"the batch of update {self._pending[0]} was not taken yet")
        self._sync_weights(policy_version)
        self._pending = update, self._pool.submit(self._collect, update, policy_version)

    def take(self, update: int, policy_version: int) -> Batch:
        """The batch of an update, as soon as it is complete.

        Args:
            update: Which.
            policy_version: Of the current weights; they sample it if nothing was started.

        Raises:
            RuntimeError: if the batch of another update was started.
            Exception: whatever the collection raised.
        """
        if self._pending is None:
            self.start(update, policy_version)
        assert self._pending is not None
        started, future = self._pending
        if started != update:
            raise RuntimeError(f"the batch of update {started} was started, not of {update}")
        self.wait()
        self._pending = None
        return future.result()

    def wait(self) -> None:
        """Returns when nothing is being collected; an error is kept for :meth:`take`."""
        if self._pending is None:
            return
        began = time.perf_counter()
        self._pending[1].exception()
        self.wait_s += time.perf_counter() - began

    def close(self) -> None:
        """Waits for what is being collected and leaves it; the journal has its episodes."""
        self._pool.shutdown(cancel_futures=True)
        self._pending = None

    def __enter__(self) -> OverlappedRollouts[Batch]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_own_weights(engine: object, model: object) -> None:
    """Refuses an engine that samples from the very weights that learn.

    Args:
        engine: Any engine; one with an attribute ``model`` shares that model.
        model: The policy that learns.

    Raises:
        ValueError: if they are the same object.
    """
    if getattr(engine, "model", None) is model:
        raise ValueError(
            "engine must hold a copy of the weights to sample while the policy learns, got one "
            "that shares the model"
        )
