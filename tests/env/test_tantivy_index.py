import pickle
import signal
import subprocess
import sys
import textwrap

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.retrieval import Corpus, Passage, Retriever
from calibadv_env.retrieval.bm25.memory import Bm25Retriever

pytest.importorskip("tantivy")

from calibadv_env.retrieval.bm25.tantivy_index import TantivyIndex, build_tantivy_index

TEXTS = ["alpha beta", "beta beta gamma", "the delta", "", "alpha beta", "epsilon Élan 日本"]
CORPUS = Corpus([Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    out = tmp_path_factory.mktemp("tantivy") / "index"
    return TantivyIndex(build_tantivy_index(CORPUS, out, heap_bytes=15_000_000), verify=True)


def ids(found):
    return [[hit.passage.id for hit in row] for row in found]


def test_scores_are_lucene_s_times_k1_plus_1(index):
    queries = ["beta", "alpha beta beta", "élan", "gamma delta"]
    for found, expected in zip(
        index.search(queries, 2), Bm25Retriever(CORPUS).search(queries, 2), strict=True
    ):
        assert [hit.passage for hit in found] == [hit.passage for hit in expected]
        scores = [hit.score for hit in expected]
        assert [hit.score / 2.2 for hit in found] == pytest.approx(scores, rel=1e-5)


def test_ties_stand_in_corpus_order_and_nothing_else_is_given(index):
    assert ids(index.search(["alpha"], 6)) == [["p0", "p4"]]
    assert index.search(["", "the", "zzz"], 2) == [[], [], []]


def test_many_ties_stand_in_corpus_order(tmp_path):
    corpus = Corpus([Passage(str(i), "", "same words") for i in range(300)])
    found = TantivyIndex(build_tantivy_index(corpus, tmp_path / "i")).search(["same"], 30)
    assert ids(found) == [[str(i) for i in range(30)]]


@pytest.mark.parametrize("query", ["\0", '+ - && "(', "\ud800", "field:alpha", "a" * 1_000_000])
def test_nothing_in_a_query_is_syntax(index, query):
    assert ids(index.search([query], 3)) == [["p0", "p4"] if "alpha" in query else []]
    assert ids(index.search([query + " gamma"], 1))[0][0] in {"p1", "p0"}


def test_it_agrees_with_bm25_on_the_atlas(tmp_path):
    dataset = get_dataset("atlas")
    index = TantivyIndex(build_tantivy_index(dataset.corpus(), tmp_path / "i"))
    queries = [task.question for task in dataset.tasks("dev")][:100]
    expected = dataset.retriever("bm25").search(queries, 1)
    same = [a == b for a, b in zip(ids(index.search(queries, 1)), ids(expected), strict=True)]
    assert sum(same) >= 90


def test_it_pickles_and_the_batch_does_not_matter(index):
    assert isinstance(index, Retriever)
    queries = ["alpha", "beta gamma", "alpha"]
    together = pickle.loads(pickle.dumps(index)).search(queries, 3)
    assert together == [index.search([query], 3)[0] for query in queries]


def test_a_damaged_index_is_refused(tmp_path):
    folder = build_tantivy_index(CORPUS, tmp_path / "i")
    path = next((folder / "tantivy").glob("*.idx"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="must have"):
        TantivyIndex(folder)


KILLED = """
    import os, signal, sys
    from calibadv_env.data.registry import get_dataset
    from calibadv_env.retrieval.bm25.tantivy_index import build_tantivy_index

    def kill(stage, done, total):
        if stage == "index" and done:
            os.kill(os.getpid(), signal.SIGKILL)

    build_tantivy_index(get_dataset("atlas").corpus(), sys.argv[1], progress=kill)
"""


def test_a_kill_leaves_no_half_index(tmp_path):
    code = textwrap.dedent(KILLED)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "i")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "i").exists()
    TantivyIndex(build_tantivy_index(CORPUS, tmp_path / "i"), verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[tantivy\]"):
        build_tantivy_index(CORPUS, tmp_path / "i")
