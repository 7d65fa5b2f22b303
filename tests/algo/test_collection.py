"""What an update is collected from: questions, seeds, filters, further batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from calibadv_algo.errors import RolloutError
from calibadv_algo.rollout.episodes import EpisodeSpec, RolloutBatch, RolloutStats
from calibadv_algo.shaping.base import GroupFilter
from calibadv_algo.shaping.filters import DynamicSampling
from calibadv_algo.training.collection import Collector, episode_seed
from calibadv_algo.training.config import RolloutConfig, TrainConfig
from calibadv_algo.training.sampling import questions_at
from calibadv_algo.types import Group, Trajectory, Turn


class EvenPlayer:
    """Tasks of an even index earn 1 for the first member alone; all others earn nothing."""

    def play(self, specs: Sequence[EpisodeSpec], **_: Any) -> RolloutBatch:
        return RolloutBatch(tuple(episode(spec, specs) for spec in specs), (), stats_of(len(specs)))


def episode(spec: EpisodeSpec, tasks: Sequence[EpisodeSpec]) -> Trajectory:
    is_first = next(other for other in tasks if other.group_id == spec.group_id) is spec
    reward = float(spec.task_index % 2 == 0 and is_first)
    turn = Turn(action_ids=(1,), action_text="", logprobs=(-1.0,), reward=reward)
    return Trajectory(
        group_id=spec.group_id,
        task_id=str(spec.task_index),
        prompt_ids=(0,),
        prompt_text="",
        turns=(turn,),
        seed=spec.seed,
    )


def stats_of(num_episodes: int) -> RolloutStats:
    names = dict.fromkeys(RolloutStats.__dataclass_fields__, 0)
    return RolloutStats(**{**names, "num_episodes": num_episodes, "total_s": 0.5})  # type: ignore[arg-type]


def make_collector(*filters: Any, group_size: int = 2, num_questions: int = 4) -> Collector:
    rollout = RolloutConfig(num_questions=num_questions, group_size=group_size)
    return Collector(
        config=TrainConfig(rollout=rollout, filters=filters),
        player=EvenPlayer(),  # type: ignore[arg-type]
        num_tasks=100,
        weights=torch.nn.Module,
    )


def task_ids(groups: Sequence[Group]) -> list[str]:
    return [group.trajectories[0].task_id for group in groups]


def test_without_filters_one_batch_is_all() -> None:
    found = make_collector().collect(3, 8, policy_version=3)
    assert task_ids(found.groups) == [str(task) for task in questions_at(8, 4, 100, seed=0)]
    assert (found.num_batches, found.num_questions, found.left_out) == (1, 4, ())
    assert [group.group_id.split("-")[:2] for group in found.groups] == [
        ["3", str(place)] for place in range(4)
    ]


def test_dynamic_sampling_goes_on_until_the_update_is_full() -> None:
    found = make_collector(DynamicSampling(max_batches=10)).collect(0, 0, policy_version=0)
    asked = questions_at(0, 4 * found.num_batches, 100, seed=0)
    useful = [str(task) for task in asked if task % 2 == 0]
    assert found.num_batches > 1
    assert len(useful) >= 4 > sum(task % 2 == 0 for task in asked[:-4])
    assert task_ids(found.groups) == useful[:4]
    assert found.num_questions == len(asked)
    assert found.num_filtered_groups == len(asked) - len(useful)
    assert found.num_filtered_episodes == 2 * found.num_filtered_groups
    assert found.num_surplus_groups == len(useful) - 4
    assert sum(map(len, found.left_out)) == 2 * (len(asked) - 4)
    assert found.stats.num_episodes == 2 * len(asked)
    assert found.stats.total_s == 0.5 * found.num_batches
    seeds = [each.seed for group in (*found.groups, *found.left_out) for each in group.trajectories]
    assert len(set(seeds)) == len(seeds)


def test_the_next_update_goes_on_where_this_one_ended() -> None:
    collector = make_collector(DynamicSampling(max_batches=10))
    first = collector.collect(0, 0, policy_version=0)
    second = collector.collect(1, first.num_questions, policy_version=1)
    played = [task_ids((*each.groups, *each.left_out)) for each in (first, second)]
    assert not set(played[0]) & set(played[1])
    again = collector.collect(1, first.num_questions, policy_version=1)
    assert again == second


@pytest.mark.parametrize("on_exhaust", ["train", "raise"])
def test_batches_can_be_used_up(on_exhaust: Literal["train", "raise"]) -> None:
    collector = make_collector(DynamicSampling(max_batches=1, on_exhaust=on_exhaust))
    if on_exhaust == "raise":
        with pytest.raises(RolloutError, match=r"only \d of 4 groups passed the filters in 1"):
            collector.collect(0, 0, policy_version=0)
        return
    found = collector.collect(0, 0, policy_version=0)
    assert 0 < len(found.groups) < 4
    assert found.num_batches == 1


class WithoutTheFirst(GroupFilter):
    """Drops the first trajectory of every group."""

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        return [replace(group, trajectories=group.trajectories[1:]) for group in groups]


def test_filters_may_drop_trajectories_and_small_groups_go() -> None:
    found = make_collector(WithoutTheFirst(), group_size=3).collect(0, 0, policy_version=0)
    assert [len(group) for group in found.groups] == [2] * 4
    assert (found.num_filtered_groups, found.num_filtered_episodes) == (0, 4)
    assert [len(group) for group in found.left_out] == [1] * 4
    found = make_collector(WithoutTheFirst(), group_size=2).collect(0, 0, policy_version=0)
    assert found.groups == ()
    assert (found.num_filtered_groups, found.num_filtered_episodes) == (4, 8)


def test_every_epoch_visits_every_task_once() -> None:
    order = [questions_at(4 * i, 4, 10, seed=3) for i in range(5)]
    flat = [task for tasks in order for task in tasks]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert questions_at(0, 25, 10, seed=3)[:20] == flat
    assert questions_at(0, 10, 10, seed=4) != flat[:10]
    assert questions_at(7, 1, 10, seed=3) == [flat[7]]


def test_episode_seeds_differ() -> None:
    seeds = {
        episode_seed(s, u, p, m) for s in (0, 1) for u in (0, 1) for p in (0, 1) for m in (0, 1)
    }
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
