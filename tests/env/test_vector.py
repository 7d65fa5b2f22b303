import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import CustomSpaceError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from calibadv_env.data.registry import get_dataset
from calibadv_env.env import DeepSearchEnv
from calibadv_env.errors import RetrieverError
from calibadv_env.vector import DeepSearchVectorEnv

SEARCH = "<think>t</think><search>{}</search>"
ANSWER = "<think>t</think><answer>{}</answer>"
SETTINGS = [
    {},
    {"invalid_action": "continue", "max_turns": 2, "reward": "cover_em", "format_gate": False},
    {"prompt": "question", "prepend_think": True, "max_observation_chars": 50, "top_k": 1},
]


class NotingRetriever:
    """Notes each batch of queries; fails at the calls that it is told to fail at."""

    def __init__(self, failures=()):
        self.batches = []
        self.failures = set(failures)

    def search(self, queries, top_k):
        self.batches.append(list(queries))
        if len(self.batches) in self.failures:
            raise RetrieverError("down")
        return get_dataset("toy").retriever("bm25").search(queries, top_k)


def make(num_envs=3, **settings):
    return gymnasium.make_vec(
        "DeepSearch-Toy-v1",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        **settings,
    )


def random_action(rng):
    words = " ".join(rng.choice(["capital", "river", "Febag", "born", "the", "country"], size=3))
    kind = rng.integers(6)
    if kind < 3:
        return f"<think>{words}</think><search>{words}</search>"
    if kind == 3:
        return f"<think>{words}</think><answer>{words}</answer>"
    if kind == 4:
        return f"{words}</think><search>{words}</search>"
    return words


def unbatch(infos, slot):
    return {
        key: value[slot]
        for key, value in infos.items()
        if not key.startswith("_") and infos["_" + key][slot] and key != "is_idle"
    }


def assert_same_info(batched, single):
    assert set(batched) == set(single)
    for key, value in single.items():
        assert batched[key] == value or (value != value and batched[key] != batched[key]), key


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_same_trajectories_as_single_environments(settings, seed):
    num_envs, rng = 5, np.random.default_rng(seed)
    vector = make(num_envs, **settings)
    singles = [gymnasium.make("DeepSearch-Toy-v1", **settings) for _ in range(num_envs)]
    observations, infos = vector.reset(seed=seed)
    done = np.zeros(num_envs, dtype=bool)
    for slot, single in enumerate(singles):
        observation, info = single.reset(seed=seed + slot)
        assert observations[slot] == observation
        assert_same_info(unbatch(infos, slot), info)
    num_ended = 0
    for _ in range(30):
        actions = [random_action(rng) for _ in range(num_envs)]
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        assert infos["is_idle"].tolist() == done.tolist()
        for slot, single in enumerate(singles):
            if done[slot]:
                assert (observations[slot], rewards[slot]) == ("", 0)
                assert (terminated[slot], truncated[slot]) == (False, False)
                assert unbatch(infos, slot) == {}
                continue
            observation, reward, is_terminated, is_truncated, info = single.step(actions[slot])
            assert observations[slot] == observation
            assert rewards[slot] == reward
            assert (terminated[slot], truncated[slot]) == (is_terminated, is_truncated)
            assert_same_info(unbatch(infos, slot), info)
        done |= terminated | truncated
        if done.sum() >= 3:
            num_ended += int(done.sum())
            before = observations
            observations, infos = vector.reset(options={"reset_mask": done})
            for slot, single in enumerate(singles):
                if done[slot]:
                    observation, info = single.reset()
                    assert observations[slot] == observation
                    assert_same_info(unbatch(infos, slot), info)
                else:
                    assert observations[slot] == before[slot]
                    assert unbatch(infos, slot) == {}
            done[:] = False
    assert num_ended > 6


def test_one_retriever_call_a_step_for_searching_slots_alone():
    retriever = NotingRetriever()
    env = make(4, retriever=retriever)
    env.reset(seed=0)
    env.step([SEARCH.format("a"), ANSWER.format("x"), "?", SEARCH.format("b")])
    assert retriever.batches == [["a", "b"]]
    *_, infos = env.step([ANSWER.format("x"), SEARCH.format("no"), None, SEARCH.format("c")])
    assert retriever.batches == [["a", "b"], ["c"]]
    assert infos["is_idle"].tolist() == [False, True, True, False]
    env.step([SEARCH.format("no")] * 3 + [ANSWER.format("x")])
    observations, rewards, terminated, truncated, infos = env.step(["x"] * 4)
    assert len(retriever.batches) == 2
    assert observations == ("",) * 4
    assert rewards.tolist() == [0] * 4
    assert not terminated.any()
    assert not truncated.any()
    assert infos["is_idle"].all()
    assert set(infos) == {"is_idle", "_is_idle"}


