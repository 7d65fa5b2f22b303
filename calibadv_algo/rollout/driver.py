"""Plays episodes: slots of an environment on one side, a generation engine on the other.

All episodes in play take their turns in lock-step: one call of the engine, one of the slots.
A slot whose episode has ended starts the next one at once. What was sampled is kept as token
ids and never encoded again; only the text of observations is encoded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from calibadv_algo.errors import RolloutError
from calibadv_algo.rollout.base import (
    Generation,
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
    Tokenizer,
)
from calibadv_algo.rollout.slots import (
    EnvSlots,
    SlotFailure,
    SlotReset,
    SlotStart,
    SlotStep,
)
from calibadv_algo.types import Group, Trajectory, Turn

DropReason = Literal["reset_failed", "step_failed", "prompt_too_long"]

OVERFLOW_KEY = "is_context_overflow"

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """An episode to be played.

    Attributes:
        task_index: Which task.
        group_id: Episodes of one group are compared with each other.
        seed: Seed of the sampling, not negative.
        env_seed: Seed of ``env.reset``; the task's index if None, so that a group plays the
            same task even where the environment draws it from its seed.
    """

    task_index: int
    group_id: str
    seed: int
    env_seed: int | None = None


@dataclass(frozen=True, slots=True)
class DroppedEpisode:
    """An episode that gives no trajectory.

    Attributes:
        spec: Which one.
        reason: Why.
        message: The error's text, or the length that did not fit.
        num_turns: Turns that were played before.
    """

    spec: EpisodeSpec
    reason: DropReason
    message: str
    num_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStats:
    """What a call of :func:`collect` did.

    Attributes:
        num_episodes: Trajectories recorded.
        num_turns: Their turns.
        num_sampled_tokens: Tokens that the engine sampled, dropped episodes included.
        num_observed_tokens: Prompt and observation tokens given to the engine, each once.
        num_overflows: Episodes ended because the next turn had no room in the context.
        num_dropped: Episodes without a trajectory.
        num_groups_lost: Groups of two or more episodes of which fewer than two are left.
        num_retries: Calls to the environment that were repeated for some slot.
        engine_s: Seconds in the engine.
        env_s: Seconds in the environment, waiting before retries included.
        total_s: Seconds in all.
    """

    num_episodes: int
    num_turns: int
    num_sampled_tokens: int
    num_observed_tokens: int
    num_overflows: int
    num_dropped: int
    num_groups_lost: int
    num_retries: int
    engine_s: float
    env_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens sampled per second of the whole, 0 for an empty call."""
        return self.num_sampled_tokens / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """What :func:`collect` returns.

    Attributes:
        trajectories: In the order of the specs, whenever they ended.
        dropped: Episodes without a trajectory, in the order of the specs.
        stats: Counts and times.
    """

    trajectories: tuple[Trajectory, ...]
    dropped: tuple[DroppedEpisode, ...]
    stats: RolloutStats


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """How episodes are driven.

    Attributes:
        max_context_tokens: Longest episode in tokens; None for no limit but the engine's.
        chat_template: Whether the first observation becomes one user message in the
            tokenizer's chat template; otherwise the policy simply continues it. Later
            observations are always a plain continuation of the policy's message.
        retry_on: Exceptions of the environment that are a machine's failure and not the
            policy's fault. The composition root names those of its environments.
        max_retries: Repetitions after the first failure, before the episode is dropped.
        backoff_s: Seconds before the first repetition; doubled for each further one.
    """

    max_context_tokens: int | None = None
    chat_template: bool = False
    retry_on: tuple[type[Exception], ...] = (OSError,)
    max_retries: int = 3
    backoff_s: float = 0.25

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.max_context_tokens is not None and self.max_context_tokens < 2:
            raise ValueError(
                f"max_context_tokens must be at least 2, got {self.max_context_tokens}"
            )
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, got {self.max_retries}")
        if self.backoff_s < 0:
            raise ValueError(f"backoff_s must not be negative, got {self.backoff_s}")


