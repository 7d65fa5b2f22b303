"""Optimal token baselines, ReMax and GDPO against recorded code, by hand, and in training."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.gdpo import Gdpo, decoupled
from calibadv_algo.advantages.remax import GREEDY_KEY, ReMax
from calibadv_algo.advantages.token_baselines import (
    EnergyBaseline,
    OptimalTokenBaseline,
    TurnOptimalTokenBaseline,
)
from calibadv_algo.batching import build_token_batch
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.greedy import GreedyPlayer
from calibadv_algo.rollout.greedy_config import GreedyBaseline
from calibadv_algo.rollout.journal import StepJournal
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.training.config import config_hash
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, Trajectory
from tests.algo import letters
from tests.algo.scored_groups import scored_trajectory
from tests.algo.test_advantages_baselines import make_group, no_scores
from tests.algo.text_worlds import WORLDS, World, letters_of, make_player

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "methods_2026_second.json").read_text(encoding="utf-8")
)
CASES: list[dict[str, Any]] = RECORDED["token_baselines"]
SPECS = [
    EpisodeSpec(task_index=q, group_id=f"g{q}", seed=10 * q + m) for q in range(3) for m in range(3)
]


def episodes_of(case: dict[str, Any]) -> list[list[Trajectory]]:
    """Episodes whose searches earn the recorded gains and whose last turn the outcome."""
    return [
        [
            scored_trajectory(
                each["tokens"],
                each["gains"],
                each["outcome"],
                observations=each["obs"],
                rewards=each["gains"],
                reset_info={GREEDY_KEY: greedy},
            )
            for each in members
        ]
        for members, greedy in zip(case["groups"], case["greedy"], strict=True)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "estimator"),
    [("position", OptimalTokenBaseline()), ("turns", TurnOptimalTokenBaseline())],
)
def test_token_baselines_agree_with_verl(
    case: dict[str, Any], name: str, estimator: EnergyBaseline
) -> None:
    start = 0
    for members in episodes_of(case):
        own = slice(start, start + len(members))
        start += len(members)
        rewards = []
        for each in members:
            row = np.zeros(each.num_action_tokens)
            row[np.cumsum([len(t.action_ids) for t in each.turns]) - 1] = [
                t.reward for t in each.turns
            ]
            rewards.append(row)
        found = estimator.token_advantages(
            members,
            rewards,
            [np.array(x) for x in case["logp"][own]],
            [np.array(x) for x in case["squares"][own]],
        )
        for ours, theirs in zip(found, case["outputs"][name][own], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_two_forms_differ_where_observations_do() -> None:
    assert any(case["outputs"]["position"] != case["outputs"]["turns_whole"] for case in CASES)
    assert any(case["outputs"]["turns"] != case["outputs"]["turns_whole"] for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_remax_agrees_with_verl(case: dict[str, Any]) -> None:
    recorded = iter(case["outputs"]["remax"])
    for members in episodes_of(case):
        group = Group(tuple(members))
        found = ReMax()(group, no_scores(group))
        for row, each in enumerate(members):
            tokens = np.repeat(
                found[row, : len(each.turns)], [len(t.action_ids) for t in each.turns]
            )
            np.testing.assert_allclose(tokens, next(recorded), rtol=1e-6, atol=1e-9)


def test_squared_probabilities_are_those_of_the_softmax() -> None:
    model, tokenizer = load_policy("atlas-tiny")
    ids = tuple(tokenizer.encode("Question: who?\n", add_special_tokens=False))
    one = replace(make_group([[(1.0, 3)]]).trajectories[0], prompt_ids=ids)
    batch = build_token_batch([one])
    policy = Policy(model)
    small = Policy(model, max_logit_elements=1)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids[None], use_cache=False).logits[0]
        expected = (logits / 0.7).softmax(-1).square().sum(-1)[len(ids) - 1 : -1]
        for each in (policy, small):
            found = each.squared_probs(batch, 0.7)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", [OptimalTokenBaseline(), TurnOptimalTokenBaseline()])
def test_the_trainer_gives_token_baselines_what_they_need(
    tmp_path: Path, estimator: EnergyBaseline
) -> None:
    config = letters.make_config(tmp_path, optim=letters.OptimConfig(num_updates=2, lr=1e-2))
    trainer = letters.make_trainer(replace(config, advantage=estimator))
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm"] > 0 for row in rows if "grad_norm" in row)


def greedy_player(world: World) -> GreedyPlayer:
    player = make_player(world)
    return GreedyPlayer(**{item.name: getattr(player, item.name) for item in fields(Player)})


def test_a_greedy_episode_stands_beside_every_group(tmp_path: Path) -> None:
    world = WORLDS[0]
    plain = make_player(world)
    expected = plain.play(SPECS)
    greedy = replace(plain, params=replace(plain.params, temperature=0.0)).play(SPECS[::3])
    journal = StepJournal(tmp_path, config_hash="h")
    with journal.open(update=0, policy_version=0) as step:
        batch = greedy_player(world).play(SPECS, journal=step)
    assert list(map(letters_of, batch.trajectories)) == list(map(letters_of, expected.trajectories))
    returns = {each.group_id: each.reward for each in greedy.trajectories}
    assert all(e.reset_info[GREEDY_KEY] == returns[e.group_id] for e in batch.trajectories)
    assert batch.stats.num_sampled_tokens > expected.stats.num_sampled_tokens
    with journal.open(update=0, policy_version=0) as step:
        again = greedy_player(world).play(SPECS, journal=step)
    assert again.trajectories == batch.trajectories
    assert again.stats.num_reused == len(SPECS)


def test_remax_without_greedy_episodes_says_what_to_do() -> None:
    group = make_group([[(1.0, 1)]])
    with pytest.raises(MissingInfoKeyError, match="--baseline remax"):
        ReMax()(group, no_scores(group))


def test_greedy_episodes_and_vines_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="greedy must be None"):
        replace(ATLAS_TINY.rollout, greedy=GreedyBaseline(), vine=VineSampling())


def test_runs_that_began_before_greedy_episodes_go_on() -> None:
    """The hash by which a run knows its checkpoints, as it was without the setting."""
    config = replace(ATLAS_TINY, rollout=replace(ATLAS_TINY.rollout, greedy=GreedyBaseline()))
    assert config_hash(config) != config_hash(ATLAS_TINY)
    assert "greedy" not in repr(config_hash(ATLAS_TINY))


@pytest.mark.parametrize("case", RECORDED["gdpo"])
def test_gdpo_agrees_with_trl(case: dict[str, Any]) -> None:
    groups = []
    for members in case["rewards"]:
        group = make_group([[(0.0, 2), (0.5, 1)] for _ in members])
        rows = []
        for each, (first, second) in zip(group.trajectories, members, strict=True):
            last = replace(each.turns[-1], info={"f1": first, "is_format_valid": second})
            rows.append(replace(each, turns=(each.turns[0], last)))
        groups.append(Group(tuple(rows)))
    estimator = Gdpo(weights=tuple(case["weights"]))
    counts = [np.array([[2.0, 1.0]] * len(group)) for group in groups]
    found = estimator.finish([estimator(group, no_scores(group)) for group in groups], counts)
    for ours, theirs in zip(found, case["advantages"], strict=True):
        np.testing.assert_allclose(ours, np.repeat(np.array(theirs)[:, None], 2, axis=1), rtol=1e-5)


def test_kinds_that_only_differ_in_scale_count_alike() -> None:
    rewards = np.array([[1.0, 100.0], [0.0, 0.0], [1.0, 0.0]])
    scaled = rewards / np.array([1.0, 100.0])
    np.testing.assert_allclose(
        decoupled(rewards, (1.0, 1.0)), decoupled(scaled, (1.0, 1.0)), atol=1e-3
    )
    with pytest.raises(ValueError, match="weights must be one for each of 2 kinds, got 1"):
        Gdpo(weights=(1.0,))