def test_infos_have_the_vector_form_of_gymnasium():
    env = make(3)
    _, infos = env.reset(seed=0)
    single = DeepSearchEnv(dataset="toy")
    expected = VectorEnv._add_info(env, {}, single.reset(seed=0)[1], 0)
    assert set(expected) == set(infos)
    *_, infos = env.step([SEARCH.format("a"), ANSWER.format("b"), "?"])
    expected = VectorEnv._add_info(env, {}, single.step(SEARCH.format("a"))[-1], 0)
    for key, value in expected.items():
        assert infos[key].dtype == value.dtype, key
        assert infos[key].shape == (3,)
    assert infos["passage_ids"][1] == ()
    assert infos["query"].tolist() == ["a", None, None]
    assert infos["_query"].all()
    assert infos["_f1"].tolist() == [False, True, True]
    assert infos["f1"].dtype == np.float64
    assert infos["is_format_valid"].dtype == np.bool_
    assert infos["stop_reason"].tolist() == [None, "answered", "malformed"]


def test_what_was_returned_does_not_change_later():
    env = make(2)
    env.reset(seed=0)
    _, rewards, terminated, _, infos = env.step(["?", SEARCH.format("a")])
    kept = rewards.copy(), terminated.copy(), infos["turn"].copy()
    env.step(["?", "?"])
    assert (rewards == kept[0]).all()
    assert (terminated == kept[1]).all()
    assert (infos["turn"] == kept[2]).all()


def test_a_failed_search_leaves_every_slot_as_it_was():
    flaky, sound = make(retriever=NotingRetriever({2, 3})), make(retriever=NotingRetriever())
    flaky.reset(seed=0)
    sound.reset(seed=0)
    script = [
        [SEARCH.format("a")] * 3,
        [ANSWER.format("x"), SEARCH.format("b"), "?"],
        [SEARCH.format("c")] * 3,
    ]
    flaky.step(script[0])
    sound.step(script[0])
    for _ in range(2):
        with pytest.raises(RetrieverError, match="down"):
            flaky.step(script[1])
    for actions in script[1:]:
        a, b = flaky.step(actions), sound.step(actions)
        assert a[0] == b[0]
        assert all((x == y).all() for x, y in zip(a[1:4], b[1:4], strict=True))
        assert all((a[4][key] == b[4][key]).all() for key in b[4])


def test_options_choose_tasks():
    env = make(3)
    _, infos = env.reset(options={"task_index": [4, 4, 7]})
    assert infos["task_index"].tolist() == [4, 4, 7]
    ids = infos["task_id"].tolist()
    _, infos = env.reset(options={"task_id": ids})
    assert infos["task_index"].tolist() == [4, 4, 7]
    _, infos = env.reset(options={"task_index": 2})
    assert infos["task_index"].tolist() == [2, 2, 2]
    _, infos = env.reset(options={"task_id": ids[2]})
    assert infos["task_index"].tolist() == [7, 7, 7]
    mask = np.array([False, True, False])
    options = {"task_index": np.array([0, 9, 0]), "reset_mask": mask}
    _, infos = env.reset(options=options)
    assert set(options) == {"task_index", "reset_mask"}
    assert infos["_task_index"].tolist() == mask.tolist()
    assert infos["task_index"][1] == 9
    for slot, expected in enumerate([7, 9, 7]):
        *_, infos = env.step(["?"] * 3) if slot == 0 else (infos,)
        assert infos["task_index"][slot] == expected


