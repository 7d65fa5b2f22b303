"""The episodes of an update: which questions, which seeds, what is filtered, what is added.

Everything is a function of the settings, the number of finished updates and the number of
questions that were asked before, so that a resumed run asks what it would have asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np

from calibadv_algo.errors import RolloutError
from calibadv_algo.learner.ranks import Ranks, SingleRank
from calibadv_algo.rollout.driver import (
    OVERFLOW_KEY,
    DriverConfig,
    EpisodeSpec,
    RolloutBatch,
    RolloutStats,
    regroup,
)
from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.episodes import FinishedEpisodes
from calibadv_algo.rollout.journal import JournalStep, StepJournal
from calibadv_algo.rollout.slots import EnvSlots
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.types import Group, Trajectory

_EPISODE_STREAM = 1


class PlayEpisodes(Protocol):
    """Plays one episode for each spec; `rollout.driver.collect` is one."""

    def __call__(
        self,
        slots: EnvSlots,
        engine: GenerationEngine,
        tokenizer: Tokenizer,
        tasks: Sequence[EpisodeSpec],
        params: SamplingParams,
        *,
        policy_version: int,
        config: DriverConfig,
    ) -> RolloutBatch:
        """Returns the trajectories in the order of the specs."""
        ...


class PlayWithJournal(Protocol):
    """Plays the episodes that a journal does not know, and records them there."""

    def __call__(
        self,
        slots: EnvSlots,
        engine: GenerationEngine,
        tokenizer: Tokenizer,
        tasks: Sequence[EpisodeSpec],
        params: SamplingParams,
        *,
        policy_version: int,
        config: DriverConfig,
        journal: FinishedEpisodes | None,
    ) -> RolloutBatch:
        """Returns the trajectories in the order of the specs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What an update may learn from, and what was played beside it.

    Attributes:
        groups: The groups that filters left, as they were played.
        left_out: Everything else that was played, by group.
        stats: Counts and times of all batches together.
        num_batches: Batches of questions that were played.
        num_questions: Questions that were played.
        num_filtered_groups: Groups that filters left nothing of, or too little.
        num_filtered_episodes: Episodes that filters took out, those of such groups included.
        num_surplus_groups: Groups that passed the filters after the update was full.
    """

    groups: tuple[Group, ...]
    left_out: tuple[Group, ...]
    stats: RolloutStats
    num_batches: int
    num_questions: int
    num_filtered_groups: int
    num_filtered_episodes: int
    num_surplus_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Plays the episodes of updates.

    Attributes:
        config: Seeds, sizes, sampling and filters.
        slots: Environments of the training tasks.
        engine: Samples from the policy.
        tokenizer: The policy's.
        params: How turns are sampled.
        driver: How episodes are driven.
        play: Plays episodes; where there are several ranks, this one's and the others'.
        journal: Where episodes outlive a kill, if anywhere.
        ranks: Processes that collect together.
    """

    config: TrainConfig
    slots: EnvSlots
    engine: GenerationEngine
    tokenizer: Tokenizer
    params: SamplingParams
    driver: DriverConfig
    play: PlayWithJournal
    journal: StepJournal | None = None
    ranks: Ranks = field(default_factory=SingleRank)

    def collect(
        self,
        update: int,
        num_questions_seen: int,
        num_tasks: int,
        *,
        policy_version: int | None = None,
        policy: str | None = None,
    ) -> Collection:
        """Plays batches of questions until the update is full or may not ask for more.

        Args:
            update: Number of finished updates.
            num_questions_seen: Questions that were asked before.
            num_tasks: Size of the split.
            policy_version: Number of updates behind the policy that samples; None means
                ``update``.
            policy: Digest of its weights: the journal gives no episodes of others. None takes
                those that it has.

        Returns:
            The groups, at most ``num_questions`` of them.

        Raises:
            RolloutError: if every episode of a batch failed, or too few groups are left and a
                filter says that this ends the run.
        """
        wanted = self.config.rollout.num_questions
        max_batches = max((each.max_batches for each in self.config.filters), default=1)
        played: list[Group] = []
        kept: list[Group] = []
        stats: list[RolloutStats] = []
        version = update if policy_version is None else policy_version
        with self._open_journal(update, version, policy) as journal:
            while not stats or (len(kept) < wanted and len(stats) < max_batches):
                place = wanted * len(stats)
                position = num_questions_seen + place
                tasks = questions_at(position, wanted, num_tasks, self.config.seed)
                specs = self._specs(tasks, update, place)
                groups, counts = self._play_batch(specs, version, journal)
                played += groups
                kept += self._filtered(groups)
                stats.append(counts)
        if len(kept) < wanted and any(f.on_exhaust == "raise" for f in self.config.filters):
            raise RolloutError(
                f"only {len(kept)} of {wanted} groups passed the filters in {len(stats)} batches; "
                "raise max_batches, or set on_exhaust='train'"
            )
        return _collection(played, kept, wanted, stats)

    @property
    def _min_size(self) -> int:
        """Smaller groups are left out: an advantage needs something to compare with."""
        return min(2, self.config.rollout.group_size)

    def _open_journal(
        self, update: int, version: int, policy: str | None
    ) -> JournalStep | nullcontext[None]:
        """The journal of an update; ranks open theirs in turn, since each reads those of all."""
        if self.journal is None:
            return nullcontext()
        for rank in range(self.ranks.world_size):
            if rank == self.ranks.rank:
                step = self.journal.open(update=update, policy_version=version, policy=policy)
            self.ranks.barrier()
        return step

    def _specs(self, tasks: Sequence[int], update: int, first_place: int) -> list[EpisodeSpec]:
        """The episodes of some questions."""
        return [
            EpisodeSpec(
                task_index=task,
                group_id=f"{update}-{place}-{task}",
                seed=episode_seed(self.config.seed, update, place, member),
                training_progress=update / self.config.optim.num_updates,
            )
            for place, task in enumerate(tasks, start=first_place)
            for member in range(self.config.rollout.group_size)
        ]

    def _play_batch(
        self, specs: Sequence[EpisodeSpec], version: int, journal: FinishedEpisodes | None
    ) -> tuple[list[Group], RolloutStats]:
        """One group for each question."""
        batch = self.play(
            self.slots,
            self.engine,
            self.tokenizer,
            specs,
            self.params,
            policy_version=version,
            config=self.driver,
            journal=journal,
        )
        trajectories = [close_overflow(each) for each in batch.trajectories]
        return regroup(trajectories, self._min_size), batch.stats

    def _filtered(self, groups: list[Group]) -> list[Group]:
        """What the filters leave of a batch, without groups that became too small."""
        for each in self.config.filters:
            groups = [group for group in each(groups) if len(group) >= self._min_size]
        return groups


