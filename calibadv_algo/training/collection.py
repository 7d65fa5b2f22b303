"""The episodes of an update: which questions, which seeds, what is filtered, what is added.

Everything is a function of the settings, the number of finished updates and the number of
questions that were asked before, so that a resumed run asks what it would have asked. Several
ranks play a part of the groups each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import nn

from calibadv_algo.errors import CalibadvAlgoError, MissingInfoKeyError, RolloutError
from calibadv_algo.learner.ranks import Ranks, RanksError, SingleRank, own_share
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.episodes import (
    OVERFLOW_KEY,
    DriverConfig,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutStats,
    derived_seed,
    regroup,
)
from calibadv_algo.rollout.greedy import GreedyPlayer
from calibadv_algo.rollout.journal import JournalStep, StepJournal, weights_digest
from calibadv_algo.rollout.slots import EnvSlots, SlotReset, SlotStart, SlotStep
from calibadv_algo.rollout.tree import TreePlayer
from calibadv_algo.rollout.vine import VinePlayer
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.sampling import Sampler, mix_of
from calibadv_algo.types import Group, Trajectory
from calibadv_env.info import STOP_STRINGS

MAX_PROBE_TURNS = 64
"""Empty actions after which the look at an environment's info keys gives up."""

_EPISODE_STREAM = 1


def make_player(
    config: TrainConfig,
    slots: EnvSlots,
    engine: GenerationEngine,
    tokenizer: Tokenizer,
    *,
    stop: Sequence[str] = STOP_STRINGS,
    retry_on: tuple[type[Exception], ...] = (OSError,),
) -> Player:
    """The player of a run's training episodes, as its settings say.

    Args:
        config: Sampling, longest context, prompts, driver, trees.
        slots: Environments of the training tasks.
        engine: Samples from the policy.
        tokenizer: The policy's.
        stop: Strings that end a turn.
        retry_on: Exceptions of the environment that are a machine's failure.
    """
    rollout = config.rollout
    params = SamplingParams(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        max_tokens=rollout.max_tokens,
        stop=tuple(stop),
    )
    driver = DriverConfig(
        max_context_tokens=rollout.max_context,
        chat_template=config.prompt_style == "chat",
        template_settings=parse_settings(config.chat_template_kwargs),
        observations=rollout.observations,
        earlier_thoughts=rollout.earlier_thoughts,
        retry_on=retry_on,
        bad_numbers=rollout.bad_numbers,
    )
    if rollout.trees is not None:
        return TreePlayer(slots, engine, tokenizer, params, driver, tree=rollout.trees)
    if rollout.vine is not None:
        return VinePlayer(slots, engine, tokenizer, params, driver, vine=rollout.vine)
    if rollout.greedy is not None:
        return GreedyPlayer(slots, engine, tokenizer, params, driver)
    kind = AsyncPlayer if rollout.driver == "async" else Player
    return kind(slots, engine, tokenizer, params, driver)


