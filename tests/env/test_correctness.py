import math
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env import correctness
from calibadv_env.retrieval.base import Passage, ScoredPassage

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def table_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
            previous, row[j] = row[j], cost
    return row[-1]


@given(WORDS, WORDS)
def test_distance_agrees_with_the_table(a, b):
    assert correctness.word_distance(a, b) == table_distance(a, b)


@given(st.lists(st.sampled_from("ab"), min_size=60, max_size=150), WORDS)
def test_distance_over_more_than_a_machine_word(a, b):
    shuffled = a[30:] + b + a[:30]
    assert correctness.word_distance(a, shuffled) == table_distance(a, shuffled)


def test_similarity_by_hand():
    similarity = correctness.word_similarity
    assert similarity(["u1", "u2", "u3"], ["u1", "u2", "u9"]) == pytest.approx(2 / 3)
    assert similarity(["a"], ["a"]) == 1
    assert similarity([], []) == 0
    assert similarity(["a"], []) == 0
    assert similarity(["a", "b"], ["c"]) == 0


@given(WORDS, st.lists(WORDS, max_size=4))
def test_highest_similarity_is_the_maximum(words, earlier):
    expected = max((correctness.word_similarity(words, other) for other in earlier), default=0)
    assert correctness.highest_similarity(words, earlier) == expected


def test_a_hostile_thought_takes_bounded_time():
    a = correctness.split_words("a b " * 250_000)
    b = correctness.split_words("b c a " * 170_000)
    assert len(a) == correctness.MAX_WORDS
    started = time.perf_counter()
    correctness.word_similarity(a, b)
    assert time.perf_counter() - started < 2


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
