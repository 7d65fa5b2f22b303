import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage
from calibadv_env.retrieval.rerank import EncoderScorer, RerankingRetriever

sys.path.append(str(Path(__file__).parent))

from fake_encoder import FakeEncoder

CORPUS = Corpus([Passage(f"p{i}", "", "x" * i) for i in range(8)])
QUERIES = ["long", "short", "none"]
ANSWERS = {"long": ["p3", "p5", "p1"], "short": ["p2", "p4", "p7"]}


class LengthScorer:
    """Likes long passages for "long", short ones for "short", all the same for others."""

    def __init__(self):
        self.calls = []

    def score(self, query, passages):
        self.calls.append((query, [passage.id for passage in passages]))
        sign = {"long": 1.0, "short": -1.0}.get(query, 0.0)
        return [sign * len(passage.text) for passage in passages]


def make(depth=3):
    return RerankingRetriever(MemoryRetriever(CORPUS, ANSWERS), LengthScorer(), depth=depth)


def ids(row):
    return [hit.passage.id for hit in row]


def test_the_scorer_orders_what_the_retriever_finds():
    long, short = make().search(["long", "short"], 2)
    assert [(hit.passage.id, hit.score) for hit in long] == [("p5", 5.0), ("p3", 3.0)]
    assert [(hit.passage.id, hit.score) for hit in short] == [("p2", -2.0), ("p4", -4.0)]


def test_equal_scores_keep_the_first_order():
    retriever = RerankingRetriever(MemoryRetriever(CORPUS, {"q": ["p4", "p2"]}), LengthScorer())
    assert ids(retriever.search(["q"], 3)[0]) == ["p4", "p2"]


@given(queries=st.lists(st.sampled_from(QUERIES), max_size=6), top_k=st.integers(1, 8))
def test_the_batch_does_not_matter(queries, top_k):
    retriever = make()
    assert retriever.search(queries, top_k) == [make().search([q], top_k)[0] for q in queries]
    # There is nothing to score where nothing is found.
    assert sorted(query for query, _ in retriever.scorer.calls) == sorted({*queries} - {"none"})


def test_a_query_is_scored_against_its_own_passages_alone():
    retriever = make()
    retriever.search(["long", "short"], 1)
    assert retriever.scorer.calls == [("long", ANSWERS["long"]), ("short", ANSWERS["short"])]


def test_the_depth_grows_with_what_is_wanted():
    retriever = make(depth=2)
    assert len(retriever.search(["long"], 1)[0]) == 1
    assert len(retriever.search(["long"], 3)[0]) == 3
    assert [len(scored) for _, scored in retriever.scorer.calls] == [2, 3]
    assert retriever.corpus is CORPUS


def test_faults_are_refused():
    class Short:
        def score(self, query, passages):
            return [0.0]

    with pytest.raises(RetrieverError, match="must give 3 scores, got 1"):
        RerankingRetriever(MemoryRetriever(CORPUS), Short(), depth=3).search(["q"], 1)
    with pytest.raises(ValueError, match="depth must be positive, got 0"):
        make(depth=0)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        make().search(["q"], 0)
    with pytest.raises(ValueError, match="sequence of strings"):
        make().search("long", 1)


def test_the_identity_names_retriever_scorer_and_depth():
    with pytest.raises(ValueError, match="scorer LengthScorer has no fingerprint"):
        make().identity()
    scorers = [EncoderScorer(FakeEncoder(fingerprint=name)) for name in ("one", "two")]
    records = [
        RerankingRetriever(MemoryRetriever(CORPUS, ANSWERS), scorer, depth=depth).identity()
        for scorer in scorers
        for depth in (2, 3)
    ]
    assert all(one != other for i, one in enumerate(records) for other in records[:i])
    one, other = (
        RerankingRetriever(MemoryRetriever(CORPUS, ANSWERS), EncoderScorer(FakeEncoder()))
        for _ in range(2)
    )
    assert one.identity() == other.identity()
    assert one.identity()["scorer"] == "encoder:fake"
