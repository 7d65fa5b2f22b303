"""Episodes as all drivers record them: the plan, the turns as they come, the end.

Nothing here calls an environment or an engine. What was sampled is kept as token ids and never
encoded again; only the text of observations is encoded.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
from annotated_types import Ge

from calibadv_algo.errors import BadNumberError, RolloutError
from calibadv_algo.rollout.chat import encode_prompt, first_turn, template_opening
from calibadv_algo.rollout.conversation import (
    Conversation,
    EarlierThoughts,
    Exchange,
    NextContext,
    Observations,
    check_messages,
)
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationRequest,
    History,
    SamplingParams,
    Tokenizer,
)
from calibadv_algo.rollout.slots import SlotFailure, SlotReset, SlotStart, SlotStep
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.common.checks import NOT_NEGATIVE, Checked

DropReason = Literal["reset_failed", "step_failed", "prompt_too_long", "bad_number"]

BadNumbers = Literal["raise", "drop"]
"""Effect of a number from outside that is NaN or infinite."""

OVERFLOW_KEY = "is_context_overflow"

SCORE_KEYS: Final = ("em", "f1", "cover_em", "gold_recall", "think_similarity", "gold_similarity")
"""Scores among the info keys, one number or a tuple of them; an unknown recall is NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """An episode to be played.

    Attributes:
        task_index: Which task.
        group_id: Episodes of one group are compared with each other.
        seed: Seed of the sampling, not negative.
        env_seed: Seed of ``env.reset``; the task's index if None, so that a group plays the
            same task even where the environment draws it from its seed.
        training_progress: How much of the training is over, 0 to 1; None outside of one.
    """

    task_index: int
    group_id: str
    seed: int
    env_seed: int | None = None
    training_progress: float | None = None


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
    """Counts and times of a call of ``Player.play``.

    Attributes:
        num_episodes: Trajectories recorded.
        num_turns: Their turns.
        num_sampled_tokens: Tokens that the engine sampled, dropped episodes included and those
            from the journal not.
        num_observed_tokens: Prompt and observation tokens given to the engine, each once.
        num_overflows: Episodes ended because the next turn had no room in the context.
        num_dropped: Episodes without a trajectory.
        num_groups_lost: Groups of two or more episodes of which fewer than two are left.
        num_retries: Calls to the environment that were repeated for some slot.
        engine_s: Seconds in the engine.
        env_s: Seconds in the environment; in lock-step, waiting before retries included.
        total_s: Seconds in all.
        wait_s: Seconds in which nothing was generated because every episode waited for the
            environment.
        num_reused: Trajectories that were taken from the journal.
        num_bad_numbers: Episodes among the dropped ones that gave NaN or infinity.
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
    wait_s: float = 0.0
    num_reused: int = 0
    num_bad_numbers: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens sampled per second of the whole, 0 for an empty call."""
        return self.num_sampled_tokens / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Trajectories of a call of ``Player.play``.

    Attributes:
        trajectories: In the order of the specs, whenever they ended.
        dropped: Episodes without a trajectory, in the order of the specs.
        stats: Counts and times.
    """

    trajectories: tuple[Trajectory, ...]
    dropped: tuple[DroppedEpisode, ...]
    stats: RolloutStats


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig(Checked):
    """Driving of episodes: length, prompts, retries.

    Attributes:
        max_context_tokens: Longest episode in tokens; None for no limit but the engine's.
        chat_template: If true, the first observation becomes one user message in the
            tokenizer's chat template; otherwise the policy simply continues it. Later
            observations are a plain continuation of the policy's message.
        template_settings: Variables of that template, such as ``enable_thinking``.
        observations: ``user`` or ``tool`` make later observations messages of that role.
        earlier_thoughts: What becomes of the thoughts of earlier turns then.
        retry_on: Exceptions of the environment that are a machine's failure and not the
            policy's fault. The composition root names those of its environments.
        max_retries: Repetitions after the first failure, before the episode is dropped.
        backoff_s: Seconds before the first repetition; doubled for each further one.
        bad_numbers: Effect of NaN or infinity as a reward, score or log-probability: an error, or
            the loss of its episode.
    """

    max_context_tokens: Annotated[int | None, Ge(2)] = None
    chat_template: bool = False
    template_settings: Mapping[str, Any] = field(default_factory=dict)
    observations: Observations = "continue"
    earlier_thoughts: EarlierThoughts = "keep"
    retry_on: tuple[type[Exception], ...] = (OSError,)
    max_retries: Annotated[int, NOT_NEGATIVE] = 3
    backoff_s: Annotated[float, NOT_NEGATIVE] = 0.25
    bad_numbers: BadNumbers = "raise"

    def __post_init__(self) -> None:
        """Checks ranges, and what goes together."""
        Checked.__post_init__(self)
        check_messages(self.chat_template, self.observations, self.earlier_thoughts)


@dataclass(slots=True)
class Episode:
    """An episode in play.

    Attributes:
        index: Its place among the specs.
        spec: What it is.
        prompt_text: What ``reset`` returned.
        prompt_ids: Its tokens.
        reset_info: What ``reset`` reported.
        context: All tokens so far, what the next turn continues.
        turns: The turns so far.
        starts_segment: Whether the context does not go on from that of the turn before.
    """

    index: int
    spec: EpisodeSpec
    prompt_text: str
    prompt_ids: tuple[int, ...]
    reset_info: Mapping[str, Any]
    context: tuple[int, ...]
    turns: list[Turn] = field(default_factory=list)
    starts_segment: bool = False

    @property
    def episode_id(self) -> str:
        """Its name for the engine, unique within a call."""
        return f"{self.index}:{self.spec.group_id}"


class FinishedEpisodes(Protocol):
    """Remembers finished episodes beyond the life of the process (``rollout/journal.py``)."""

    def find(self, spec: EpisodeSpec) -> Trajectory | None:
        """The trajectory of an episode that was finished before, None if it was not."""
        ...

    def record(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        """Keeps the trajectory of an episode that has just ended."""
        ...


@dataclass(kw_only=True)
class EpisodeBook:
    """The episodes of one collection: which wait, and what became of the others.

    Attributes:
        tasks: All episodes.
        tokenizer: Encodes observations.
        params: How turns are sampled.
        policy_version: Recorded in every trajectory.
        config: How episodes are driven.
        journal: Where finished episodes are found and kept, if anywhere.
        waiting: Episodes that have not been started, with their places.
        finished: Trajectories by place.
        dropped: Episodes without a trajectory by place.
    """

    tasks: Sequence[EpisodeSpec]
    tokenizer: Tokenizer
    params: SamplingParams
    policy_version: int
    config: DriverConfig
    journal: FinishedEpisodes | None = None
    waiting: deque[tuple[int, EpisodeSpec]] = field(default_factory=deque)
    finished: dict[int, Trajectory] = field(default_factory=dict)
    dropped: dict[int, DroppedEpisode] = field(default_factory=dict)
    num_sampled: int = 0
    num_observed: int = 0
    num_reused: int = 0

    def __post_init__(self) -> None:
        """Looks every episode up in the journal; those that it lacks wait."""
        for index, spec in enumerate(self.tasks):
            known = None if self.journal is None else self.journal.find(spec)
            if known is None:
                self.waiting.append((index, spec))
            else:
                self.finished[index] = known
                self.num_reused += 1

    def begin(
        self, index: int, spec: EpisodeSpec, reset: SlotReset | SlotFailure
    ) -> Episode | None:
        """Starts an episode after its reset; None if it was dropped."""
        if isinstance(reset, SlotFailure):
            self.drop(index, spec, "reset_failed", describe(reset.error), 0)
            return None
        config = self.config
        ids = encode_prompt(
            self.tokenizer, reset.text, config.chat_template, config.template_settings
        )
        if not self._has_room(ids):
            self.drop(index, spec, "prompt_too_long", f"{len(ids)} tokens", 0)
            return None
        self.num_observed += len(ids)
        return Episode(index, spec, reset.text, ids, reset.info, ids)

    def action(self, episode: Episode, generation: Generation) -> str:
        """What the environment gets of a turn: the text, with what a template wrote of it."""
        if not self.config.chat_template:
            return generation.text
        if not episode.turns:
            return first_turn(self.opening, episode.prompt_text, generation.text)
        if self.chat is None:
            return generation.text
        opening = self.chat.opening(episode.prompt_text, exchanges_of(episode.turns))
        return first_turn(opening, episode.turns[-1].observation_text, generation.text)

    @cached_property
    def chat(self) -> Conversation | None:
        """Renders later observations as messages; None where they continue the policy's."""
        config = self.config
        if config.observations == "continue":
            return None
        thoughts, settings = config.earlier_thoughts, config.template_settings
        return Conversation(self.tokenizer, config.observations, thoughts, settings)

    @cached_property
    def opening(self) -> str:
        """What the chat template opens the policy's thought with."""
        return template_opening(self.tokenizer, self.config.template_settings)

    def request(self, episode: Episode) -> GenerationRequest:
        """Asks for the next turn of an episode."""
        seed = turn_seed(episode.spec.seed, len(episode.turns))
        history = History(episode.prompt_text, episode.reset_info, episode.turns)
        return GenerationRequest(episode.episode_id, episode.context, seed, history)

    def advance(
        self, episode: Episode, generation: Generation, step: SlotStep | SlotFailure
    ) -> bool:
        """Records a turn, or drops the episode if its step failed; says whether it is over.

        Raises:
            BadNumberError: if reward, score or log-probability is NaN or infinite, and no setting
                says that its episode is dropped.
        """
        if isinstance(step, SlotFailure):
            message = describe(step.error)
            self.drop(episode.index, episode.spec, "step_failed", message, len(episode.turns))
            return True
        turn = Turn(
            action_ids=generation.token_ids,
            action_text=self.action(episode, generation),
            logprobs=generation.logprobs,
            observation_text=step.text,
            reward=step.reward,
            info=step.info,
            is_cut=generation.finish_reason == "length",
            context_ids=episode.context if episode.starts_segment else None,
        )
        trouble = bad_number(turn)
        if trouble is not None:
            return self._refuse(episode, trouble)
        is_terminated, is_truncated = step.is_terminated, step.is_truncated
        if not (is_terminated or is_truncated):
            following = self._following(episode, turn)
            if self._has_room(following.token_ids):
                episode.turns.append(replace(turn, observation_ids=following.observed))
                episode.context = following.token_ids
                episode.starts_segment = not following.goes_on
                self.num_observed += len(following.observed)
                return False
            is_truncated = True
            turn = replace(turn, info={**step.info, OVERFLOW_KEY: True})
        episode.turns.append(turn)
        self._finish(episode, is_terminated, is_truncated)
        return True

    def _following(self, episode: Episode, turn: Turn) -> NextContext:
        """What the turn behind this one is sampled from."""
        context, sampled = episode.context, turn.action_ids
        if self.chat is not None:
            exchanges = exchanges_of([*episode.turns, turn])
            return self.chat.after(episode.prompt_text, exchanges, context, sampled)
        observed = tuple(self.tokenizer.encode(turn.observation_text, add_special_tokens=False))
        return NextContext(context + sampled + observed, observed, goes_on=True)

    def drop(
        self, index: int, spec: EpisodeSpec, reason: DropReason, message: str, num_turns: int
    ) -> None:
        """Records that an episode was given up."""
        self.dropped[index] = DroppedEpisode(spec, reason, message, num_turns)

    def close(self, times: RolloutTimes) -> RolloutBatch:
        """Trajectories and statistics of all episodes.

        Raises:
            RolloutError: if there were episodes and every one of them was dropped.
        """
        if self.tasks and not self.finished:
            last = next(iter(self.dropped.values()))
            raise RolloutError(
                f"all {len(self.tasks)} episodes were dropped, {last.reason}: {last.message}"
            )
        trajectories = tuple(self.finished[index] for index in sorted(self.finished))
        dropped = tuple(self.dropped[index] for index in sorted(self.dropped))
        stats = RolloutStats(
            num_episodes=len(trajectories),
            num_turns=sum(len(trajectory.turns) for trajectory in trajectories),
            num_sampled_tokens=self.num_sampled,
            num_observed_tokens=self.num_observed,
            num_overflows=sum(OVERFLOW_KEY in each.final_info for each in trajectories),
            num_dropped=len(dropped),
            num_groups_lost=count_lost_groups(self.tasks, trajectories),
            num_retries=times.num_retries,
            engine_s=times.engine_s,
            env_s=times.env_s,
            total_s=times.total_s,
            wait_s=times.wait_s,
            num_reused=self.num_reused,
            num_bad_numbers=sum(each.reason == "bad_number" for each in dropped),
        )
        return RolloutBatch(trajectories, dropped, stats)

    def _finish(self, episode: Episode, is_terminated: bool, is_truncated: bool) -> None:
        task_id = episode.reset_info.get("task_id", str(episode.spec.task_index))
        trajectory = Trajectory(
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
        self.finished[episode.index] = trajectory
        if self.journal is not None:
            self.journal.record(episode.spec, trajectory)

    def _refuse(self, episode: Episode, trouble: str) -> bool:
        """Drops an episode with a bad number, which is over then, or raises."""
        spec, num_turns = episode.spec, len(episode.turns)
        place = f"turn {num_turns + 1} of episode {episode.episode_id} (task {spec.task_index})"
        if self.config.bad_numbers == "raise":
            raise BadNumberError(f"{trouble} at {place}; rollout.bad_numbers=drop leaves it out")
        self.drop(episode.index, spec, "bad_number", f"{trouble} at {place}", num_turns)
        return True

    def _has_room(self, context: Sequence[int]) -> bool:
        limit = self.config.max_context_tokens
        return limit is None or len(context) + self.params.max_tokens <= limit


@dataclass(slots=True, kw_only=True)
class RolloutTimes:
    """Times that a driver measures, as in :class:`RolloutStats`."""

    engine_s: float = 0.0
    env_s: float = 0.0
    wait_s: float = 0.0
    total_s: float = 0.0
    num_retries: int = 0


def exchanges_of(turns: Iterable[Turn]) -> list[Exchange]:
    """Turns as texts."""
    return [Exchange(turn.action_text, turn.observation_text) for turn in turns]


def bad_number(turn: Turn) -> str | None:
    """Names the first number of a turn that is NaN or infinite.

    Comparisons with NaN are false, so an estimator that compares rewards would go on and give a
    whole group zeros.

    Args:
        turn: With the environment's reward and scores, and the engine's log-probabilities.

    Returns:
        Which number and its value; None if all are finite.
    """
    if not math.isfinite(turn.reward):
        return f"reward is {turn.reward}"
    for place, value in enumerate(turn.logprobs):
        if not math.isfinite(value):
            return f"log-probability of token {place} is {value}"
    for key in SCORE_KEYS:
        given = turn.info.get(key)
        for value in given if isinstance(given, tuple | list) else (given,):
            if value is None:
                continue
            if not isinstance(value, float | int | np.generic):
                return f"info {key!r} is {value!r:.80}, no number but {type(value).__name__}"
            if math.isfinite(value):
                continue
            if not (key == "gold_recall" and math.isnan(value)):
                return f"info {key!r} is {value}"
    return None


def slot_start(spec: EpisodeSpec) -> SlotStart:
    """Task, seed and progress with which a slot begins an episode."""
    env_seed = spec.task_index if spec.env_seed is None else spec.env_seed
    return SlotStart(spec.task_index, env_seed, spec.training_progress)


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
    """Seed of one turn's sampling, a function of the episode's seed and the turn."""
    return derived_seed(episode_seed, turn)


def derived_seed(seed: int, *key: int) -> int:
    """Seed of something that hangs on a seed, by its key: 63 bits."""
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def describe(error: Exception) -> str:
    """An error's type and text on one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")
