"""GEM's own registry and vector environments on the atlas."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("gem", reason="gem-llm is not installed; `make test-integrations` installs it")

import gem
from gem.envs.registration import ENV_REGISTRY

from calibadv_env.integrations.gem import NAMES, GemSearchEnv, register
from tests.integrations.players import (
    PAGES_SETTINGS,
    SETTINGS,
    AtlasPolicy,
    example,
    play,
    play_pages,
    scripts,
)

ATLAS = "calibadv:DeepSearch-Atlas-v1"


def test_episodes_of_the_shipped_policy_are_those_of_our_own_environment():
    policy = AtlasPolicy()
    env = gem.make(ATLAS, **SETTINGS)
    for index in (0, 7):
        own = play(policy, index)
        said, info = env.reset(options={"task_index": index})
        assert (said, info) == (own.prompt, own.reset_info)
        for step in own.steps:
            action = policy(said)
            observation, reward, terminated, truncated, info = env.step(action)
            said += action + observation
            assert action == step.action
            assert (observation, reward) == (step.observation, step.reward)
            assert (terminated, truncated) == (step.terminated, step.truncated)
            assert info["passage_ids"] == step.info["passage_ids"]
        assert terminated or truncated


@pytest.mark.parametrize("which", range(4), ids=["good", "wrong", "malformed", "no answer"])
def test_every_end_is_reported_as_ours(which):
    own = play(scripts(3)[which], 3)
    env = gem.make(ATLAS, **SETTINGS)
    env.reset(options={"task_index": 3})
    for step in own.steps:
        result = env.step(step.action)
        assert result[:4] == (step.observation, step.reward, step.terminated, step.truncated)
    assert own.steps[-1].reward == (1.0 if which == 0 else 0.0)


def _numpy_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - GEM seeds the global generator


def test_seeds_choose_tasks_and_leave_the_global_generators_alone():
    env = gem.make(ATLAS, **SETTINGS)
    before = random.getstate(), _numpy_state()
    first = env.reset(seed=5)[1]["task_id"]
    assert (random.getstate(), _numpy_state()) == before
    assert env.reset(seed=5)[1]["task_id"] == first
    assert len({env.reset()[1]["task_id"] for _ in range(8)}) > 1


@pytest.mark.parametrize("is_async", [False, True])
def test_the_vector_form_seeds_every_environment_by_itself(is_async):
    vector = gem.make_vec([ATLAS] * 3, async_mode=is_async, seed=11, **SETTINGS)
    observations, infos = vector.reset()
    own = [gem.make(ATLAS, seed=11 + i, **SETTINGS).reset() for i in range(3)]
    assert list(observations) == [observation for observation, _ in own]
    actions = ["<think> a </think><search> France </search>"] * 3
    observations, rewards, terminated, truncated, infos = vector.step(actions)
    assert all("</information>" in observation for observation in observations)
    assert not terminated.any()
    assert not truncated.any()
    assert rewards.tolist() == [0.0] * 3
    assert [info["turn"] for info in infos] == [1, 1, 1]


def test_a_spawned_environment_goes_on_from_the_same_state():
    env = gem.make(ATLAS, **SETTINGS)
    env.reset(options={"task_index": 4})
    good = scripts(4)[0]
    env.step(good[0])
    other = env.spawn(same_state=True)
    assert isinstance(other, GemSearchEnv)
    assert [env.step(action)[:4] for action in good[1:]] == [
        other.step(action)[:4] for action in good[1:]
    ]
    assert env.spawn(max_turns=1).reset(seed=0)[1]["max_turns"] == 1


def test_random_actions_are_well_formed():
    env = gem.make(ATLAS, **SETTINGS)
    env.reset(seed=0)
    kinds = set()
    for _ in range(12):
        info = env.step(env.sample_random_action())[4]
        kinds.add(info["action"])
        if info["stop_reason"]:
            env.reset()
    assert kinds >= {"search", "answer"}


def test_registering_again_is_harmless():
    register()
    assert {f"calibadv:{name}" for name in NAMES} <= set(ENV_REGISTRY)


def test_the_example_in_the_docs_runs(capsys):
    exec(example("integrations.md", "GEM"), {})
    assert "reward 1.0" in capsys.readouterr().out


def test_pages_are_searched_opened_and_read():
    own = play_pages(3)
    env = gem.make("calibadv:DeepSearch-Pages-v0", **PAGES_SETTINGS)
    assert env.reset(options={"task_index": 3}) == (own.prompt, own.reset_info)
    for step in own.steps:
        result = env.step(step.action)
        assert result[:4] == (step.observation, step.reward, step.terminated, step.truncated)
        assert result[4]["opened_ids"] == step.info["opened_ids"]
    env.reset(seed=0)
    kinds = set()
    for _ in range(40):
        info = env.step(env.sample_random_action())[4]
        kinds.add(info["action"])
        if info["stop_reason"]:
            env.reset()
    assert kinds == {"search", "open", "find", "answer"}
