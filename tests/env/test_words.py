import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.words import (
    MAX_WORDS,
    highest_similarity,
    split_words,
    word_distance,
    word_similarity,
)

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
    assert word_distance(a, b) == table_distance(a, b)


@given(st.lists(st.sampled_from("ab"), min_size=60, max_size=150), WORDS)
def test_distance_over_more_than_a_machine_word(a, b):
    shuffled = a[30:] + b + a[:30]
    assert word_distance(a, shuffled) == table_distance(a, shuffled)


def test_similarity_by_hand():
    assert word_similarity(["u1", "u2", "u3"], ["u1", "u2", "u9"]) == pytest.approx(2 / 3)
    assert word_similarity(["a"], ["a"]) == 1
    assert word_similarity([], []) == 0
    assert word_similarity(["a"], []) == 0
    assert word_similarity(["a", "b"], ["c"]) == 0


@given(WORDS, st.lists(WORDS, max_size=4))
def test_highest_similarity_is_the_maximum(words, earlier):
    expected = max((word_similarity(words, other) for other in earlier), default=0)
    assert highest_similarity(words, earlier) == expected


def test_a_hostile_thought_takes_bounded_time():
    a = split_words("a b " * 250_000)
    b = split_words("b c a " * 170_000)
    assert len(a) == MAX_WORDS
    started = time.perf_counter()
    word_similarity(a, b)
    assert time.perf_counter() - started < 2


def test_word_distance_of_long_texts() -> None:
    first = [f"w{index}" for index in range(200)]
    assert word_distance(first, first[3:]) == 3
    assert word_distance(first, ["x", *first, "y"]) == 2
    assert word_distance(first, [*first[:100], "x", *first[101:]]) == 1
    assert word_distance(first, first) == 0
