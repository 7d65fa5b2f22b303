"""Episodes with the return of the greedy episode of the same question in their reset infos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from calibadv_algo.advantages.remax import GREEDY_KEY
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import (
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutStats,
    count_lost_groups,
)
from calibadv_algo.types import Trajectory

_ADDED = ("num_sampled_tokens", "num_retries", "engine_s", "env_s", "total_s", "wait_s")


@dataclass(frozen=True, slots=True)
class GreedyPlayer(Player):
    """Plays episodes, and one more for each of their questions at temperature 0, as ReMax does."""

    def play(
        self,
        specs: Sequence[EpisodeSpec],
        *,
        policy_version: int = 0,
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Plays one episode for each spec, and a greedy one for each group.

        Args:
            specs: The episodes.
            policy_version: Recorded in every trajectory.
            journal: Episodes that it knows are not played again; they are recorded with their
                baselines.

        Returns:
            Trajectories in the order of ``specs``; statistics count the greedy episodes' tokens and
            time too. A group whose greedy episode failed is left out as lost.

        Raises:
            RolloutError: if every episode was dropped.
            EngineError: if the engine failed.
        """
        known = {
            (spec.group_id, spec.seed): None if journal is None else journal.find(spec)
            for spec in specs
        }
        missing = [spec for spec in specs if known[spec.group_id, spec.seed] is None]
        player = Player(**{item.name: getattr(self, item.name) for item in fields(Player)})
        batch = player.play(missing, policy_version=policy_version)
        questions = list({spec.group_id: spec for spec in missing}.values())
        greedy = replace(player, params=replace(self.params, temperature=0.0, top_p=1.0))
        beside = greedy.play(questions, policy_version=policy_version)
        returns = {each.group_id: each.reward for each in beside.trajectories}
        for each in batch.trajectories:
            if each.group_id in returns:
                known[each.group_id, each.seed] = _with_baseline(each, returns[each.group_id])
        for spec in missing:
            found = known[spec.group_id, spec.seed]
            if journal is not None and found is not None:
                journal.record(spec, found)
        kept = [known[spec.group_id, spec.seed] for spec in specs]
        trajectories = tuple(each for each in kept if each is not None)
        stats: RolloutStats = replace(
            batch.stats,
            num_episodes=len(trajectories),
            num_turns=sum(len(each.turns) for each in trajectories),
            num_reused=len(specs) - len(missing),
            num_groups_lost=count_lost_groups(specs, trajectories),
            **{name: getattr(batch.stats, name) + getattr(beside.stats, name) for name in _ADDED},
        )
        return RolloutBatch(trajectories, (*batch.dropped, *beside.dropped), stats)


def _with_baseline(trajectory: Trajectory, value: float) -> Trajectory:
    return replace(trajectory, reset_info={**trajectory.reset_info, GREEDY_KEY: value})