def make_eval_player(config: TrainConfig, player: Player, slots: EnvSlots) -> Player:
    """The player of a run's evaluation: greedy, one episode at a time even where trees grow.

    Args:
        config: Length of turns, driver.
        player: That of the training.
        slots: Environments of the held-out tasks.
    """
    params = SamplingParams(
        temperature=0.0,
        max_tokens=config.evaluation.max_tokens or config.rollout.max_tokens,
        stop=player.params.stop,
    )
    kind = AsyncPlayer if config.rollout.driver == "async" else Player
    return kind(slots, player.engine, player.tokenizer, params, player.driver, player.sleep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Groups that an update may learn from, and the episodes that were played beside them.

    Attributes:
        groups: The groups that filters left, as they were played.
        left_out: Everything else that was played, by group.
        stats: Counts and times of all batches together.
        num_batches: Batches of questions that were played.
        num_questions: Questions that were played.
        num_filtered_groups: Groups that filters left nothing of, or too little.
        num_filtered_episodes: Episodes that filters took out, those of such groups included.
        num_surplus_groups: Groups that passed the filters after the update was full.
        mix: Share of each kind of question (a pool, a number of hops) among those that were drawn;
            {} where all are drawn alike.
        sampling: What is known of the questions after this collection, for a checkpoint.
    """

    groups: tuple[Group, ...]
    left_out: tuple[Group, ...]
    stats: RolloutStats
    num_batches: int
    num_questions: int
    num_filtered_groups: int
    num_filtered_episodes: int
    num_surplus_groups: int
    mix: Mapping[str, float] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)


class Collector:
    """Collects the episodes of each update with the weights that are due.

    The update ``u`` learns from episodes of the policy of version ``u``;
    ``overlap.OverlappedCollector`` is one version behind.

    Attributes:
        config: Seeds, sizes and filters.
        player: Plays the episodes of this rank.
        sampler: Draws the questions.
        wait_s: Seconds in which the caller waited for a batch that was collected meanwhile.
        sync_s: Seconds in which the engine was given weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        player: Player,
        *,
        num_tasks: int,
        weights: Callable[[], nn.Module],
        journal: StepJournal | None = None,
        ranks: Ranks | None = None,
        before_update: Callable[[int, int], None] | None = None,
    ) -> None:
        """Nothing is collected yet.

        Args:
            config: Seeds, sizes and filters.
            player: Plays the episodes of this rank.
            num_tasks: Size of the split.
            weights: Returns the policy as it is now, whole.
            journal: Where episodes outlive a kill, if anywhere.
            ranks: Processes that collect together, whose policies must be the same; None means
                this one alone.
            before_update: Called before each collection with its update and the number of all.
        """
        self.config = config
        self.player = player
        way = config.rollout.questions
        self.sampler = Sampler(
            way, num_tasks, config.seed, hops_of(player.slots, num_tasks) if way.needs_hops else ()
        )
        self.wait_s = 0.0
        self.sync_s = 0.0
        self._weights = weights
        self._journal = journal
        self._ranks = ranks or SingleRank()
        # Those that play: where a thread collects, its exchanges must not meet the learner's.
        self._play_ranks = self._ranks
        self._before_update = before_update

    def take(self, update: int, num_questions_seen: int) -> Collection:
        """The episodes of an update, played now.

        Args:
            update: Number of finished updates.
            num_questions_seen: Questions that were asked before.

        Raises:
            RolloutError: as :meth:`collect`.
            RanksError: if the ranks hold different weights.
        """
        self.announce(update)
        policy = self.sync(update)
        return self.collect(update, num_questions_seen, policy_version=update, policy=policy)

    def wait(self) -> None:
        """Returns when nothing is being collected: before the engine or a checkpoint is needed."""

    def close(self) -> None:
        """Waits for what is being collected and leaves it; the journal has its episodes."""

    def announce(self, update: int) -> None:
        """Tells whoever wants to know that an update's collection begins."""
        if self._before_update is not None:
            self._before_update(update, self.config.optim.num_updates)

    def sync(self, version: int) -> str:
        """Copies the policy's weights to the engine; they must be the same on every rank.

        Args:
            version: Number of updates behind the weights.

        Returns:
            Digest of the weights.

        Raises:
            RanksError: if the ranks hold different weights.
        """
        model = self._weights()
        digest = weights_digest(model)
        if self._ranks.world_size > 1 and len(set(self._ranks.gather(digest))) > 1:
            raise RanksError(f"the ranks hold different weights after {version} updates")
        began = time.perf_counter()
        self.player.engine.sync_weights(model, version)
        self.sync_s += time.perf_counter() - began
        return digest

    def collect(
        self,
        update: int,
        num_questions_seen: int,
        *,
        policy_version: int,
        policy: str | None = None,
    ) -> Collection:
        """Plays batches of questions until the update is full or may not ask for more.

        Args:
            update: Number of finished updates.
            num_questions_seen: Questions that were asked before.
            policy_version: Number of updates behind the policy that samples.
            policy: Digest of its weights: the journal gives no episodes of others. None accepts
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
        labels: list[str] = []
        progress = update / self.config.optim.num_updates
        with self._open_journal(update, policy_version, policy) as journal:
            while not stats or (len(kept) < wanted and len(stats) < max_batches):
                place = wanted * len(stats)
                position = num_questions_seen + place
                drawn = self.sampler.draw(position, wanted, progress)
                labels += drawn.labels
                specs = self._specs(drawn.tasks, update, place)
                batch = play_shared(
                    self.player,
                    specs,
                    self._play_ranks,
                    policy_version=policy_version,
                    journal=journal,
                )
                trajectories = [close_overflow(each) for each in batch.trajectories]
                groups = regroup(trajectories, self._min_size)
                self.sampler.observe(mean_rewards(specs, trajectories))
                played += groups
                kept += self._filtered(groups)
                stats.append(batch.stats)
        if len(kept) < wanted and any(f.on_exhaust == "raise" for f in self.config.filters):
            raise RolloutError(
                f"only {len(kept)} of {wanted} groups passed the filters in {len(stats)} batches; "
                "raise max_batches, or set on_exhaust='train'"
            )
        found = _collection(played, kept, wanted, stats)
        return replace(found, mix=mix_of(labels), sampling=self.sampler.state)

    @property
    def _min_size(self) -> int:
        """Smaller groups are left out: an advantage needs something to compare with."""
        return min(2, self.config.rollout.group_size)

    def _open_journal(
        self, update: int, version: int, policy: str | None
    ) -> JournalStep | nullcontext[None]:
        """The journal of an update; ranks open theirs in turn, since each reads those of all."""
        if self._journal is None:
            return nullcontext()
        for rank in range(self._play_ranks.world_size):
            if rank == self._play_ranks.rank:
                step = self._journal.open(update=update, policy_version=version, policy=policy)
            self._play_ranks.barrier()
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

    def _filtered(self, groups: list[Group]) -> list[Group]:
        """Groups of a batch that pass the filters, without those that became too small."""
        for each in self.config.filters:
            groups = [group for group in each(groups) if len(group) >= self._min_size]
        return groups

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def play_shared(
    player: Player,
    specs: Sequence[EpisodeSpec],
    ranks: Ranks,
    *,
    policy_version: int,
    journal: FinishedEpisodes | None = None,
) -> RolloutBatch:
    """Plays this rank's share of the groups, and returns the episodes of all ranks on each.

    Args:
        player: Plays the share; with the slots and the engine of this rank.
        specs: Those that one process would play; the groups of a rank lie together.
        ranks: Who shares.
        policy_version: Recorded in every trajectory.
        journal: As in ``Player.play``.

    Returns:
        The trajectories in the order of the specs.

    Raises:
        RolloutError: if every episode of every rank was dropped.
        CalibadvAlgoError: what another rank ended with (a bad number, a broken engine), on each.
        RanksError: if another rank is gone.
    """
    if ranks.world_size == 1:
        return player.play(specs, policy_version=policy_version, journal=journal)
    own = set(own_share(list(dict.fromkeys(spec.group_id for spec in specs)), ranks))
    share = [spec for spec in specs if spec.group_id in own]
    outcome: RolloutBatch | CalibadvAlgoError
    try:
        outcome = player.play(share, policy_version=policy_version, journal=journal)
    except CalibadvAlgoError as error:
        outcome = error
    return _joined(ranks.gather((outcome, len(share))))


def count_tasks(slots: EnvSlots) -> int:
    """Asks an environment for the number of its tasks.

    Args:
        slots: Where to ask; the first slot is reset.

    Returns:
        The info key ``num_tasks``.

    Raises:
        MissingInfoKeyError: if ``reset`` does not report it.
    """
    info = _reset_first(slots).info
    if "num_tasks" not in info:
        raise MissingInfoKeyError(
            "the trainer needs the info key 'num_tasks' from reset, or the argument num_tasks; "
            f"the environment gives {sorted(info)}"
        )
    return int(info["num_tasks"])


def hops_of(slots: EnvSlots, num_tasks: int) -> list[int]:
    """Asks an environment for the number of hops of every task, 0 where it does not say.

    Args:
        slots: Where to ask; they are reset, several at a time.
        num_tasks: Number of tasks.
    """
    hops: list[int] = []
    size = max(1, slots.num_slots)
    for first in range(0, num_tasks, size):
        tasks = range(first, min(first + size, num_tasks))
        found = slots.reset({slot: SlotStart(task, 0) for slot, task in enumerate(tasks)}, ())
        for slot in range(len(tasks)):
            reset = found[slot]
            if not isinstance(reset, SlotReset):
                raise TypeError(f"reset must give a SlotReset, got {type(reset).__name__}")
            hops.append(int(reset.info.get("hops", 0)))
    return hops


def mean_rewards(
    specs: Sequence[EpisodeSpec], trajectories: Sequence[Trajectory]
) -> dict[int, float]:
    """Mean reward of the episodes of each task that was played."""
    task_of = {spec.group_id: spec.task_index for spec in specs}
    rewards: dict[int, list[float]] = {}
    for each in trajectories:
        rewards.setdefault(task_of[each.group_id], []).append(each.reward)
    return {task: float(np.mean(found)) for task, found in rewards.items()}


def probe_info_keys(slots: EnvSlots) -> tuple[set[str], bool]:
    """Plays empty actions to see which facts an environment reports.

    Args:
        slots: The first slot is used.

    Returns:
        The keys of all infos of the steps, and whether the episode came to its end: some
        keys appear only there.
    """
    _reset_first(slots)
    keys: set[str] = set()
    for _ in range(MAX_PROBE_TURNS):
        step = slots.step({0: ""}, ())[0]
        if not isinstance(step, SlotStep):
            raise TypeError(f"step must give a SlotStep, got {type(step).__name__}")
        keys |= set(step.info)
        if step.is_terminated or step.is_truncated:
            return keys, True
    return keys, False


def close_overflow(trajectory: Trajectory) -> Trajectory:
    """Marks an episode that the context cut off as ill-formed.

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


