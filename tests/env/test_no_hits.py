"""A search that finds nothing: what each retriever and each version of the environments gives."""

import sys
from pathlib import Path

import gymnasium
import pytest

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.env import DeepSearchEnv
from calibadv_env.protocol.passages import NO_PASSAGES, parse_passages
from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage, open_index
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever
from calibadv_env.retrieval.bm25.tantivy_index import TantivyIndex, build_tantivy_index
from calibadv_env.retrieval.cache import CachedRetriever
from calibadv_env.retrieval.dense.faiss_index import Hnsw
from calibadv_env.retrieval.dense.index import DenseIndex, build_dense_index
from calibadv_env.retrieval.filled import with_fillers
from calibadv_env.retrieval.hybrid import HybridRetriever, write_hybrid
from calibadv_env.retrieval.parallel import ParallelRetriever
from calibadv_env.retrieval.remote.requests import RequestLimits, encode_reply, parse_request
from calibadv_env.retrieval.remote.wire import decode_reply, encode_request
from calibadv_env.retrieval.rerank import RerankingRetriever

sys.path.append(str(Path(__file__).parent))

from fake_encoder import FakeEncoder

TEXTS = ["oslo norway", "paris france", "rome italy", "oslo fjord harbour", "lima peru"]
CORPUS = Corpus([Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)])
QUERIES = ["zzz", "", "oslo", "rome zzz"]
HITS = [[], [], ["p0", "p3"], ["p2"]]
TASK = QATask(id="q", question="Where?", golden_answers=("Oslo",), gold_passages=(("p0",),))


def ids(rows):
    return [[hit.passage.id for hit in row] for row in rows]


class Backwards:
    """Scores passages by their place, the last one best."""

    fingerprint = "backwards"

    def score(self, query, passages):
        return [float(passage.id[1:]) for passage in passages]


@pytest.fixture(params=["memory", "okapi", "disk", "tantivy", "hybrid", "on disk", "cache", "many"])
def retriever(request, tmp_path):
    bm25 = Bm25Retriever(CORPUS)
    kinds = {
        "memory": lambda: bm25,
        "okapi": lambda: RankBm25Retriever(CORPUS),
        "disk": lambda: open_index(build_bm25_index(CORPUS, tmp_path / "i")),
        "tantivy": lambda: TantivyIndex(build_tantivy_index(CORPUS, tmp_path / "i")),
        "hybrid": lambda: HybridRetriever(CORPUS, [bm25, MemoryRetriever(CORPUS, {"x": []})]),
        "on disk": lambda: open_index(
            write_hybrid([build_bm25_index(CORPUS, tmp_path / n) for n in "ab"], tmp_path / "i")
        ),
        "cache": lambda: CachedRetriever(bm25, tmp_path / "answers.sqlite"),
        "many": lambda: ParallelRetriever(bm25, 2),
    }
    return kinds[request.param]()


def test_no_hit_is_no_hit_in_every_retriever(retriever):
    assert ids(retriever.search(QUERIES, 3)) == HITS
    assert ids(retriever.search(QUERIES, 3)) == HITS


def test_version_0_fills_up_as_it_did(retriever):
    old = with_fillers(retriever)
    rows = old.search([*QUERIES, "lima oslo"], 3)
    filled = [["p0", "p1", "p2"]] * 2 + [["p0", "p3", "p1"], ["p2", "p0", "p1"]]
    assert ids(rows) == [*filled, ["p4", "p0", "p3"]]
    assert [hit.score for hit in rows[0]] == [0.0] * 3
    assert [hit.score > 0 for hit in rows[3]] == [True, False, False]
    assert len(old.search(["zzz"], 99)[0]) == len(CORPUS)
    close = getattr(old, "close", None)
    if close:
        close()


