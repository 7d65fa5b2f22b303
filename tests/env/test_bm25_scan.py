import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.retrieval.bm25 import scan as bm25_scan
from calibadv_env.retrieval.bm25.scan import PostingsScan


class Lists:
    """Random posting lists: few of rare words with high scores, long ones with low scores."""

    def __init__(self, seed, num_passages=400, num_words=12):
        rng = np.random.default_rng(seed)
        sizes = np.geomspace(2, num_passages, num_words).astype(int)
        places = [np.sort(rng.choice(num_passages, size, replace=False)) for size in sizes]
        factors = np.linspace(5, 0.1, num_words)
        levels = rng.choice([0.25, 0.5, 0.7, 1.0], size=sum(sizes))
        self.positions = np.concatenate(places).astype(np.int32)
        self.scores = (levels * np.repeat(factors, sizes)).astype(np.float32)
        self.ends = [0, *np.cumsum(sizes).tolist()]
        self.num_passages = num_passages

    def scan(self, block):
        scan = PostingsScan(self.positions, self.scores, self.num_passages, block)
        words = [scan.word(*edges) for edges in zip(self.ends, self.ends[1:], strict=False)]
        return scan, words

    def slowly(self, chosen, count):
        """The obvious loop: one addition after the other, then a stable sort."""
        total = [np.float32(0)] * self.num_passages
        for number in chosen:
            for place in range(self.ends[number], self.ends[number + 1]):
                total[self.positions[place]] += self.scores[place]
        order = sorted(range(self.num_passages), key=lambda i: (-total[i], i))[:count]
        return [(i, float(total[i])) for i in order]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 20),
    chosen=st.lists(st.integers(0, 11), min_size=1, max_size=9),
    count=st.sampled_from([1, 2, 3, 17, 60, 399, 400]),
    block=st.sampled_from([1, 37, 100, 399, 400, 1000]),
    worth_a_floor=st.sampled_from([0, 300, 10**6]),
)
def test_it_gives_what_the_obvious_loop_gives(seed, chosen, count, block, worth_a_floor):
    lists = Lists(seed)
    scan, words = lists.scan(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_scan, "_WORTH_A_FLOOR", worth_a_floor)
        assert scan.search([[words[i] for i in chosen]], count) == [lists.slowly(chosen, count)]


@pytest.mark.parametrize("worth_a_floor", [0, 10**6])
def test_the_batch_does_not_matter(monkeypatch, worth_a_floor):
    monkeypatch.setattr(bm25_scan, "_WORTH_A_FLOOR", worth_a_floor)
    lists = Lists(2)
    scan, words = lists.scan(64)
    batch = [[words[i] for i in chosen] for chosen in ([0, 11], [11, 0], [3], [0, 11], [9, 10, 11])]
    assert scan.search(batch, 4) == [scan.search([one], 4)[0] for one in batch]
    assert scan.search([], 4) == []


def test_long_lists_of_little_weight_are_left_out(monkeypatch):
    monkeypatch.setattr(bm25_scan, "_WORTH_A_FLOOR", 0)
    lists = Lists(3, num_passages=2000)
    scan, words = lists.scan(100)
    summed = []
    add_up = scan._add_up
    scan._add_up = lambda terms, block: summed.append(len(list(terms))) or add_up(terms, block)
    chosen = [0, 1, 2, 11]
    assert scan.search([[words[i] for i in chosen]], 2) == [lists.slowly(chosen, 2)]
    assert summed
    assert max(summed) < len(chosen)


def test_of_a_long_query_each_word_is_taken_once():
    lists = Lists(1)
    scan, words = lists.scan(90)
    [found] = scan.search([[words[i] for i in (0, 4, 4, 11) * 100]], 5)
    expected = lists.slowly((0, 4, 4, 11) * 100, 5)
    assert [score for _, score in found] == pytest.approx([s for _, s in expected], rel=1e-4)


def test_a_posting_of_a_passage_that_is_not_there_is_an_error():
    lists = Lists(1)
    lists.positions[-1] = 400
    scan, words = lists.scan(400)
    with pytest.raises(IndexError):
        scan.search([[words[-1]]], 3)
