import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from calibadv_env.retrieval import Passage
from calibadv_env.retrieval.base import best_positions, only_matches, take, with_ties


@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=60), count=st.integers(1, 60))
def test_the_choice_of_the_best_is_a_stable_sort(scores, count):
    count = min(count, len(scores))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    found = best_positions(np.array(scores, dtype=np.float32), count)
    assert found == [(i, float(scores[i])) for i in order]


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    count=st.integers(1, 80),
)
@example(scores=[1] * 70, count=3)
@example(scores=[2, 1, 3] * 20, count=25)
def test_ties_are_broken_by_position_whatever_the_engine_does(scores, count):
    count = min(count, len(scores))
    engine = sorted(enumerate(scores), key=lambda hit: (-hit[1], -hit[0]))
    found = with_ties(lambda limit: engine[:limit], count, len(scores))
    assert found == sorted(enumerate(scores), key=lambda hit: (-hit[1], hit[0]))[:count]


def test_an_engine_with_few_hits_is_asked_once():
    asked = []

    def fetch(limit):
        asked.append(limit)
        return [(5, 2.0), (3, 2.0)]

    assert with_ties(fetch, 3, 1000) == [(3, 2.0), (5, 2.0)]
    assert asked == [11]


def test_passages_that_match_nothing_are_left_out():
    assert only_matches([(1, 5.0), (0, 0.5)]) == [(1, 5.0), (0, 0.5)]
    assert only_matches([(7, 5.0), (0, 0.0), (1, 0.0)]) == [(7, 5.0)]
    assert only_matches([(0, 0.0)]) == []
    assert only_matches([]) == []


def test_passages_are_fetched():
    passages = [Passage("a", "", ""), Passage("b", "", "")]
    [hit] = take(passages, [(1, 2.5)])
    assert (hit.passage.id, hit.score) == ("b", 2.5)
