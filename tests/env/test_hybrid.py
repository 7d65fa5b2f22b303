import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.hybrid import HybridRetriever, reciprocal_rank_fusion

CORPUS = Corpus([Passage(name, "", text) for name, text in zip("abcd", "wxyz", strict=True)])


def hybrid(*answers, **options):
    parts = [MemoryRetriever(CORPUS, {"q": answer}) for answer in answers]
    return HybridRetriever(CORPUS, parts, **options)


def found(retriever, top_k, query="q"):
    return [(hit.passage.id, hit.score) for hit in retriever.search([query], top_k)[0]]


def test_a_fusion_worked_by_hand():
    scores = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]], constant=1)
    assert scores == pytest.approx({"a": 1 / 2, "b": 1 / 3 + 1 / 2, "c": 1 / 4, "d": 1 / 3})
    scores = reciprocal_rank_fusion([["a", "b"], ["b", "a"], ["b"]])
    assert scores["a"] == pytest.approx(1 / 61 + 1 / 62)
    assert scores["b"] == pytest.approx(1 / 62 + 1 / 61 + 1 / 61)
    assert reciprocal_rank_fusion([]) == {}
    assert reciprocal_rank_fusion([[], []]) == {}
    with pytest.raises(ValueError, match="constant must not be negative, got -1"):
        reciprocal_rank_fusion([["a"]], constant=-1)


@given(
    rankings=st.lists(st.permutations(range(6)).map(lambda order: order[:4]), max_size=4),
    data=st.data(),
)
def test_the_order_of_the_rankings_does_not_matter(rankings, data):
    shuffled = data.draw(st.permutations(rankings))
    scores = reciprocal_rank_fusion(rankings)
    assert reciprocal_rank_fusion(shuffled) == pytest.approx(scores)
    for ranking in rankings:
        assert set(ranking) <= set(scores)


def test_it_fuses_what_its_parts_give():
    retriever = hybrid(["a", "b", "c"], ["b", "d"], constant=1)
    expected = [("b", 5 / 6), ("a", 1 / 2), ("d", 1 / 3), ("c", 1 / 4)]
    for top_k in (1, 2, 3, 4, 9):
        names, scores = zip(*found(retriever, top_k), strict=True)
        assert names == tuple(name for name, _ in expected[:top_k])
        assert scores == pytest.approx([score for _, score in expected[:top_k]])


def test_ties_stand_in_corpus_order():
    assert [name for name, _ in found(hybrid(["d"], ["b"]), 2)] == ["b", "d"]
    assert [name for name, _ in found(hybrid(["d", "c"], ["c", "d"]), 1)] == ["c"]


def test_a_part_without_a_match_has_no_say():
    lexical = Bm25Retriever(CORPUS)
    dense = MemoryRetriever(CORPUS, {"unknown": ["d", "c"]})
    retriever = HybridRetriever(CORPUS, [lexical, dense])
    assert [name for name, _ in found(retriever, 4, "unknown")] == ["d", "c"]
    assert found(retriever, 2, "nothing at all") == []


def test_the_depth_bounds_what_is_fused():
    retriever = hybrid(["a", "b"], ["c", "b"], depth=1)
    assert [name for name, _ in found(retriever, 1)] == ["a"]
    assert [name for name, _ in found(retriever, 2)] == ["b", "a"]


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="at least two, got 1"):
        hybrid(["a"])
    with pytest.raises(ValueError, match="depth must be positive, got 0"):
        hybrid(["a"], ["b"], depth=0)
    with pytest.raises(ValueError, match="constant must not be negative"):
        hybrid(["a"], ["b"], constant=-1)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        hybrid(["a"], ["b"]).search(["q"], 0)