def episode_seed(seed: int, update: int, place: int, member: int) -> int:
    """Seed of one episode's sampling: 63 bits, equal for every arm of a seed."""
    return derived_seed(seed, _EPISODE_STREAM, update, place, member)


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


def _joined(outcomes: Sequence[tuple[RolloutBatch | CalibadvAlgoError, int]]) -> RolloutBatch:
    """All ranks' episodes: counts add up, times are those of the slowest."""
    batches = [each for each, _ in outcomes if isinstance(each, RolloutBatch)]
    errors = [each for each, _ in outcomes if isinstance(each, CalibadvAlgoError)]
    fatal = [each for each in errors if not isinstance(each, RolloutError)]
    if fatal:
        raise fatal[0]
    if errors and not any(batch.trajectories for batch in batches):
        raise errors[0]
    stats: dict[str, Any] = {}
    for item in fields(RolloutStats):
        values = [getattr(batch.stats, item.name) for batch in batches]
        stats[item.name] = max(values) if item.name.endswith("_s") else sum(values)
    stats["num_dropped"] += sum(n for each, n in outcomes if isinstance(each, RolloutError))
    return RolloutBatch(
        tuple(each for batch in batches for each in batch.trajectories),
        tuple(each for batch in batches for each in batch.dropped),
        RolloutStats(**stats),
    )


def _reset_first(slots: EnvSlots) -> SlotReset:
    """Resets the first slot to the first task."""
    reset = slots.reset({0: SlotStart(0, 0)}, ())[0]
    if not isinstance(reset, SlotReset):
        raise TypeError(f"reset must give a SlotReset, got {type(reset).__name__}")
    return reset
