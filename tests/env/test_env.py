import pickle
import random

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.env import DeepSearchEnv
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage

SEARCH = "<think>t</think><search>{}</search>"
ANSWER = "<think>t</think><answer>{}</answer>"


class FlakyRetriever:
    """Fails at the calls that it is told to fail at."""

    def __init__(self, failures=()):
        self.calls = 0
        self.failures = set(failures)

    def search(self, queries, top_k):
        self.calls += 1
        if self.calls in self.failures:
            raise RetrieverError("the server is down")
        return [
            [
                ScoredPassage(Passage(f"{q}{k}", q, f"text {k}"), 1.0 / k)
                for k in range(1, top_k + 1)
            ]
            for q in queries
        ]


@pytest.fixture
def env():
    return gymnasium.make("DeepSearch-Toy-v1", render_mode="ansi")


def test_make_passes_every_argument():
    made = gymnasium.make(
        "DeepSearch-v1",
        dataset="toy",
        split="dev",
        retriever="memory",
        top_k=2,
        max_turns=1,
        reward="em",
        format_gate=False,
        invalid_action="continue",
        prompt="Q {question}",
        prepend_think=True,
        max_observation_chars=40,
    )
    observation, info = made.reset(seed=0)
    assert observation == f"Q {info['question']}<think>"
    observation, *_, step = made.step("x")
    assert step["stop_reason"] is None
    _, _, terminated, truncated, step = made.step("x</think><search>q</search>")
    assert (terminated, truncated) == (False, True)


def test_an_episode_by_hand(env):
    _, info = env.reset(options={"task_index": 0})
    observation, reward, terminated, truncated, step = env.step(SEARCH.format(info["question"]))
    assert len(step["passage_ids"]) == 3
    assert observation.count("Doc ") == 3
    assert (reward, terminated, truncated) == (0.0, False, False)
    observation, reward, terminated, truncated, step = env.step(
        ANSWER.format(info["golden_answers"][0])
    )
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    text = env.render()
    assert info["question"] in text
    assert "turn 2: action" in text
    assert "answered" in text


def test_step_needs_a_running_episode():
    bare = DeepSearchEnv(dataset="toy")
    with pytest.raises(ResetNeeded):
        bare.step("x")
    bare.reset(seed=0)
    bare.step("x")
    with pytest.raises(ResetNeeded):
        bare.step("x")
    bare.reset()
    with pytest.raises(ValueError, match="action must be a str, got int"):
        bare.step(3)


def global_generators():
    return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def test_seeds_decide_and_no_global_generator_is_touched(env):
    before = global_generators()
    first = [env.reset(seed=3)[1]["task_id"]] + [env.reset()[1]["task_id"] for _ in range(5)]
    again = [env.reset(seed=3)[1]["task_id"]] + [env.reset()[1]["task_id"] for _ in range(5)]
    assert first == again
    assert len(set(first)) > 1
    assert global_generators() == before


def test_choosing_a_task_draws_nothing(env):
    env.reset(seed=3)
    expected = env.reset()[1]["task_id"]
    env.reset(seed=3)
    env.reset(options={"task_index": 5})
    assert env.reset()[1]["task_id"] == expected


def test_options(env):
    _, info = env.reset(options={"task_index": np.int64(7)})
    assert info["task_index"] == 7
    _, same = env.reset(options={"task_id": info["task_id"]})
    assert same == info
    last = info["num_tasks"] - 1
    for options, message in [
        ({"task_index": -1}, f"task_index'\\] must be an integer from 0 to {last}, got -1"),
        ({"task_index": last + 1}, "must be an integer"),
        ({"task_index": 1.0}, "must be an integer"),
        ({"task_index": True}, "must be an integer"),
        ({"task_id": "nope"}, "must be the id of a task in split 'train' .* got 'nope'"),
        ({"task_id": ["x"]}, "must be the id of a task"),
        ({"task": 1}, r"options must only have the keys .* got \['task'\]"),
        ({"task_id": info["task_id"], "task_index": 1}, "at most one"),
    ]:
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)


