"""Plays episodes that do not wait for each other.

Two things go on at one time. The engine samples the turns of all episodes that have something to
say; a turn that ends leaves the running batch, and the others go on. Beside it a thread calls the
environment: whatever turns have ended since its last call go into the next one together, so the
searches of several episodes are one call of the retriever, and their next turns join the running
batch when it returns.

The environment is called by one thread, one call at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import Generation, StreamingEngine, as_streaming
from calibadv_algo.rollout.episodes import (
    Episode,
    EpisodeBook,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutTimes,
    slot_start,
)
from calibadv_algo.rollout.slots import EnvSlots, SlotFailure, SlotReset, SlotStart, SlotStep

Result = TypeVar("Result", SlotReset, SlotStep)


@dataclass(frozen=True, slots=True)
class AsyncPlayer(Player):
    """Plays the episodes of a :class:`Player` with nobody waiting in line.

    Each turn depends on its episode alone: on its seed and what it has read. So the
    trajectories are those of a ``Player`` with the same engine, up to the rounding that
    an engine's batches bring in (``HfEngine`` says when there is none).

    An episode whose call failed is tried again after its own wait, while the others go on. An
    engine that is no ``StreamingEngine`` is called for all that waits, each time. The slots must
    step in part.
    """

    def play(
        self,
        specs: Sequence[EpisodeSpec],
        *,
        policy_version: int = 0,
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Plays one episode for each spec; see :meth:`Player.play`.

        Raises:
            ValueError: if stepping some slots would disturb the others.
            RolloutError: if there were episodes and every one of them was dropped.
            EngineError: if the engine failed.
        """
        if not self.slots.can_step_part:
            raise ValueError(
                "slots must be able to step in part for the asynchronous driver; this vector "
                "environment always steps all of its slots"
            )
        book = self.open_book(specs, policy_version, journal)
        return _Async(book, self.slots, as_streaming(self.engine), self.sleep).run()


@dataclass(frozen=True, slots=True)
class _Answer:
    """Results of one call of the environment, and its duration in seconds."""

    resets: Mapping[int, SlotReset | SlotFailure]
    steps: Mapping[int, SlotStep | SlotFailure]
    seconds: float


@dataclass(slots=True)
class _Retry:
    """Failures of a slot's call so far, and the time of the next attempt."""

    num_failures: int
    due: float


