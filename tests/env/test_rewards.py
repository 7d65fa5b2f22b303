"""Gold evidence found by a turn, and the reward of an episode."""

import math
import pickle

import gymnasium
import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.protocol.answers import AnswerScores
from calibadv_env.rewards import answer_reward, gated, gold_recall, new_gold


def test_reward_is_the_named_metric_behind_the_gate():
    scores = AnswerScores(em=0.0, f1=0.5, cover_em=1.0)
    for name, value in (
        ("em", 0.0),
        ("f1", 0.5),
        ("step_search", 0.5),
        ("cover_em", 0.0),
    ):
        assert answer_reward("Oslo or Rome", ["Paris"], scores, name) == value
    assert answer_reward("Oslo or Rome", ["Paris"], scores, "cover_em", "substring") == 1
    assert answer_reward("It is Oslo.", ["Oslo"], scores, "cover_em") == 1
    assert answer_reward(None, ["Oslo"], scores, "cover_em") == 0
    assert gated(0.5, is_format_valid=True, format_gate=True) == 0.5
    assert gated(0.5, is_format_valid=False, format_gate=False) == 0.5
    assert gated(0.5, is_format_valid=False, format_gate=True) == 0


def test_new_gold_is_in_rank_order_and_counts_once():
    gold = {"g1": (0,), "g2": (1,)}
    assert new_gold(["x", "g2", "g1", "g2"], gold, set()) == ("g2", "g1")
    assert new_gold(["g2", "g1"], gold, {"g2"}) == ("g1",)
    assert new_gold(["g1"], {}, set()) == ()


def test_recall_counts_hops_and_not_passages():
    hops_of = {"a": (0,), "b": (0,), "c": (1, 2)}
    assert gold_recall([], hops_of, 3) == 0
    assert gold_recall(["a", "b"], hops_of, 3) == pytest.approx(1 / 3)
    assert gold_recall(["b", "c"], hops_of, 3) == 1


def test_recall_without_gold_is_a_nan_that_equals_itself():
    share = gold_recall([], {}, 0)
    again = pickle.loads(pickle.dumps(share))
    assert math.isnan(share)
    assert isinstance(share, float)
    assert share == again
    assert (share != again) is False
    assert share != 0.5
    assert share != math.nan


@pytest.mark.parametrize(("version", "paid"), [(0, 1.0), (1, 0.0)])
def test_no_constant_answer_is_always_right_since_version_1(version, paid):
    env = gymnasium.make(f"calibadv_env:DeepSearch-Toy-v{version}", reward="cover_em")
    tasks = get_dataset("toy").tasks("train")
    stuffed = " or ".join(sorted({task.golden_answers[0] for task in tasks}))
    for index in range(0, len(tasks), max(1, len(tasks) // 20)):
        _, info = env.reset(options={"task_index": index})
        env.step("<think>t</think><search>x</search>")
        _, reward, _, _, final = env.step(f"<think>t</think><answer>{stuffed}</answer>")
        assert (reward, final["cover_em"]) == (paid, 1.0)
        env.reset(options={"task_index": index})
        env.step("<think>t</think><search>x</search>")
        answer = f"It is {info['golden_answers'][0]}."
        assert env.step(f"<think>t</think><answer>{answer}</answer>")[1] == 1
