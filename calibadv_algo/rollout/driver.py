"""Plays episodes: slots of an environment on one side, a generation engine on the other.

All episodes in play take their turns in lock-step: one call of the engine, one of the slots.
A slot whose episode has ended starts the next one at once. ``async_driver.py`` plays the same
episodes without waiting for the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.episodes import (
    OVERFLOW_KEY,
    DriverConfig,
    DroppedEpisode,
    DropReason,
    Episode,
    EpisodeBook,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutStats,
    RolloutTimes,
    count_lost_groups,
    encode_prompt,
    regroup,
    slot_start,
    turn_seed,
)
from calibadv_algo.rollout.slots import EnvSlots, SlotFailure

__all__ = [
    "OVERFLOW_KEY",
    "DriverConfig",
    "DropReason",
    "DroppedEpisode",
    "EpisodeSpec",
    "RolloutBatch",
    "RolloutStats",
    "collect",
    "count_lost_groups",
    "encode_prompt",
    "regroup",
    "turn_seed",
]

Given = TypeVar("Given")
Result = TypeVar("Result")


def collect(
    slots: EnvSlots,
    engine: GenerationEngine,
    tokenizer: Tokenizer,
    tasks: Sequence[EpisodeSpec],
    params: SamplingParams,
    *,
    policy_version: int = 0,
    config: DriverConfig | None = None,
    journal: FinishedEpisodes | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RolloutBatch:
    """Plays one episode for each spec.

    An episode ends when the environment says so, or when its context and a turn of
    ``params.max_tokens`` would not fit into ``max_context_tokens``: then it is recorded as
    truncated with the reward that it has, and its last turn's info says
    ``is_context_overflow``. The observation of a last turn is recorded as text but not as
    tokens: no policy ever saw it.

    Args:
        slots: Where the episodes are played; they are reset here and stay open.
        engine: Samples the turns.
        tokenizer: Encodes observations; the engine's own.
        tasks: The episodes.
        params: How turns are sampled.
        policy_version: Recorded in every trajectory.
        config: How episodes are driven.
        journal: Episodes that it knows are not played again; those that end are recorded in it.
        sleep: Waits between retries.

    Returns:
        Trajectories in the order of ``tasks``, what was dropped, and statistics.

    Raises:
        RolloutError: if there were episodes and every one of them was dropped.
        EngineError: if the engine failed.
    """
    book = EpisodeBook(
        tasks=tasks,
        tokenizer=tokenizer,
        params=params,
        policy_version=policy_version,
        config=config or DriverConfig(),
        journal=journal,
    )
    return _LockStep(book, slots, engine, sleep).play()


@dataclass
class _LockStep:
    """The state of one call of :func:`collect`."""

    book: EpisodeBook
    slots: EnvSlots
    engine: GenerationEngine
    sleep: Callable[[float], None]
    live: dict[int, Episode] = field(default_factory=dict)
    times: RolloutTimes = field(default_factory=RolloutTimes)

    def play(self) -> RolloutBatch:
        began = time.perf_counter()
        try:
            while self.book.waiting or self.live:
                self._start()
                if self.live:
                    self._turn()
        finally:
            self.engine.release([episode.episode_id for episode in self.live.values()])
        self.times.total_s = time.perf_counter() - began
        self.times.wait_s = self.times.env_s
        return self.book.close(self.times)

    def _start(self) -> None:
        """Fills free slots with waiting episodes."""
        free = [slot for slot in range(self.slots.num_slots) if slot not in self.live]
        waiting = self.book.waiting
        chosen = {slot: waiting.popleft() for slot in free[: len(waiting)]}
        if not chosen:
            return
        starts = {slot: slot_start(spec) for slot, (_, spec) in chosen.items()}
        for slot, result in self._with_retries(self.slots.reset, starts).items():
            episode = self.book.begin(*chosen[slot], result)
            if episode is not None:
                self.live[slot] = episode

    def _turn(self) -> None:
        """One turn of every episode in play."""
        slots = list(self.live)
        requests = [self.book.request(self.live[slot]) for slot in slots]
        began = time.perf_counter()
        generations = self.engine.generate(requests, self.book.params)
        self.times.engine_s += time.perf_counter() - began
        sampled = dict(zip(slots, generations, strict=True))
        self.book.num_sampled += sum(len(generation.token_ids) for generation in generations)
        results = self._with_retries(
            self.slots.step, {slot: generation.text for slot, generation in sampled.items()}
        )
        ended: list[str] = []
        for slot, result in results.items():
            if self.book.advance(self.live[slot], sampled[slot], result):
                ended.append(self.live.pop(slot).episode_id)
        self.engine.release(ended)

    def _with_retries(
        self,
        call: Callable[
            [Mapping[int, Given], tuple[type[Exception], ...]], dict[int, Result | SlotFailure]
        ],
        given: Mapping[int, Given],
    ) -> dict[int, Result | SlotFailure]:
        """Calls the slots, and again for those that failed, waiting longer each time."""
        config = self.book.config
        began = time.perf_counter()
        results = call(given, config.retry_on)
        for attempt in range(config.max_retries):
            failed = [slot for slot, one in results.items() if isinstance(one, SlotFailure)]
            if not failed:
                break
            self.sleep(config.backoff_s * 2**attempt)
            self.times.num_retries += 1
            results |= call({slot: given[slot] for slot in failed}, config.retry_on)
        self.times.env_s += time.perf_counter() - began
        return {slot: results[slot] for slot in given}