@dataclass
class _Async:
    """The state of one call of :meth:`AsyncPlayer.play`.

    A slot is in one of three places: ``starts`` (its reset is wanted), ``playing`` alone (the
    engine has its turn) or ``playing`` and ``actions`` (its step is wanted).
    """

    book: EpisodeBook
    slots: EnvSlots
    engine: StreamingEngine
    sleep: Callable[[float], None]
    playing: dict[int, Episode] = field(default_factory=dict)
    slot_of: dict[str, int] = field(default_factory=dict)
    starts: dict[int, tuple[int, EpisodeSpec]] = field(default_factory=dict)
    actions: dict[int, Generation] = field(default_factory=dict)
    retries: dict[int, _Retry] = field(default_factory=dict)
    call: Future[_Answer] | None = None
    times: RolloutTimes = field(default_factory=RolloutTimes)

    def run(self) -> RolloutBatch:
        began = time.perf_counter()
        with ThreadPoolExecutor(1, thread_name_prefix="environment") as thread:
            try:
                while self.book.waiting or self.starts or self.playing:
                    self._fill()
                    self._send(thread)
                    if self.engine.num_running:
                        self._generate()
                    else:
                        self._pause()
                    self._receive()
            finally:
                self.engine.release([each.episode_id for each in self.playing.values()])
        self.times.total_s = time.perf_counter() - began
        return self.book.close(self.times)

    def _fill(self) -> None:
        """Puts waiting episodes into free slots."""
        waiting = self.book.waiting
        if not waiting:
            return
        for slot in range(self.slots.num_slots):
            if waiting and slot not in self.playing and slot not in self.starts:
                self.starts[slot] = waiting.popleft()

    def _send(self, thread: ThreadPoolExecutor) -> None:
        """Calls the environment for all slots that are due, if it is free."""
        if self.call is not None or not (self.starts or self.actions):
            return
        now = time.perf_counter()
        starts = {
            s: slot_start(spec) for s, (_, spec) in self.starts.items() if self._is_due(s, now)
        }
        steps = {
            slot: self.book.action(self.playing[slot], each)
            for slot, each in self.actions.items()
            if self._is_due(slot, now)
        }
        if starts or steps:
            self.times.num_retries += any(slot in self.retries for slot in (*starts, *steps))
            self.call = thread.submit(self._ask, starts, steps)

    def _is_due(self, slot: int, now: float) -> bool:
        retry = self.retries.get(slot)
        return retry is None or retry.due <= now

    def _ask(self, starts: Mapping[int, SlotStart], steps: Mapping[int, str]) -> _Answer:
        """One call of the environment; runs in the thread."""
        began = time.perf_counter()
        catch = self.book.config.retry_on
        resets = self.slots.reset(starts, catch) if starts else {}
        stepped = self.slots.step(steps, catch) if steps else {}
        return _Answer(resets, stepped, time.perf_counter() - began)

    def _generate(self) -> None:
        """Goes on with the turns that run; those that end go to the environment."""
        began = time.perf_counter()
        ended = self.engine.step()
        self.times.engine_s += time.perf_counter() - began
        for episode_id, generation in ended:
            self.actions[self.slot_of[episode_id]] = generation
            self.book.num_sampled += len(generation.token_ids)

    def _pause(self) -> None:
        """Waits for the environment, or for the first retry that becomes due."""
        began = time.perf_counter()
        if self.call is not None:
            wait([self.call])
        elif self.retries:
            slot = min(self.retries, key=lambda slot: self.retries[slot].due)
            self.sleep(max(0.0, self.retries[slot].due - began))
            self.retries[slot].due = began
        self.times.wait_s += time.perf_counter() - began

    def _receive(self) -> None:
        """Reads what the environment gave, if it has, and submits the next turns."""
        if self.call is None or not self.call.done():
            return
        answer = self.call.result()
        self.call = None
        self.times.env_s += answer.seconds
        begun = [self._begin(slot, result) for slot, result in self._settled(answer.resets)]
        moved = [self._advance(slot, result) for slot, result in self._settled(answer.steps)]
        requests = [self.book.request(each) for each in (*begun, *moved) if each is not None]
        if requests:
            self.engine.submit(requests, self.book.params)

    def _settled(
        self, results: Mapping[int, Result | SlotFailure]
    ) -> list[tuple[int, Result | SlotFailure]]:
        """Leaves out the slots whose call failed and will be made again."""
        config, now = self.book.config, time.perf_counter()
        settled: list[tuple[int, Result | SlotFailure]] = []
        for slot, result in results.items():
            num_failures = self.retries[slot].num_failures if slot in self.retries else 0
            if isinstance(result, SlotFailure) and num_failures < config.max_retries:
                due = now + config.backoff_s * 2**num_failures
                self.retries[slot] = _Retry(num_failures + 1, due)
            else:
                self.retries.pop(slot, None)
                settled.append((slot, result))
        return settled

    def _begin(self, slot: int, result: SlotReset | SlotFailure) -> Episode | None:
        episode = self.book.begin(*self.starts.pop(slot), result)
        if episode is not None:
            self.playing[slot] = episode
            self.slot_of[episode.episode_id] = slot
        return episode

    def _advance(self, slot: int, result: SlotStep | SlotFailure) -> Episode | None:
        """Records a turn; None if it was the episode's last."""
        episode = self.playing[slot]
        if not self.book.advance(episode, self.actions.pop(slot), result):
            return episode
        del self.playing[slot], self.slot_of[episode.episode_id]
        self.engine.release([episode.episode_id])
        return None
