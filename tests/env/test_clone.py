"""Branches of episodes: from a cloned state all goes on as if it had been played there."""

import gymnasium
import pytest
from gymnasium.error import ResetNeeded

import calibadv_env
from calibadv_env.env import DeepSearchEnv
from calibadv_env.vector import DeepSearchVectorEnv

SEARCH = "<think>t {0}</think><search>{0}</search>"
ANSWER = "<think>t</think><answer>{}</answer>"
SCRIPTS = {
    "answer": [SEARCH.format("capital"), ANSWER.format("x")],
    "more": [SEARCH.format("river"), SEARCH.format("capital"), ANSWER.format("y")],
    "broken": ["?"],
}


@pytest.fixture(autouse=True)
def _registered():
    calibadv_env.register_envs()


@pytest.mark.parametrize("prepend_think", [False, True])
@pytest.mark.parametrize("script", list(SCRIPTS.values()), ids=list(SCRIPTS))
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_branch_equals_an_episode_from_the_start(depth, script, prepend_think):
    kwargs = {"dataset": "toy", "prepend_think": prepend_think, "render_mode": "ansi"}
    prefix = [SEARCH.format("mountain"), SEARCH.format("sea")][:depth]
    env, other = DeepSearchEnv(**kwargs), DeepSearchEnv(**kwargs)
    env.reset(options={"task_index": 2})
    for action in prefix:
        observation, *_ = env.step(action)
    snapshot = env.clone_state()
    env.step(ANSWER.format("another end"))
    branch = DeepSearchEnv(**kwargs)
    restored = branch.restore_state(snapshot)
    if prefix:
        assert restored == observation
    other.reset(options={"task_index": 2})
    for action in prefix:
        other.step(action)
    for action in script:
        assert branch.step(action) == other.step(action)
    assert branch.render() == other.render()
    assert snapshot == _again(env, snapshot)


def _again(env, snapshot):
    env.restore_state(snapshot)
    return env.clone_state()


def test_slots_of_a_vector_environment_branch_too():
    single = DeepSearchEnv(dataset="toy")
    env = DeepSearchVectorEnv(3, dataset="toy")
    env.reset(seed=0, options={"task_index": [1, 2, 3]})
    env.step([SEARCH.format("sea")] * 3)
    snapshot = env.clone_state(1)
    env.step([ANSWER.format("a"), ANSWER.format("a"), SEARCH.format("b")])
    env.restore_state(0, snapshot)
    single.reset(options={"task_index": 2})
    single.step(SEARCH.format("sea"))
    action = SEARCH.format("river")
    expected = single.step(action)
    observations, rewards, terminated, truncated, infos = env.step([action, "", "?"])
    assert (observations[0], rewards[0], terminated[0], truncated[0]) == expected[:4]
    assert infos["passage_ids"][0] == expected[4]["passage_ids"]
    assert infos["turn"][0] == 2
    assert bool(infos["is_idle"][1])
    ended = env.clone_state(2)
    assert ended.state.stop_reason == "malformed"
    env.restore_state(0, ended)
    *_, terminated, _, infos = env.step(["", "", ""])
    assert infos["is_idle"].all()
    assert not terminated.any()


def test_single_and_vector_environments_understand_each_other():
    single, env = DeepSearchEnv(dataset="toy"), DeepSearchVectorEnv(1, dataset="toy")
    single.reset(options={"task_index": 0})
    single.step(SEARCH.format("sea"))
    env.restore_state(0, single.clone_state())
    assert env.step([ANSWER.format("x")])[0] == (single.step(ANSWER.format("x"))[0],)


def test_there_must_be_an_episode():
    with pytest.raises(ResetNeeded, match="clone_state needs an episode"):
        DeepSearchEnv(dataset="toy").clone_state()
    with pytest.raises(ResetNeeded, match="slot 1"):
        DeepSearchVectorEnv(2, dataset="toy").clone_state(1)


def test_wrapped_environments_are_cloned_through_unwrapped():
    env = gymnasium.make("DeepSearch-Toy-v1")
    env.reset(seed=0)
    assert env.unwrapped.clone_state().state.turn == 0