def test_a_reranker_sees_matches_alone_and_in_version_0_what_it_saw():
    reranker = RerankingRetriever(Bm25Retriever(CORPUS), Backwards(), depth=4)
    assert ids(reranker.search(QUERIES, 3)) == [[], [], ["p3", "p0"], ["p2"]]
    assert ids(with_fillers(reranker).search(["zzz"], 3)) == [["p3", "p2", "p1"]]


def test_a_graph_that_finds_too_little_gives_what_it_found(tmp_path, monkeypatch):
    build_dense_index(CORPUS, tmp_path / "i", FakeEncoder(), Hnsw())
    index = DenseIndex(tmp_path / "i", FakeEncoder())
    monkeypatch.setattr(index._faiss, "search", lambda vectors, limit: [[(3, 0.9), (1, 0.5)]])
    assert ids(index.search(["oslo"], 4)) == [["p3", "p1"]]
    [filled] = with_fillers(index).search(["oslo"], 4)
    assert [(hit.passage.id, hit.score) for hit in filled[2:]] == [("p0", 0.5), ("p2", 0.5)]


@pytest.mark.parametrize("dialect", ["search_r1", "rerank", "skyrl", "gem"])
def test_an_empty_answer_goes_over_the_wire(dialect):
    retriever = Bm25Retriever(CORPUS)
    for query, expected in zip(QUERIES, HITS, strict=True):
        asked = parse_request(*encode_request(dialect, [query], 3, 10), RequestLimits())
        body, _ = encode_reply(asked, retriever.search(asked.queries, asked.top_k))
        [row] = decode_reply(dialect, body, 1, 3)
        assert [hit.passage.text for hit in row] == [TEXTS[int(name[1:])] for name in expected]


def play(env, query="zzz"):
    env.reset(seed=0)
    observation, *_, info = env.step(f"<think>x</think><search>{query}</search>")
    return observation, info


@pytest.fixture(scope="module")
def dataset():
    calibadv_env.register_dataset("no-hits", [TASK], corpus=CORPUS, overwrite=True)


@pytest.mark.usefixtures("dataset")
def test_version_1_says_that_nothing_was_found():
    observation, info = play(gymnasium.make("DeepSearch-NoHits-v1"))
    assert observation == f"\n\n<information>{NO_PASSAGES}</information>\n\n"
    assert info["passages"] == info["passage_ids"] == info["gold_new"] == ()
    assert info["gold_recall"] == 0
    assert not info["answer_in_passages"]
    assert parse_passages(observation) == []


@pytest.mark.usefixtures("dataset")
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_version_0_does_what_it_did():
    observation, info = play(gymnasium.make("DeepSearch-NoHits-v0"))
    assert "Doc 1(Title: ) oslo norway" in observation
    assert info["passage_ids"] == ("p0", "p1", "p2")
    assert info["passage_scores"] == (0.0, 0.0, 0.0)
    assert info["gold_new"] == ("p0",)
    general = gymnasium.make("DeepSearch-v0", dataset="no-hits", split="test")
    assert play(general)[1]["passage_ids"] == ("p0", "p1", "p2")


@pytest.mark.usefixtures("dataset")
def test_the_sentence_is_not_cut_and_other_grammars_have_their_own():
    cut = DeepSearchEnv(dataset="no-hits", max_observation_chars=3)
    assert NO_PASSAGES in play(cut)[0]
    markers = DeepSearchEnv(dataset="no-hits", prompt="r1_searcher")
    markers.reset(seed=0)
    query = "<|begin_of_query|> zzz <|end_of_query|>"
    observation, *_, info = markers.step(query)
    assert "\nNone\n" in observation
    assert parse_passages(observation) == []
    assert info["passages"] == ()


def test_a_retriever_of_ones_own_is_taken_as_it_is():
    class Nothing:
        def search(self, queries, top_k):
            return [[] for _ in queries]

    nothing = Nothing()
    assert with_fillers(nothing) is nothing
    old = DeepSearchEnv(dataset="toy", retriever=nothing, no_hits="first")
    assert play(old)[0] == "\n\n<information></information>\n\n"
