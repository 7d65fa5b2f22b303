"""Plays episodes: slots of an environment on one side, a generation engine on the other.

All episodes in play take their turns in lock-step: one call of the engine, one of the slots.
A slot whose episode has ended starts the next one at once. ``async_driver.py`` plays the same
episodes without waiting for the slowest, ``tree.py`` plays episodes that share their beginnings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.episodes import (
    DriverConfig,
    Episode,
    EpisodeBook,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutTimes,
    slot_start,
)
from calibadv_algo.rollout.slots import EnvSlots, SlotFailure

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Player:
    """Plays episodes, all of them in lock-step.

    An episode ends when the environment says so, or when its context and a turn of
    ``params.max_tokens`` would not fit into ``max_context_tokens``: then it is recorded as
    truncated with the reward that it has, and its last turn's info says
    ``is_context_overflow``. The observation of a last turn is recorded as text but not as
    tokens: no policy ever saw it.

    Attributes:
        slots: Where the episodes are played; they are reset here and stay open.
        engine: Samples the turns.
        tokenizer: Encodes observations; the engine's own.
        params: How turns are sampled.
        driver: How episodes are driven.
        sleep: Waits between retries.
    """

    slots: EnvSlots
    engine: GenerationEngine
    tokenizer: Tokenizer
    params: SamplingParams
    driver: DriverConfig = field(default_factory=DriverConfig)
    sleep: Callable[[float], None] = time.sleep

    def play(
        self,
        specs: Sequence[EpisodeSpec],
        *,
        policy_version: int = 0,
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Plays one episode for each spec.

        Args:
            specs: The episodes.
            policy_version: Recorded in every trajectory.
            journal: Episodes that it knows are not played again; those that end are recorded
                in it.

        Returns:
            Trajectories in the order of ``specs``, what was dropped, and statistics.

        Raises:
            RolloutError: if there were episodes and every one of them was dropped.
            EngineError: if the engine failed.
        """
        return LockStep(self, self.open_book(specs, policy_version, journal)).run()

    def open_book(
        self,
        specs: Sequence[EpisodeSpec],
        policy_version: int,
        journal: FinishedEpisodes | None = None,
    ) -> EpisodeBook:
        """The record of some episodes, none of them begun."""
        return EpisodeBook(
            tasks=specs,
            tokenizer=self.tokenizer,
            params=self.params,
            policy_version=policy_version,
            config=self.driver,
            journal=journal,
        )


@dataclass
class LockStep:
    """Episodes that take their turns together; the state of one call of :meth:`Player.play`.

    Attributes:
        player: Slots, engine and settings.
        book: What waits to be played, and what became of the rest.
        live: Episodes in play by slot.
        times: What was measured so far.
    """

    player: Player
    book: EpisodeBook
    live: dict[int, Episode] = field(default_factory=dict)
    times: RolloutTimes = field(default_factory=RolloutTimes)

    def run(self) -> RolloutBatch:
        """Plays to the end of the last episode."""
        began = time.perf_counter()
        try:
            while self.book.waiting or self.live:
                self.start_episodes()
                if self.live:
                    self.take_turns()
        finally:
            self.player.engine.release([episode.episode_id for episode in self.live.values()])
        self.times.total_s = time.perf_counter() - began
        self.times.wait_s = self.times.env_s
        return self.book.close(self.times)

    def start_episodes(self) -> None:
        """Fills free slots with waiting episodes."""
        slots, waiting = self.player.slots, self.book.waiting
        free = [slot for slot in range(slots.num_slots) if slot not in self.live]
        chosen = {slot: waiting.popleft() for slot in free[: len(waiting)]}
        if not chosen:
            return
        starts = {slot: slot_start(spec) for slot, (_, spec) in chosen.items()}
        for slot, result in self._with_retries(slots.reset, starts).items():
            episode = self.book.begin(*chosen[slot], result)
            if episode is not None:
                self.live[slot] = episode

    def take_turns(self) -> None:
        """Samples and plays one turn of every episode in play."""
        engine, slots = self.player.engine, list(self.live)
        requests = [self.book.request(self.live[slot]) for slot in slots]
        began = time.perf_counter()
        generations = engine.generate(requests, self.book.params)
        self.times.engine_s += time.perf_counter() - began
        sampled = dict(zip(slots, generations, strict=True))
        self.book.num_sampled += sum(len(generation.token_ids) for generation in generations)
        actions = {slot: self.book.action(self.live[slot], sampled[slot]) for slot in slots}
        results = self._with_retries(self.player.slots.step, actions)
        ended: list[str] = []
        for slot, result in results.items():
            if self.book.advance(self.live[slot], sampled[slot], result):
                ended.append(self.live.pop(slot).episode_id)
        engine.release(ended)

    def _with_retries(
        self,
        call: Callable[
            [Mapping[int, Given], tuple[type[Exception], ...]], dict[int, Result | SlotFailure]
        ],
        given: Mapping[int, Given],
    ) -> dict[int, Result | SlotFailure]:
        """Calls the slots, and again for those that failed, waiting longer each time."""
        config = self.player.driver
        began = time.perf_counter()
        results = call(given, config.retry_on)
        for attempt in range(config.max_retries):
            failed = [slot for slot, one in results.items() if isinstance(one, SlotFailure)]
            if not failed:
                break
            self.player.sleep(config.backoff_s * 2**attempt)
            self.times.num_retries += 1
            results |= call({slot: given[slot] for slot in failed}, config.retry_on)
        self.times.env_s += time.perf_counter() - began
        return {slot: results[slot] for slot in given}
