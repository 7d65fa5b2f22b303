"""Retrieval backends: those of this package, and those of another one by an entry point."""

import pickle
import sys

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval import is_remote, make_retriever, open_index
from calibadv_env.retrieval.backends import find_backend, retriever_names
from calibadv_env.retrieval.cache import CachedRetriever

TOY = get_dataset("toy")

MODULE = '''
"""A backend in one file: in memory, on disk, and behind an address."""

from pathlib import Path

from calibadv_env.retrieval import Passage, ScoredPassage
from calibadv_env.retrieval.backends import Backend
from calibadv_env.retrieval.base import check_search, identity_record
from calibadv_env.retrieval.disk_corpus import FOLDER, DiskCorpus, write_corpus
from calibadv_env.retrieval.disk_index import finish_index
from calibadv_env.retrieval.index_files import building, check_files, read_manifest


class Newest:
    """Gives the last passages of the corpus first."""

    def __init__(self, corpus):
        self.corpus = corpus

    def search(self, queries, top_k):
        count = check_search(queries, top_k, self.corpus)
        passages = self.corpus.passages[::-1][:count]
        return [[ScoredPassage(passage, 1.0) for passage in passages] for _ in queries]

    def identity(self):
        return identity_record(self, self.corpus)


def build_index(source, out):
    with building(out) as folder:
        finish_index(folder, "newest", write_corpus(source, folder / FOLDER), {}, {})
    return Path(out)


def open_newest(folder, *, verify=False):
    check_files(folder, read_manifest(folder, "newest"), verify=verify)
    return Newest(DiskCorpus(folder, verify=verify))


class Client:
    def __init__(self, address):
        self.address = address

    def search(self, queries, top_k):
        return [[ScoredPassage(Passage("1", "", self.address), 1.0)] for _ in queries]


BACKEND = Backend(
    name="newest", build=Newest, open=open_newest, connect=Client, schemes=("newest",)
)
number = 5
'''
ENTRY_POINTS = """[calibadv_env.retrievers]
newest = other_search:BACKEND
bare = other_search:Newest
broken = other_search:nothing
wrong = other_search:number
bm25 = other_search:Newest
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another package, as an installer leaves it."""
    facts = tmp_path / "site" / "other_search-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-search\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "other_search.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    sys.modules.pop("other_search", None)


def test_the_package_finds_its_own_backends():
    assert {"bm25", "rank_bm25", "memory"} <= set(retriever_names())
    for kind in ("bm25", "tantivy", "dense", "hybrid", "rerank"):
        assert find_backend(kind).open is not None
    assert is_remote("http://a")
    assert is_remote("https://a")
    assert is_remote("simulated:http://a")
    assert not is_remote("bm25")
    assert not is_remote("bm25:x")
    assert not is_remote("./http://a")
    assert find_backend("corpus") is None


def test_another_package_adds_a_backend(other, tmp_path):
    assert "newest" in retriever_names()
    assert "other_search" not in sys.modules
    corpus = TOY.corpus()
    found = make_retriever("newest", corpus).search(["a"], 2)[0]
    assert [hit.passage for hit in found] == list(corpus.passages[:-3:-1])
    assert make_retriever("bare", corpus).search(["a"], 2)[0] == found
    assert is_remote("newest:there")
    assert make_retriever("newest:there", corpus).search(["a"], 1)[0][0].passage.text == (
        "newest:there"
    )
    index = sys.modules["other_search"].build_index(corpus, tmp_path / "index")
    assert open_index(index, corpus=corpus, verify=True).search(["a"], 2)[0] == found
    assert make_retriever(str(index), corpus).search(["a"], 2)[0] == found
    cached = CachedRetriever(open_index(index), tmp_path / "answers")
    assert cached.search(["a"], 2)[0] == found


def test_a_built_in_name_stays_what_it_is_and_faults_are_told(other):
    assert type(make_retriever("bm25", TOY.corpus())).__name__ == "Bm25Retriever"
    with pytest.raises(DataError, match=r"'broken' of package other-search 1\.0 .*nothing"):
        make_retriever("broken", TOY.corpus())
    with pytest.raises(DataError, match="must give a Backend of 'wrong' or a class, got 5"):
        make_retriever("wrong", TOY.corpus())
    with pytest.raises(ValueError, match="must be one of 'bare', 'bm25', 'bm25_plain'"):
        make_retriever("nothing", TOY.corpus())


def test_a_dataset_searches_through_another_package(other):
    retriever = TOY.retriever("newest")
    assert retriever is TOY.retriever("newest")
    assert pickle.loads(pickle.dumps(TOY)) is TOY
    TOY._cache.pop(("retriever", "newest"))
