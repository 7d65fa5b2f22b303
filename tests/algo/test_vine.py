"""Measured values in training: exact in the limit, the same after a kill, and they teach."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from calibadv_algo.advantages.vine import VALUE_KEY, Vine
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import EpisodeSpec, regroup
from calibadv_algo.rollout.journal import StepJournal
from calibadv_algo.rollout.vine import VinePlayer
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.training.presets import ATLAS_TINY
from tests.algo import letters
from tests.algo.text_worlds import WORLDS, World, letters_of, make_player

SPECS = [
    EpisodeSpec(task_index=q, group_id=f"g{q}", seed=10 * q + m) for q in range(4) for m in range(3)
]


def vine_player(world: World, continuations: int, *, cloneable: bool = True) -> VinePlayer:
    player = make_player(world, cloneable=cloneable)
    given = {item.name: getattr(player, item.name) for item in fields(Player)}
    return VinePlayer(**given, vine=VineSampling(continuations=continuations))


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("cloneable", [True, False])
def test_the_advantages_are_those_of_the_world(world: World, cloneable: bool) -> None:
    player = vine_player(world, 150, cloneable=cloneable)
    batch = player.play(SPECS)
    assert [each.seed for each in batch.trajectories] == [spec.seed for spec in SPECS]
    errors = []
    for group in regroup(batch.trajectories):
        found = Vine()(group, np.full((len(group), group.max_turns), np.nan))
        for row, trajectory in enumerate(group.trajectories):
            text = letters_of(trajectory)
            for turn in range(len(text)):
                errors.append(found[row, turn] - world.advantage(text[: turn + 1]))
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.12


def test_values_leave_the_episodes_as_they_are() -> None:
    player = vine_player(WORLDS[0], 3)
    plain = make_player(WORLDS[0]).play(SPECS)
    batch = player.play(SPECS)
    for with_values, without in zip(batch.trajectories, plain.trajectories, strict=True):
        assert letters_of(with_values) == letters_of(without)
        assert all(VALUE_KEY in turn.info for turn in with_values.turns)
    assert batch.stats.num_sampled_tokens > 3 * plain.stats.num_sampled_tokens
    assert batch.stats.num_turns == plain.stats.num_turns


def test_episodes_in_the_journal_keep_their_values(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path, config_hash="h")
    with journal.open(update=0, policy_version=0) as step:
        first = vine_player(WORLDS[0], 3).play(SPECS, journal=step)
    player = vine_player(WORLDS[0], 3)
    with journal.open(update=0, policy_version=0) as step:
        again = player.play(SPECS, journal=step)
    assert again.trajectories == first.trajectories
    assert again.stats.num_reused == len(SPECS)
    assert player.engine.contexts == []  # type: ignore[attr-defined]


def test_turns_without_values_say_what_to_do() -> None:
    group = regroup(make_player(WORLDS[0]).play(SPECS).trajectories)[0]
    with pytest.raises(MissingInfoKeyError, match="--arm vine"):
        Vine()(group, np.full((len(group), group.max_turns), np.nan))


def test_trees_and_continuations_exclude_each_other() -> None:
    from calibadv_algo.rollout.tree_config import TreeSearch

    rollout = replace(ATLAS_TINY.rollout, group_size=6, trees=TreeSearch())
    with pytest.raises(ValueError, match="vine must be None"):
        replace(rollout, vine=VineSampling())


def test_measured_advantages_teach_a_policy(tmp_path: Path) -> None:
    """An environment that cannot be cloned, so states are replayed."""
    config = letters.make_config(tmp_path, optim=letters.OptimConfig(num_updates=40, lr=3e-3))
    arm = find_arm("vine")
    rollout = replace(config.rollout, vine=VineSampling(continuations=4))
    config = replace(config, advantage=arm.advantage, rollout=rollout)
    trainer = letters.make_trainer(config)
    trainer.train()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rewards = [row["reward_mean"] for row in map(json.loads, lines) if "reward_mean" in row]
    assert sum(rewards[-3:]) / 3 > 0.55
    assert rewards[0] < 0.3
