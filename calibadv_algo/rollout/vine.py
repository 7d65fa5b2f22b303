"""Episodes whose states are measured: each turn's info says what the state before it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from calibadv_algo.advantages.vine import VALUE_KEY
from calibadv_algo.rollout.continuations import (
    Place,
    StateName,
    as_cloneable,
    play_on,
    state_names,
    walk,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import (
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutStats,
    derived_seed,
)
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.types import Trajectory

_STREAM = 4
_ADDED = ("num_sampled_tokens", "num_retries", "engine_s", "env_s", "total_s", "wait_s")


@dataclass(frozen=True, slots=True)
class VinePlayer(Player):
    """Plays episodes, then every state of them on, as VinePPO does.

    Attributes:
        vine: Number of continuations.
    """

    vine: VineSampling = field(default_factory=VineSampling)

    def play(
        self,
        specs: Sequence[EpisodeSpec],
        *,
        policy_version: int = 0,
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Plays one episode for each spec and measures its states.

        Args:
            specs: The episodes.
            policy_version: Recorded in every trajectory.
            journal: Episodes that it knows are not played again; they are recorded with their
                values.

        Returns:
            Trajectories in the order of ``specs``; statistics count continuations too.

        Raises:
            RolloutError: if every episode, or every continuation, was dropped.
            ReplayError: if the environment does not give the same episode for the same actions.
            EngineError: if the engine failed.
        """
        known = {spec.seed: None if journal is None else journal.find(spec) for spec in specs}
        missing = [spec for spec in specs if known[spec.seed] is None]
        batch = Player.play(self, missing, policy_version=policy_version)
        by_seed = {each.seed: each for each in batch.trajectories}
        episodes = [(spec, by_seed[spec.seed]) for spec in missing if spec.seed in by_seed]
        measured, more = self._measured(episodes, policy_version)
        for (spec, _), trajectory in zip(episodes, measured, strict=True):
            known[spec.seed] = trajectory
            if journal is not None:
                journal.record(spec, trajectory)
        found = [known[spec.seed] for spec in specs]
        trajectories = tuple(each for each in found if each is not None)
        stats = replace(
            batch.stats,
            num_episodes=len(trajectories),
            num_turns=sum(len(each.turns) for each in trajectories),
            num_reused=len(specs) - len(missing),
            **{name: getattr(batch.stats, name) + getattr(more, name) for name in _ADDED},
        )
        return RolloutBatch(trajectories, batch.dropped, stats)

    def _measured(
        self, episodes: Sequence[tuple[EpisodeSpec, Trajectory]], policy_version: int
    ) -> tuple[list[Trajectory], RolloutStats]:
        """The episodes with the values of their states, and what these cost."""
        slots = as_cloneable(self.slots)
        names = [state_names(*each) for each in episodes]
        places: dict[StateName, Place] = {}
        for index, own in enumerate(names):
            for turn, name in enumerate(own):
                places.setdefault(name, (index, turn))
        nodes = walk(slots, episodes, places.values())
        jobs = [
            (name, replace(spec, seed=derived_seed(spec.seed, _STREAM, turn, number)))
            for name, (index, turn) in places.items()
            for spec in (episodes[index][0],)
            for number in range(self.vine.continuations)
        ]
        specs, starts = [spec for _, spec in jobs], [nodes[places[name]] for name, _ in jobs]
        batch = play_on(replace(self, slots=slots), slots, specs, starts)
        by_seed = {each.seed: each.reward for each in batch.trajectories}
        returns: dict[StateName, list[float]] = {}
        for name, spec in jobs:
            if spec.seed in by_seed:
                returns.setdefault(name, []).append(by_seed[spec.seed])
        values = {name: float(np.mean(each)) for name, each in returns.items()}
        return [
            _with_values(trajectory, [values.get(name) for name in own])
            for (_, trajectory), own in zip(episodes, names, strict=True)
        ], batch.stats


def _with_values(trajectory: Trajectory, values: Sequence[float | None]) -> Trajectory:
    """The episode with values in its turns' infos, where continuations of a state were finished."""
    turns = tuple(
        turn if value is None else replace(turn, info={**turn.info, VALUE_KEY: value})
        for turn, value in zip(trajectory.turns, values, strict=True)
    )
    return replace(trajectory, turns=turns)
