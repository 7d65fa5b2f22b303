"""Players of episodes that wrap other ones: for several ranks, and for a journal of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.errors import RolloutError
from calibadv_algo.learner.ranks import Ranks, own_share
from calibadv_algo.rollout.driver import DriverConfig, EpisodeSpec, RolloutBatch, RolloutStats
from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.episodes import FinishedEpisodes
from calibadv_algo.rollout.slots import EnvSlots
from calibadv_algo.shaping.base import turn_rewards, with_rewards
from calibadv_algo.training.collection import PlayEpisodes, PlayWithJournal
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.estimation import ScoredGroup, score_group
from calibadv_algo.types import Group, Trajectory


@dataclass(frozen=True, slots=True)
class SharedPlay:
    """Plays this rank's share of the groups, and gives every rank the episodes of all.

    Attributes:
        play: Plays the share; with the slots and the engine of this rank.
        ranks: Who shares. The groups of a rank lie together in the order of the specs, and the
            specs are those that one process would play.
    """

    play: PlayWithJournal
    ranks: Ranks

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
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Returns the trajectories in the order of the specs.

        Raises:
            RolloutError: if every episode of every rank was dropped.
            RanksError: if another rank is gone.
        """
        own = set(own_share(list(dict.fromkeys(spec.group_id for spec in tasks)), self.ranks))
        specs = [spec for spec in tasks if spec.group_id in own]
        outcome: RolloutBatch | RolloutError
        try:
            outcome = self.play(
                slots,
                engine,
                tokenizer,
                specs,
                params,
                policy_version=policy_version,
                config=config,
                journal=journal,
            )
        except RolloutError as error:
            if self.ranks.world_size == 1:
                raise
            outcome = error
        return _joined(self.ranks.gather((outcome, len(specs))))


@dataclass(frozen=True, slots=True)
class JournaledGroups:
    """Gives a journal to a player that takes none.

    Groups are recorded when all are there, so what is reused is what was complete before the
    update began to learn.

    Attributes:
        play: Plays episodes; gives as many trajectories of a group as it has specs, or loses some.
    """

    play: PlayEpisodes

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
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Returns the trajectories in the order of the specs; raises what the player raises."""
        known: dict[str, list[Trajectory]] = {}
        groups: dict[str, list[EpisodeSpec]] = {}
        for spec in tasks:
            groups.setdefault(spec.group_id, []).append(spec)
        for name, specs in groups.items():
            found = [None if journal is None else journal.find(spec) for spec in specs]
            complete = [each for each in found if each is not None]
            if len(complete) == len(specs):
                known[name] = complete
        waiting = [spec for spec in tasks if spec.group_id not in known]
        batch = self.play(
            slots,
            engine,
            tokenizer,
            waiting,
            params,
            policy_version=policy_version,
            config=config,
        )
        played: dict[str, list[Trajectory]] = {}
        for each in batch.trajectories:
            played.setdefault(each.group_id, []).append(each)
        for name, members in played.items():
            if journal is not None and len(members) == len(groups[name]):
                for spec, each in zip(groups[name], members, strict=True):
                    journal.record(spec, each)
        return _with_known(batch, [*groups], known, played)


def score_shared(groups: Sequence[Group], config: TrainConfig, ranks: Ranks) -> list[ScoredGroup]:
    """Shapes and scores all groups, each on one rank: a judge may be slow, or of two minds.

    Args:
        groups: The same ones on every rank.
        config: Shaping, credit and masks.
        ranks: Who shares the work.

    Returns:
        What is made of each group, the same on every rank.

    Raises:
        ValueError: if a shaping changed more than rewards, or a mask has another length.
    """
    own = [score_group(group, config) for group in own_share(groups, ranks)]
    if ranks.world_size == 1:
        return own
    verdicts = [_Verdict(turn_rewards(j.shaped), j.correctness, j.is_trained) for j in own]
    everyones = [each for part in ranks.gather(verdicts) for each in part]
    return [
        ScoredGroup(
            played=group,
            shaped=with_rewards(group, verdict.rewards) if config.shaping else group,
            correctness=verdict.correctness,
            is_trained=verdict.is_trained,
        )
        for group, verdict in zip(groups, everyones, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What another rank has to know of a group that was scored."""

    rewards: Float[np.ndarray, "group turn"]
    correctness: Float[np.ndarray, "group turn"]
    is_trained: Bool[np.ndarray, " group"]


def _with_known(
    batch: RolloutBatch,
    order: Sequence[str],
    known: dict[str, list[Trajectory]],
    played: dict[str, list[Trajectory]],
) -> RolloutBatch:
    """Puts the groups from the journal among those that were played."""
    if not known:
        return batch
    trajectories = [each for name in order for each in known.get(name, played.get(name, []))]
    reused = [each for members in known.values() for each in members]
    stats = replace(
        batch.stats,
        num_episodes=len(trajectories),
        num_turns=batch.stats.num_turns + sum(len(each.turns) for each in reused),
        num_reused=batch.stats.num_reused + len(reused),
    )
    return RolloutBatch(tuple(trajectories), batch.dropped, stats)


def _joined(outcomes: Sequence[tuple[RolloutBatch | RolloutError, int]]) -> RolloutBatch:
    """All ranks' episodes: counts add up, times are those of the slowest."""
    batches = [each for each, _ in outcomes if isinstance(each, RolloutBatch)]
    errors = [each for each, _ in outcomes if isinstance(each, RolloutError)]
    if errors and not any(batch.trajectories for batch in batches):
        raise errors[0]
    if len(outcomes) == 1:
        return batches[0]
    columns = {
        item.name: [getattr(batch.stats, item.name) for batch in batches]
        for item in fields(RolloutStats)
    }
    stats = {
        name: max(values) if name.endswith("_s") else sum(values)
        for name, values in columns.items()
    }
    lost = sum(count for each, count in outcomes if isinstance(each, RolloutError))
    return RolloutBatch(
        tuple(each for batch in batches for each in batch.trajectories),
        tuple(each for batch in batches for each in batch.dropped),
        RolloutStats(**{**stats, "num_dropped": stats["num_dropped"] + lost}),
    )