def close_overflow(trajectory: Trajectory) -> Trajectory:
    """Says of an episode that the context cut off that its response is not well-formed.

    The environment did not see its end and reported none of the facts that stand there.

    Args:
        trajectory: Any episode.

    Returns:
        The same one, unless it overflowed: then its last info has ``is_format_valid``.
    """
    last = trajectory.turns[-1]
    if OVERFLOW_KEY not in last.info:
        return trajectory
    info = {"is_format_valid": False, **last.info}
    return replace(trajectory, turns=(*trajectory.turns[:-1], replace(last, info=info)))


def questions_at(position: int, count: int, num_tasks: int, seed: int) -> list[int]:
    """Which tasks come next; the order depends on the seed alone.

    Every epoch goes through all tasks in an order of its own, so no task comes twice before
    each has come once.

    Args:
        position: Number of tasks that came before.
        count: How many are wanted.
        num_tasks: Size of the split.
        seed: The run's seed.

    Returns:
        Task indices.
    """
    tasks: list[int] = []
    while len(tasks) < count:
        epoch, offset = divmod(position + len(tasks), num_tasks)
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_tasks)
        tasks.extend(int(task) for task in order[offset : offset + count - len(tasks)])
    return tasks


def episode_seed(seed: int, update: int, place: int, member: int) -> int:
    """Seed of one episode's sampling: 63 bits, equal for every arm of a seed."""
    key = (_EPISODE_STREAM, update, place, member)
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _collection(
    played: Sequence[Group], kept: Sequence[Group], wanted: int, stats: Sequence[RolloutStats]
) -> Collection:
    """Cuts off the surplus and counts."""
    groups = tuple(kept[:wanted])
    used = {id(each) for group in groups for each in group.trajectories}
    passed = {id(each) for group in kept for each in group.trajectories}
    rest = [tuple(each for each in group.trajectories if id(each) not in used) for group in played]
    num_played = sum(map(len, played))
    return Collection(
        groups=groups,
        left_out=tuple(Group(members) for members in rest if members),
        stats=_total(stats),
        num_batches=len(stats),
        num_questions=wanted * len(stats),
        num_filtered_groups=len(played) - len(kept),
        num_filtered_episodes=num_played - len(passed),
        num_surplus_groups=len(kept) - len(groups),
    )


def _total(stats: Sequence[RolloutStats]) -> RolloutStats:
    """The sum of counts and times."""
    names = [field.name for field in fields(RolloutStats)]
    return RolloutStats(**{name: sum(getattr(each, name) for each in stats) for name in names})
