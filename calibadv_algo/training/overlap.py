"""One step off policy: the next batch is collected while the policy learns from this one.

The update ``u`` learns from episodes that the policy of version ``u - 1`` sampled (the first
update: version 0). The engine holds a copy of the weights, which changes only while nothing is
being collected, so a run gives the same numbers whatever its timing. Truncated importance
sampling corrects for the step in between: every trajectory has its ``policy_version`` and the
log-probabilities under that policy.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from calibadv_algo.training.collection import Collection, Collector


class OverlappedCollector(Collector):
    """Collects the batch of the next update in a thread of its own.

    A checkpoint needs :meth:`wait` before it: the weights that sample the batch are not those
    in the checkpoint, so the whole batch has to be in the journal by then. After a resumption
    :meth:`take` finds it there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Makes the thread; the arguments are those of `Collector`.

        Raises:
            ValueError: if the engine shares the policy's weights.
        """
        super().__init__(*args, **kwargs)
        require_own_weights(self.player.engine, self._weights())
        self._play_ranks = self._ranks.fork()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._pending: Future[Collection] | None = None
        self._is_first = True

    def take(self, update: int, num_questions_seen: int) -> Collection:
        """The episodes of an update, as soon as they are complete; begins those of the next.

        Args:
            update: Number of finished updates; the calls of a process follow each other.
            num_questions_seen: Questions that were asked before.

        Raises:
            RanksError: if the ranks hold different weights.
            Exception: whatever the collection raised.
        """
        if self._pending is None:
            self._start(update, num_questions_seen, version=max(update - 1, 0))
        self.wait()
        assert self._pending is not None
        batch, self._pending = self._pending, None
        collection = batch.result()
        if update + 1 < self.config.optim.num_updates:
            seen = num_questions_seen + collection.num_questions
            self._start(update + 1, seen, version=update)
        return collection

    def wait(self) -> None:
        """Returns when nothing is being collected; an error is kept for :meth:`take`."""
        if self._pending is None:
            return
        began = time.perf_counter()
        self._pending.exception()
        self.wait_s += time.perf_counter() - began

    def close(self) -> None:
        """Waits for what is being collected and leaves it; the journal has its episodes."""
        self._pool.shutdown(cancel_futures=True)
        self._pending = None

    def _start(self, update: int, num_questions_seen: int, version: int) -> None:
        """Begins to collect the batch of an update with the weights as they are now."""
        self.announce(update)
        policy: str | None = self.sync(version)
        if self._is_first and version < update:
            # Resumed: the weights that sampled the journal's episodes are gone.
            policy = None
        self._is_first = False
        self._pending = self._pool.submit(
            self.collect, update, num_questions_seen, policy_version=version, policy=policy
        )


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
