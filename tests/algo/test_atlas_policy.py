"""The shipped policies: small, made of what its recipe says, and mediocre in an interesting way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv_algo.learner.pretrained import load_policy, policy_path
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.collection import count_tasks
from calibadv_algo.training.evaluation import eval_task_indices, evaluate, summarize
from calibadv_algo.training.presets import ATLAS_FAIR, ATLAS_TINY
from calibadv_env.data.registry import get_dataset
from calibadv_env.info import STOP_STRINGS

NUM_QUESTIONS = 200


@pytest.fixture(scope="module", params=[ATLAS_TINY, ATLAS_FAIR], ids=lambda each: each.model)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def policy(config):
    return load_policy(config.model)


@pytest.fixture(scope="module", params=["greedy", "sampled"])
def temperature(request, config):
    return 0.0 if request.param == "greedy" else config.rollout.temperature


@pytest.fixture(scope="module")
def played(temperature, config, policy):
    model, tokenizer = policy
    slots = make_slots(config.env.env_id, 64, config.env.kwargs("dev"))
    player = Player(
        slots,
        HfEngine(model, tokenizer, max_slots=64, max_context=config.rollout.max_context),
        tokenizer,
        SamplingParams(temperature=temperature, max_tokens=40, stop=STOP_STRINGS),
        DriverConfig(max_context_tokens=config.rollout.max_context),
    )
    result = evaluate(player, eval_task_indices(count_tasks(slots), NUM_QUESTIONS))
    slots.close()
    return result


def test_it_is_small(config, policy):
    model, tokenizer = policy
    assert model.num_parameters() <= 5_000_000
    assert (Path(policy_path(config.model)) / "model.safetensors").stat().st_size <= 10_000_000
    assert len(tokenizer) == model.config.vocab_size


def test_its_recipe_names_the_data_that_is_built_here(config):
    recipe = json.loads((Path(policy_path(config.model)) / "recipe.json").read_text())
    assert recipe["dataset"] == config.env.dataset
    assert recipe["corpus_sha256"] == get_dataset(config.env.dataset).corpus().sha256
    assert recipe["num_parameters"] == 985_216
    assert 0.25 <= recipe["scores"]["greedy"]["f1"] <= 0.6


def test_it_is_mediocre(played, config, temperature):
    scores = summarize(played.records)
    least = 0.25 if config.model == "atlas-tiny" or not temperature else 0.15
    assert least <= scores["f1"] <= 0.6


def test_its_turns_are_well_formed(played):
    kinds = [turn.info["action"] for each in played.trajectories for turn in each.turns]
    assert kinds.count("malformed") < 0.1 * len(kinds)


def test_it_makes_long_attempts_with_right_and_wrong_searches(played):
    hits = [
        [bool(turn.info["gold_new"]) for turn in each.turns if turn.info["action"] == "search"]
        for each in played.trajectories
    ]
    long_attempts = [searches for searches in hits if len(searches) >= 2]
    assert len(long_attempts) >= 0.1 * len(hits)
    assert any(all(searches) for searches in long_attempts)
    assert any(not all(searches) and any(searches) for searches in long_attempts)