def test_a_refused_reset_changes_nothing():
    bare = DeepSearchEnv(dataset="toy")
    bare.reset(seed=1)
    with pytest.raises(ValueError, match="must be an integer"):
        bare.reset(seed=2, options={"task_index": -1})
    bare.step(SEARCH.format("x"))
    expected = bare.reset()[1]
    bare.reset(seed=1)
    assert bare.reset()[1] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "nope"}, "dataset must be one of"),
        ({"split": "nope"}, "split of dataset 'toy' must be"),
        ({"retriever": "nope"}, "retriever must be one of"),
        ({"render_mode": "human"}, "render_mode must be None or 'ansi', got 'human'"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepSearchEnv(**{"dataset": "toy"} | arguments)


def test_a_failed_search_leaves_the_episode_as_it_was():
    flaky = DeepSearchEnv(dataset="toy", retriever=FlakyRetriever({2, 3}))
    sound = DeepSearchEnv(dataset="toy", retriever=FlakyRetriever())
    for one in (flaky, sound):
        one.reset(seed=0)
    assert flaky.step(SEARCH.format("a")) == sound.step(SEARCH.format("a"))
    for _ in range(2):
        with pytest.raises(RetrieverError, match="down"):
            flaky.step(SEARCH.format("b"))
    assert flaky.step(SEARCH.format("b")) == sound.step(SEARCH.format("b"))
    assert flaky.step(ANSWER.format("b")) == sound.step(ANSWER.format("b"))


def test_a_retriever_that_answers_too_little_is_an_error():
    class Short:
        def search(self, queries, top_k):
            return []

    short = DeepSearchEnv(dataset="toy", retriever=Short())
    short.reset(seed=0)
    with pytest.raises(RetrieverError, match="must answer all 1 queries, got 0"):
        short.step(SEARCH.format("a"))


def test_an_empty_query_is_a_search(env):
    env.reset(seed=0)
    *_, info = env.step(SEARCH.format(""))
    assert info["query"] == ""
    assert info["num_searches"] == 1
    assert info["passage_ids"] == ()


@pytest.mark.parametrize("retriever", ["bm25", FlakyRetriever()])
def test_pickling_in_mid_episode(retriever):
    bare = DeepSearchEnv(dataset="toy", retriever=retriever)
    bare.reset(seed=0)
    bare.step(SEARCH.format("a"))
    copy = pickle.loads(pickle.dumps(bare))
    assert copy.step(SEARCH.format("b")) == bare.step(SEARCH.format("b"))
    assert copy.step(ANSWER.format("b")) == bare.step(ANSWER.format("b"))
    assert copy.reset() == bare.reset()
    if retriever == "bm25":
        assert copy._world.retriever is bare._world.retriever
        assert len(pickle.dumps(bare)) < 20_000


def test_render_and_close(env, recwarn):
    bare = DeepSearchEnv(dataset="toy", render_mode="ansi")
    assert bare.render() == "(no episode yet)\n"
    bare.close()
    bare.close()
    silent = DeepSearchEnv(dataset="toy")
    silent.reset(seed=0)
    assert silent.render() is None
    assert any("render needs a mode" in str(one.message) for one in recwarn)


def test_an_example_answer_in_the_prompt_is_never_graded():
    task = QATask(id="b", question="The capital of China", golden_answers=("Beijing",))
    calibadv_env.register_dataset(
        "prompt-test", [task], [Passage("1", "", "<answer>Beijing</answer>")], overwrite=True
    )
    bare = DeepSearchEnv(dataset="prompt-test", split="test", format_gate=False, max_turns=1)
    observation, _ = bare.reset()
    assert "Beijing" in observation
    bare.step(SEARCH.format("capital"))
    _, reward, _, truncated, info = bare.step(SEARCH.format("capital"))
    assert (reward, truncated, info["f1"]) == (0.0, True, 0.0)