def collect(
    slots: EnvSlots,
    engine: GenerationEngine,
    tokenizer: Tokenizer,
    tasks: Sequence[EpisodeSpec],
    params: SamplingParams,
    *,
    policy_version: int = 0,
    config: DriverConfig | None = None,
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
        sleep: Waits between retries.

    Returns:
        Trajectories in the order of ``tasks``, what was dropped, and statistics.

    Raises:
        RolloutError: if there were episodes and every one of them was dropped.
        EngineError: if the engine failed.
    """
    driver = _Driver(
        slots=slots,
        engine=engine,
        tokenizer=tokenizer,
        params=params,
        policy_version=policy_version,
        config=config or DriverConfig(),
        sleep=sleep,
    )
    return driver.play(tasks)


def regroup(trajectories: Iterable[Trajectory], min_size: int = 2) -> list[Group]:
    """Puts trajectories of one group together.

    Args:
        trajectories: In any order.
        min_size: Smaller groups are left out: an advantage needs something to compare with.

    Returns:
        Groups in the order in which their ids first appear, their trajectories in the order
        given.
    """
    members: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        members.setdefault(trajectory.group_id, []).append(trajectory)
    return [Group(tuple(group)) for group in members.values() if len(group) >= min_size]


def count_lost_groups(tasks: Iterable[EpisodeSpec], trajectories: Iterable[Trajectory]) -> int:
    """Number of groups that had two episodes or more and have fewer than two trajectories."""
    planned: dict[str, int] = {}
    for spec in tasks:
        planned[spec.group_id] = planned.get(spec.group_id, 0) + 1
    left = {group.group_id for group in regroup(trajectories)}
    return sum(1 for group_id, size in planned.items() if size >= 2 and group_id not in left)


def turn_seed(episode_seed: int, turn: int) -> int:
    """Seed of one turn's sampling: 63 bits, a function of the episode's seed and the turn."""
    sequence = np.random.SeedSequence(episode_seed, spawn_key=(turn,))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(slots=True)
class _Episode:
    """An episode in play."""

    index: int
    spec: EpisodeSpec
    prompt_text: str
    prompt_ids: tuple[int, ...]
    reset_info: Mapping[str, Any]
    context: tuple[int, ...]
    turns: list[Turn] = field(default_factory=list)

    @property
    def episode_id(self) -> str:
        return f"{self.index}:{self.spec.group_id}"


@dataclass(kw_only=True)
class _Driver:
    """The state of one call of :func:`collect`."""

    slots: EnvSlots
    engine: GenerationEngine
    tokenizer: Tokenizer
    params: SamplingParams
    policy_version: int
    config: DriverConfig
    sleep: Callable[[float], None]
    live: dict[int, _Episode] = field(default_factory=dict)
    finished: dict[int, Trajectory] = field(default_factory=dict)
    dropped: dict[int, DroppedEpisode] = field(default_factory=dict)
    num_sampled: int = 0
    num_observed: int = 0
    num_overflows: int = 0
    num_retries: int = 0
    engine_s: float = 0.0
    env_s: float = 0.0

    def play(self, tasks: Sequence[EpisodeSpec]) -> RolloutBatch:
        began = time.perf_counter()
        waiting = deque(enumerate(tasks))
        try:
            while waiting or self.live:
                self._start(waiting)
                if self.live:
                    self._turn()
        finally:
            self.engine.release([episode.episode_id for episode in self.live.values()])
        if tasks and not self.finished:
            last = next(iter(self.dropped.values()))
            raise RolloutError(
                f"all {len(tasks)} episodes were dropped, {last.reason}: {last.message}"
            )
        trajectories = tuple(self.finished[index] for index in sorted(self.finished))
        dropped = tuple(self.dropped[index] for index in sorted(self.dropped))
        stats = self._stats(tasks, trajectories, time.perf_counter() - began)
        return RolloutBatch(trajectories, dropped, stats)

    def _start(self, waiting: deque[tuple[int, EpisodeSpec]]) -> None:
        """Fills free slots with waiting episodes."""
        free = [slot for slot in range(self.slots.num_slots) if slot not in self.live]
        chosen = {slot: waiting.popleft() for slot in free[: len(waiting)]}
        if not chosen:
            return
        starts = {
            slot: SlotStart(
                spec.task_index, spec.task_index if spec.env_seed is None else spec.env_seed
            )
            for slot, (_, spec) in chosen.items()
        }
        results = self._with_retries(self.slots.reset, starts)
        for slot, result in results.items():
            index, spec = chosen[slot]
            if isinstance(result, SlotFailure):
                self._drop(index, spec, "reset_failed", describe(result.error), 0)
            else:
                self._begin(slot, index, spec, result)

    def _begin(self, slot: int, index: int, spec: EpisodeSpec, reset: SlotReset) -> None:
        ids = encode_prompt(self.tokenizer, reset.text, self.config.chat_template)
        if not self._has_room(ids):
            self._drop(index, spec, "prompt_too_long", f"{len(ids)} tokens", 0)
            return
        self.num_observed += len(ids)
        self.live[slot] = _Episode(index, spec, reset.text, ids, reset.info, ids)

    def _turn(self) -> None:
        """One turn of every episode in play."""
        slots = list(self.live)
        requests = [self._request(self.live[slot]) for slot in slots]
        began = time.perf_counter()
        generations = self.engine.generate(requests, self.params)
        self.engine_s += time.perf_counter() - began
        sampled = dict(zip(slots, generations, strict=True))
        self.num_sampled += sum(len(generation.token_ids) for generation in generations)
        results = self._with_retries(
            self.slots.step, {slot: generation.text for slot, generation in sampled.items()}
        )
        ended: list[str] = []
        for slot, result in results.items():
            episode = self.live[slot]
            if isinstance(result, SlotFailure):
                message = describe(result.error)
                self._drop(episode.index, episode.spec, "step_failed", message, len(episode.turns))
                is_over = True
            else:
                is_over = self._advance(episode, sampled[slot], result)
            if is_over:
                ended.append(episode.episode_id)
                del self.live[slot]
        self.engine.release(ended)

    def _request(self, episode: _Episode) -> GenerationRequest:
        seed = turn_seed(episode.spec.seed, len(episode.turns))
        return GenerationRequest(episode.episode_id, episode.context, seed)

    def _advance(self, episode: _Episode, generation: Generation, step: SlotStep) -> bool:
        """Records a turn; says whether the episode is over."""
        turn = Turn(
            action_ids=generation.token_ids,
            action_text=generation.text,
            logprobs=generation.logprobs,
            observation_text=step.text,
            reward=step.reward,
            info=step.info,
            is_cut=generation.finish_reason == "length",
        )
        is_terminated, is_truncated = step.is_terminated, step.is_truncated
        if not (is_terminated or is_truncated):
            observed = tuple(self.tokenizer.encode(step.text, add_special_tokens=False))
            context = episode.context + generation.token_ids + observed
            if self._has_room(context):
                episode.turns.append(replace(turn, observation_ids=observed))
                episode.context = context
                self.num_observed += len(observed)
                return False
            self.num_overflows += 1
            is_truncated = True
            turn = replace(turn, info={**step.info, OVERFLOW_KEY: True})
        episode.turns.append(turn)
        self._finish(episode, is_terminated, is_truncated)
        return True

    def _finish(self, episode: _Episode, is_terminated: bool, is_truncated: bool) -> None:
        task_id = episode.reset_info.get("task_id", str(episode.spec.task_index))
        self.finished[episode.index] = Trajectory(
            group_id=episode.spec.group_id,
            task_id=str(task_id),
            prompt_ids=episode.prompt_ids,
            prompt_text=episode.prompt_text,
            turns=tuple(episode.turns),
            is_terminated=is_terminated,
            is_truncated=is_truncated,
            reset_info=episode.reset_info,
            policy_version=self.policy_version,
            seed=episode.spec.seed,
        )

    def _drop(
        self, index: int, spec: EpisodeSpec, reason: DropReason, message: str, num_turns: int
    ) -> None:
        self.dropped[index] = DroppedEpisode(spec, reason, message, num_turns)

    def _has_room(self, context: Sequence[int]) -> bool:
        limit = self.config.max_context_tokens
        return limit is None or len(context) + self.params.max_tokens <= limit

    def _with_retries(
        self,
        call: Callable[
            [Mapping[int, Given], tuple[type[Exception], ...]], dict[int, Result | SlotFailure]
        ],
        given: Mapping[int, Given],
    ) -> dict[int, Result | SlotFailure]:
        """Calls the slots, and again for those that failed, waiting longer each time."""
        began = time.perf_counter()
        results = call(given, self.config.retry_on)
        for attempt in range(self.config.max_retries):
            failed = [slot for slot, one in results.items() if isinstance(one, SlotFailure)]
            if not failed:
                break
            self.sleep(self.config.backoff_s * 2**attempt)
            self.num_retries += 1
            results |= call({slot: given[slot] for slot in failed}, self.config.retry_on)
        self.env_s += time.perf_counter() - began
        return {slot: results[slot] for slot in given}

    def _stats(
        self,
        tasks: Sequence[EpisodeSpec],
        trajectories: tuple[Trajectory, ...],
        total_s: float,
    ) -> RolloutStats:
        return RolloutStats(
            num_episodes=len(trajectories),
            num_turns=sum(len(trajectory.turns) for trajectory in trajectories),
            num_sampled_tokens=self.num_sampled,
            num_observed_tokens=self.num_observed,
            num_overflows=self.num_overflows,
            num_dropped=len(self.dropped),
            num_groups_lost=count_lost_groups(tasks, trajectories),
            num_retries=self.num_retries,
            engine_s=self.engine_s,
            env_s=self.env_s,
            total_s=total_s,
        )


def encode_prompt(tokenizer: Tokenizer, text: str, chat_template: bool) -> tuple[int, ...]:
    """Encodes the first observation.

    Args:
        tokenizer: A Hugging Face tokenizer; with ``chat_template`` it must have a template.
        text: What ``env.reset`` returned.
        chat_template: Whether to make it one user message, followed by the template's opening
            of the policy's message. Otherwise it is encoded as it stands, with the special
            tokens that the tokenizer puts before a text (a beginning-of-sequence token).

    Raises:
        ValueError: if the tokenizer has no chat template.
    """
    if not chat_template:
        return tuple(tokenizer.encode(text, add_special_tokens=True))
    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None or getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("chat_template needs a tokenizer with a chat template, got one without")
    message = {"role": "user", "content": text}
    return tuple(apply([message], add_generation_prompt=True, tokenize=True, return_dict=False))


def describe(error: Exception) -> str:
    """An error's type and text on one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")
