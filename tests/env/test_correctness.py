import math
import pickle

import pytest

from calibadv_env import correctness
from calibadv_env.protocol.passages import Passage, ScoredPassage


def test_new_gold_is_in_rank_order_and_counts_once():
    gold = {"g1": (0,), "g2": (1,)}
    assert correctness.new_gold(["x", "g2", "g1", "g2"], gold, set()) == ("g2", "g1")
    assert correctness.new_gold(["g2", "g1"], gold, {"g2"}) == ("g1",)
    assert correctness.new_gold(["g1"], {}, set()) == ()


def test_recall_counts_hops_and_not_passages():
    hops_of = {"a": (0,), "b": (0,), "c": (1, 2)}
    assert correctness.gold_recall([], hops_of, 3) == 0
    assert correctness.gold_recall(["a", "b"], hops_of, 3) == pytest.approx(1 / 3)
    assert correctness.gold_recall(["b", "c"], hops_of, 3) == 1


def test_recall_without_gold_is_a_nan_that_equals_itself():
    share = correctness.gold_recall([], {}, 0)
    again = pickle.loads(pickle.dumps(share))
    assert math.isnan(share)
    assert isinstance(share, float)
    assert share == again
    assert (share != again) is False
    assert share != 0.5
    assert share != math.nan


@pytest.mark.parametrize(
    ("title", "text", "golds", "expected"),
    [
        ("", "It lies in Oman.", ["Oman"], True),
        ("", "It lies in Romania.", ["Oman"], False),
        ("Oman", "A country.", ["the OMAN!"], True),
        ("New", "York is big.", ["New York"], False),
        ("", "Anything at all", ["the", "..."], False),
        ("", "x", [], False),
        ("", "one two", ["three", "two"], True),
    ],
)
def test_contains_answer(title, text, golds, expected):
    passages = [ScoredPassage(Passage("0", "", "nothing"), 1.0)]
    passages.append(ScoredPassage(Passage("1", title, text), 1.0))
    answers = correctness.searchable_answers(golds)
    assert correctness.contains_answer(passages, answers) is expected
    assert not correctness.contains_answer([], answers)
