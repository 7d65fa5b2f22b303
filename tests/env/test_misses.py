"""Searches that miss, always the same ones."""

import pytest

from calibadv_env.data.toy import load_dataset
from calibadv_env.retrieval.base import retriever_identity
from calibadv_env.retrieval.misses import MissingRetriever

TOY = load_dataset()
QUERIES = [task.question for task in TOY.tasks("train")]


def ids(found):
    return [[hit.passage.id for hit in hits] for hits in found]


def test_a_miss_gives_what_comes_after_the_best():
    whole = TOY.retriever("bm25")
    weak = MissingRetriever(whole, rate=0.3)
    found, wide = ids(weak.search(QUERIES, 2)), ids(whole.search(QUERIES, 4))
    missed = [weak.is_miss(query) for query in QUERIES]
    assert found == [w[2:] if miss else w[:2] for w, miss in zip(wide, missed, strict=True)]
    assert 0.2 < sum(missed) / len(missed) < 0.4


def test_case_and_punctuation_do_not_help_and_other_words_may():
    weak = MissingRetriever(TOY.retriever("bm25"), rate=0.5)
    pairs = [(weak.is_miss(q), weak.is_miss(f"  {q.upper()}!")) for q in QUERIES]
    assert all(first == second for first, second in pairs)
    reworded = [weak.is_miss(f"tell: {q}") for q in QUERIES]
    assert reworded != [first for first, _ in pairs]


def test_rates_seeds_and_identities():
    whole = TOY.retriever("bm25")
    assert ids(MissingRetriever(whole, rate=0).search(QUERIES, 3)) == ids(whole.search(QUERIES, 3))
    assert all(map(MissingRetriever(whole, rate=1).is_miss, QUERIES))
    first, second = MissingRetriever(whole, seed=1), MissingRetriever(whole, seed=2)
    assert [first.is_miss(q) for q in QUERIES] != [second.is_miss(q) for q in QUERIES]
    assert retriever_identity(first) != retriever_identity(second)
    assert retriever_identity(first)["parts"] == [retriever_identity(whole)]
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 2"):
        MissingRetriever(whole, rate=2)
    with pytest.raises(ValueError, match="sequence of strings"):
        first.search("one", 3)