def test_seeds():
    env = make(3)
    _, a = env.reset(seed=10)
    _, b = env.reset(seed=[12, None, 10])
    assert b["task_index"][0] == a["task_index"][2]
    assert b["task_index"][2] == a["task_index"][0]
    for seed, message in [([1, 2], "seed must hold 3 seeds, got 2")]:
        with pytest.raises(ValueError, match=message):
            env.reset(seed=seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_index": [1, 2]}, "must be one value or 3"),
        ({"task_index": 1.5}, "must be one value or 3"),
        ({"task_index": [1, 2, -1]}, "must be an integer from 0"),
        ({"task_id": ["a", "b", "c"]}, "must be the id of a task"),
        ({"reset_mask": [True, False]}, "must be 3 booleans"),
        ({"reset_mask": np.array([1, 0, 1])}, "must be 3 booleans"),
        ({"reset_mask": np.zeros(3, dtype=bool)}, "must have a true entry"),
        ({"nope": 1}, "options must only have the keys"),
        ({"task_index": 1, "task_id": "x"}, "at most one"),
    ],
)
def test_a_refused_reset_changes_nothing(options, message):
    env, other = make(3), make(3)
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=5, options=options)
    assert env.step([SEARCH.format("a")] * 3)[0] == other.step([SEARCH.format("a")] * 3)[0]
    assert env.reset()[0] == other.reset()[0]


def test_actions_are_checked():
    env = make(3)
    with pytest.raises(ResetNeeded, match="slot 0 has none"):
        env.step(["x"] * 3)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match="slot 1 has none"):
        env.step(["x"] * 3)
    env.reset(seed=0)
    for actions, message in [
        ("abc", "actions must be 3 strings"),
        (["x"], "actions must be 3 strings"),
        (["x", 1, "x"], r"actions\[1\] must be a str, got int"),
    ]:
        with pytest.raises(ValueError, match=message):
            env.step(actions)
    assert not env.step([SEARCH.format("a")] * 3)[4]["is_idle"].any()


def test_none_leaves_a_slot_alone():
    env = make(3)
    whole = make(3)
    first, _ = env.reset(seed=0)
    whole.reset(seed=0)
    action = SEARCH.format("a")
    texts, rewards, terminated, truncated, infos = env.step([None, action, None])
    assert (texts[0], texts[2]) == (first[0], first[2])
    assert texts[1] != first[1]
    assert infos["is_idle"].tolist() == [True, False, True]
    assert infos["_turn"].tolist() == [False, True, False]
    assert not np.any([rewards, terminated, truncated])
    later = env.step([action, None, action])[0]
    assert (later[0], texts[1], later[2]) == whole.step([action] * 3)[0]
    fresh = make(2)
    fresh.reset(options={"reset_mask": np.array([True, False])})
    assert fresh.step([action, None])[4]["is_idle"].tolist() == [False, True]


def test_construction_and_metadata(recwarn):
    env = make(2, render_mode="ansi")
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.num_envs == 2
    assert ("a", "é") in env.action_space
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    env.step(["?", SEARCH.format("a")])
    assert "malformed" in env.render()[0]
    assert "turn 1: observation" in env.render()[1]
    env.close()
    env.close()
    assert not recwarn.list
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        DeepSearchVectorEnv(0, dataset="toy")


def test_pickling_in_mid_episode():
    env = make(2)
    env.reset(seed=0)
    env.step([SEARCH.format("a"), "?"])
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step([SEARCH.format("a"), "?"])[0] == env.step([SEARCH.format("a"), "?"])[0]
    assert copy.reset()[0] == env.reset()[0]


def test_under_the_sync_vector_env():
    env = SyncVectorEnv(
        [lambda: gymnasium.make("DeepSearch-Toy-v1") for _ in range(2)],
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    ours = make(2)
    observations, _ = env.reset(seed=0)
    assert observations == ours.reset(seed=0)[0]
    actions = (SEARCH.format("river"), "?")
    theirs_step, ours_step = env.step(actions), ours.step(actions)
    assert theirs_step[0] == ours_step[0]
    assert theirs_step[2].tolist() == ours_step[2].tolist() == [False, True]
    for key in theirs_step[4]:
        assert theirs_step[4][key].tolist() == ours_step[4][key].tolist(), key
    observations, *_ = env.step(actions)
    assert "Question:" in observations[1]
    env.close()


def test_under_the_async_vector_env():
    settings = {"vectorization_mode": "async", "vector_kwargs": {"shared_memory": False}}
    env = gymnasium.make_vec("calibadv_env:DeepSearch-Toy-v1", num_envs=2, **settings)
    try:
        ours = make(2)
        assert env.reset(seed=0)[0] == ours.reset(seed=0)[0]
        actions = (SEARCH.format("river é"), "?")
        assert env.step(actions)[0] == ours.step(actions)[0]
    finally:
        env.close()


def test_shared_memory_is_refused_with_the_remedy():
    with pytest.raises((CustomSpaceError, ValueError), match="shared_memory=False"):
        gymnasium.make_vec("DeepSearch-Toy-v1", num_envs=2, vectorization_mode="async")
