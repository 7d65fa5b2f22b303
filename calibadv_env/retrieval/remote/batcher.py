"""Batching of searches that are asked for at the same time into one call of the retriever."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

from annotated_types import Interval

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.remote.server_metrics import ServerMetrics


class QueueFullError(Exception):
    """There is no room for the request now.

    Attributes:
        retry_after_s: Whole seconds after which there should be.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ExpiredError(Exception):
    """The request waited longer than its client will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits(Checked):
    """Sizes and waiting times of batches.

    Attributes:
        max_batch: Most queries of one search. 1 turns batching off.
        max_wait_ms: How long a request waits for others, if the batch is not full and searches had
            many requests lately.
        max_queue: Most queries that wait.
        max_age_s: A request that waited longer is not searched any more.
    """

    max_batch: Annotated[int, POSITIVE] = 64
    max_wait_ms: Annotated[float, Interval(ge=0, le=1000)] = 2.0
    max_queue: Annotated[int, POSITIVE] = 4096
    max_age_s: Annotated[float, POSITIVE] = 30.0


_WORTH_A_WAIT: Final = 8
"""Requests of a search after which the next one waits for those whom it answered."""

Answer: TypeAlias = list[list[ScoredPassage]] | BaseException
"""The passages of each query, or why there are none."""


@dataclass(slots=True)
class _Job:
    """A request and how far it is: its distinct queries, and what was found for the first."""

    queries: Sequence[str]
    top_k: int
    answer: asyncio.Future[Answer]
    distinct: list[str]
    found: dict[str, list[ScoredPassage]] = field(default_factory=dict)
    arrived: float = field(default_factory=time.monotonic)

    @property
    def num_left(self) -> int:
        """Queries that are still to be searched."""
        return len(self.distinct) - len(self.found)

    def part(self, most: int) -> list[str]:
        """The next queries to be searched."""
        return self.distinct[len(self.found) : len(self.found) + most]


class SearchBatcher:
    """A queue before a retriever. All methods run in one event loop.

    One search runs at a time, in the executor. Meanwhile requests gather; the next search takes
    all that ask for the same number of passages, in the order they came, up to ``max_batch``
    queries. A request is never split between searches of others, and one with more queries than
    that is searched alone, piece by piece, and others come in between its pieces. If a search for
    several requests fails, each is searched alone, so that no request fails for what another asked.

    Args:
        retriever: Answers.
        executor: Has one thread.
        limits: Sizes and waiting times of batches.
        metrics: Where it is counted.
    """

    def __init__(
        self, retriever: Retriever, executor: Executor, limits: BatchLimits, metrics: ServerMetrics
    ) -> None:
        self._retriever = retriever
        self._executor = executor
        self._limits = limits
        self._metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._num_waiting = 0
        self._running: Sequence[_Job] = ()
        self._has_jobs = asyncio.Event()
        self._is_full = asyncio.Event()
        self._seconds_per_query = 0.0
        self._recent = 0

    @property
    def queue_length(self) -> int:
        """Queries that wait."""
        return self._num_waiting

    def ask(self, queries: Sequence[str], top_k: int) -> asyncio.Future[Answer]:
        """Queues the queries of one request.

        Args:
            queries: The queries.
            top_k: Passages a query.

        Returns:
            A future with the passages of each query, or with the error as its result:
            :class:`QueueFullError` if too many queries wait, :class:`ExpiredError` if these waited
            too long, otherwise whatever the retriever raised.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._num_waiting and self._num_waiting + len(queries) > self._limits.max_queue:
            self._metrics.rejected += 1
            message = f"the queue is full: {self._num_waiting} queries wait"
            answer.set_result(QueueFullError(message, self._retry_after_s()))
            return answer
        job = _Job(queries, top_k, answer, list(dict.fromkeys(queries)))
        self._jobs.append(job)
        self._num_waiting += job.num_left
        self._metrics.queries += len(queries)
        self._has_jobs.set()
        if self._num_waiting >= self._limits.max_batch:
            self._is_full.set()
        return answer

    async def run(self) -> None:
        """Searches until it is cancelled."""
        while True:
            await self._has_jobs.wait()
            await self._gather()
            self._running = self._take_batch()
            self._recent = max(len(self._running), self._recent // 2)
            if self._running:
                await self._search(self._running)
            self._running = ()

    def fail_all(self, error: Exception) -> None:
        """Answers every request that has no answer yet with an error."""
        for job in (*self._running, *self._jobs):
            if not job.answer.done():
                job.answer.set_result(error)
        self._jobs.clear()
        self._num_waiting = 0

    def _retry_after_s(self) -> int:
        waiting = self._num_waiting + sum(len(job.queries) for job in self._running)
        return min(60, max(1, math.ceil(waiting * self._seconds_per_query)))

    async def _gather(self) -> None:
        """Waits for more requests, until the first has waited long enough.

        Only if searches had many lately: where few ask, no company comes, and the wait is lost.
        """
        if self._recent < _WORTH_A_WAIT:
            return
        left = self._jobs[0].arrived + self._limits.max_wait_ms / 1000 - time.monotonic()
        if left > 0 and not self._is_full.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_full.wait(), left)

    def _take_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        others: deque[_Job] = deque()
        size = 0
        oldest = time.monotonic() - self._limits.max_age_s
        while self._jobs and size < self._limits.max_batch:
            job = self._jobs.popleft()
            if job.answer.done():
                self._num_waiting -= job.num_left
            elif job.arrived < oldest and not job.found:
                self._num_waiting -= job.num_left
                self._metrics.expired += 1
                message = f"waited more than {self._limits.max_age_s} s for a search"
                job.answer.set_result(ExpiredError(message))
            elif batch and (
                job.top_k != batch[0].top_k or size + job.num_left > self._limits.max_batch
            ):
                others.append(job)
            else:
                batch.append(job)
                size += job.num_left
        self._jobs.extendleft(reversed(others))
        self._num_waiting -= size
        if not self._jobs:
            self._has_jobs.clear()
        if self._num_waiting < self._limits.max_batch:
            self._is_full.clear()
        return batch

    async def _search(self, batch: Sequence[_Job]) -> None:
        top_k = batch[0].top_k
        parts = [job.part(self._limits.max_batch) for job in batch]
        queries = list(dict.fromkeys(query for part in parts for query in part))
        num_queries = sum(map(len, parts))
        started = time.monotonic()
        search = asyncio.get_running_loop().run_in_executor(
            self._executor, search_distinct, self._retriever, queries, top_k
        )
        await asyncio.wait((search,))
        took = time.monotonic() - started
        self._count(len(batch), num_queries, len(queries), took)
        error = search.exception()
        if error is None:
            found = search.result()
            for job, part in zip(batch, parts, strict=True):
                self._advance(job, {query: found[query] for query in part})
            return
        self._metrics.failed_searches += 1
        if len(batch) > 1:
            for job in batch:
                await self._search([job])
        elif not batch[0].answer.done():
            batch[0].answer.set_result(error)

    def _advance(self, job: _Job, found: dict[str, list[ScoredPassage]]) -> None:
        """Answers a request whose last piece was found, else queues it behind the others."""
        job.found |= found
        if job.answer.done():
            return
        if not job.num_left:
            job.answer.set_result([job.found[query] for query in job.queries])
            return
        self._jobs.append(job)
        self._num_waiting += job.num_left
        self._has_jobs.set()

    def _count(self, num_requests: int, num_queries: int, num_distinct: int, took: float) -> None:
        metrics = self._metrics
        metrics.searches += 1
        metrics.distinct_queries += num_distinct
        metrics.batch_requests.add(num_requests)
        metrics.batch_queries.add(num_queries)
        metrics.search_s.add(took)
        rate = took / num_queries
        self._seconds_per_query += 0.2 * (rate - self._seconds_per_query)


def search_distinct(
    retriever: Retriever, queries: Sequence[str], top_k: int
) -> dict[str, list[ScoredPassage]]:
    """The passages of each of some distinct queries.

    Raises:
        RetrieverError: if the retriever raises it, or answers another number of queries.
    """
    answers = retriever.search(queries, top_k)
    if len(answers) != len(queries):
        raise RetrieverError(
            f"retriever must answer all {len(queries)} queries, got {len(answers)} answers"
        )
    return dict(zip(queries, answers, strict=True))
