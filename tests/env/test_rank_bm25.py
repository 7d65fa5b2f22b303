import math
import sys
from collections import Counter

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import MissingDependencyError
from calibadv_env.retrieval import Corpus, Passage
from calibadv_env.retrieval.bm25 import rank_bm25 as module
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever

CORPUS = Corpus(
    [
        Passage("a", "Nile", "A river in Egypt"),
        Passage("b", "Cairo", "Capital of Egypt"),
        Passage("c", "Oslo", "Capital of Norway"),
        Passage("d", "Oslo", "Capital of Norway"),
        Passage("e", "", "Bread and cheese"),
    ]
)


def test_a_score_worked_by_hand():
    [found] = RankBm25Retriever(CORPUS).search(["river"], 1)
    mean_length = (3 + 3 + 3 + 3 + 2) / 5
    idf = math.log(5 - 1 + 0.5) - math.log(1 + 0.5)
    expected = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / mean_length))
    assert found[0].passage.id == "a"
    assert found[0].score == pytest.approx(expected)


def test_ties_follow_corpus_order_and_unknown_words_find_nothing():
    retriever = RankBm25Retriever(CORPUS)
    [tied, unknown, empty] = retriever.search(["norway oslo", "zzz", ""], 3)
    assert [item.passage.id for item in tied][:2] == ["c", "d"]
    assert unknown == empty == []


def test_a_match_counts_whatever_its_score():
    corpus = Corpus([Passage(str(i), "", text) for i, text in enumerate(["x", "oslo x1", "oslo"])])
    retriever = RankBm25Retriever(corpus)
    [found] = retriever.search(["oslo"], 3)
    assert sorted(item.passage.id for item in found) == ["1", "2"]
    [filled] = retriever.with_fillers().search(["oslo"], 3)
    assert [item.score for item in filled] == sorted([0.0, *(item.score for item in found)])[::-1]


def test_it_mostly_agrees_with_the_default_on_the_toy_world():
    toy = get_dataset("toy")
    queries = [task.question for task in toy.tasks("test")]
    ours = Bm25Retriever(toy.corpus()).search(queries, 1)
    theirs = RankBm25Retriever(toy.corpus()).search(queries, 1)
    same = sum(x[0].passage == y[0].passage for x, y in zip(ours, theirs, strict=True))
    assert same / len(queries) > 0.8


def test_the_idf_is_all_that_reorders():
    toy = get_dataset("toy")
    queries = [task.question for task in toy.tasks("test")]
    reference = RankBm25Retriever(toy.corpus())
    index = reference._index
    size = index.corpus_size
    counts = Counter(word for words in index.doc_freqs for word in words)
    index.idf = {w: math.log(1 + (size - n + 0.5) / (n + 0.5)) for w, n in counts.items()}
    ours = Bm25Retriever(toy.corpus()).search(queries, 3)
    for mine, theirs in zip(ours, reference.search(queries, 3), strict=True):
        scores = [item.score / 2.2 for item in theirs]
        assert [item.score for item in mine] == pytest.approx(scores, abs=1e-5)
    assert max(item[0].score for item in ours) > 1


def test_a_corpus_without_words_can_be_searched():
    retriever = RankBm25Retriever(Corpus([Passage("a", "", "?")]))
    assert retriever.search(["the"], 2) == [[]]
    [found] = retriever.with_fillers().search(["the"], 2)
    assert [(item.passage.id, item.score) for item in found] == [("a", 0.0)]


def test_a_large_corpus_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_PASSAGES", 4)
    with pytest.raises(ValueError, match="at most 4 passages, got 5; take 'bm25'"):
        RankBm25Retriever(CORPUS)


def test_the_limit_is_two_hundred_thousand():
    assert module.MAX_PASSAGES == 200_000


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[rank-bm25\]"):
        RankBm25Retriever(CORPUS)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        RankBm25Retriever(CORPUS).search(["x"], -1)
    with pytest.raises(ValueError, match="k1"):
        RankBm25Retriever(CORPUS, k1=-1)
    with pytest.raises(ValueError, match="b must be"):
        RankBm25Retriever(CORPUS, b=1.5)
