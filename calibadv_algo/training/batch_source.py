"""What the updates of a run learn from, in order: collected when asked for, or one ahead."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from torch import nn

from calibadv_algo.learner.ranks import Ranks, RanksError
from calibadv_algo.rollout.engines.base import GenerationEngine
from calibadv_algo.rollout.journal import weights_digest
from calibadv_algo.training.collection import Collection, Collector
from calibadv_algo.training.overlap import OverlappedRollouts, require_own_weights

Overlap = Literal["none", "one-step"]


class BatchSource:
    """Collects the episodes of each update with the weights that are due.

    Without overlap the update ``u`` learns from episodes of the policy of version ``u``. With
    it, they are of version ``u - 1`` and were collected while that update learnt.

    Attributes:
        wait_s: Seconds in which the caller waited for a batch that was collected meanwhile.
        sync_s: Seconds in which the engine was given weights.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        engine: GenerationEngine,
        weights: Callable[[], nn.Module],
        ranks: Ranks,
        num_tasks: int,
        num_updates: int,
        overlap: Overlap = "none",
        first_update: int = 0,
        before_update: Callable[[int, int], None] | None = None,
    ) -> None:
        """Nothing is collected yet.

        Args:
            collector: Plays episodes, in another thread where batches overlap.
            engine: The one that the collector samples with.
            weights: Gives the policy as it is now, whole.
            ranks: Processes whose policies must be the same.
            num_tasks: Size of the split.
            num_updates: Updates of the whole run.
            overlap: Whether the next batch is collected while the caller learns.
            first_update: Updates that were finished before, where a run goes on.
            before_update: Called before each collection with its update and ``num_updates``.

        Raises:
            ValueError: if batches shall overlap and the engine shares the policy's weights.
        """
        if overlap == "one-step":
            require_own_weights(engine, weights())
        self._collector = collector
        self._engine = engine
        self._weights = weights
        self._ranks = ranks
        self._num_tasks = num_tasks
        self._num_updates = num_updates
        self._overlap = overlap
        self._first_update = first_update
        self._before_update = before_update
        self._positions: dict[int, int] = {}
        self._policies: dict[int, str | None] = {}
        self._rollouts = OverlappedRollouts(self._collect, self._sync)
        self._next_update = first_update
        self.sync_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds in which the caller waited for a batch that was collected meanwhile."""
        return self._rollouts.wait_s if self._overlap == "one-step" else 0.0

    def take(self, update: int, num_questions_seen: int) -> Collection:
        """The episodes of an update; with overlap, begins those of the next one.

        Args:
            update: Number of finished updates.
            num_questions_seen: Questions that were asked before.

        Raises:
            RolloutError: as the collector.
            RanksError: if the ranks hold different weights.
        """
        self._positions[update] = num_questions_seen
        if self._overlap == "none":
            self._announce(update)
            self._sync(update)
            return self._collect(update, update)
        if update == self._first_update:
            # After a resumption the batch was collected before the checkpoint was written.
            self._announce(update)
            batch = self._rollouts.take(update, policy_version=max(update - 1, 0))
        else:
            batch = self._rollouts.take(update, policy_version=update - 1)
        if update + 1 < self._num_updates:
            self._announce(update + 1)
            self._positions[update + 1] = num_questions_seen + batch.num_questions
            self._rollouts.start(update + 1, policy_version=update)
        return batch

    def wait(self) -> None:
        """Returns when nothing is being collected: before the engine or a checkpoint is needed."""
        self._rollouts.wait()

    def _announce(self, update: int) -> None:
        """Tells whoever wants to know that an update's collection begins."""
        self._next_update = update
        if self._before_update is not None:
            self._before_update(update, self._num_updates)

    def _sync(self, version: int) -> None:
        """Gives the engine the policy's weights, which must be the same on every rank."""
        model = self._weights()
        digest = weights_digest(model)
        if len(set(self._ranks.gather(digest))) > 1:
            raise RanksError(f"the ranks hold different weights after {version} updates")
        is_older = version < self._next_update == self._first_update
        self._policies[self._next_update] = None if is_older else digest
        began = time.perf_counter()
        self._engine.sync_weights(model, version)
        self.sync_s += time.perf_counter() - began

    def _collect(self, update: int, policy_version: int) -> Collection:
        """Depends on its arguments and what was noted for the update."""
        return self._collector.collect(
            update,
            self._positions.pop(update),
            self._num_tasks,
            policy_version=policy_version,
            policy=self._policies.pop(update),
        )

    def __enter__(self) -> BatchSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for what is being collected."""
        self._rollouts.close()
