import shutil

import pytest

from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Corpus, Passage, make_retriever
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.index import Bm25Index
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.disk_corpus import DiskCorpus, write_corpus
from calibadv_env.retrieval.hybrid import HybridRetriever, write_hybrid
from calibadv_env.retrieval.opening import open_index, verify_index
from calibadv_env.retrieval.rerank import write_reranker

CORPUS = Corpus([Passage(f"p{i}", "", f"word{i} word{i % 3} common") for i in range(30)])
OTHER = Corpus(CORPUS.passages[:-1])


@pytest.fixture
def index(tmp_path):
    return build_bm25_index(CORPUS, tmp_path / "bm25")


def test_the_kind_is_told_from_the_manifest(index, tmp_path):
    assert isinstance(open_index(index), Bm25Index)
    write_hybrid([index, index], tmp_path / "hybrid", depth=7, constant=9.0)
    hybrid = open_index(tmp_path / "hybrid", corpus=CORPUS)
    assert isinstance(hybrid, HybridRetriever)
    assert (hybrid.depth, hybrid.constant) == (7, 9.0)
    found = hybrid.search(["word7"], 2)[0]
    assert found[0].passage.id == "p7"
    assert hybrid.corpus == CORPUS
    verify_index(tmp_path / "hybrid")


def test_pointers_move_with_what_they_point_to(index, tmp_path):
    (tmp_path / "all").mkdir()
    shutil.copytree(index, tmp_path / "all" / "bm25")
    write_hybrid([tmp_path / "all" / "bm25"] * 2, tmp_path / "all" / "hybrid")
    (tmp_path / "all").rename(tmp_path / "moved")
    assert open_index(tmp_path / "moved" / "hybrid").search(["word3"], 1)


def test_a_stale_index_is_refused(index, tmp_path):
    with pytest.raises(DataError, match=r"made from another corpus .*30 passages"):
        open_index(index, corpus=OTHER)
    with pytest.raises(DataError, match="made from another corpus"):
        make_retriever(str(index), OTHER)
    second = build_bm25_index(OTHER, tmp_path / "second")
    with pytest.raises(DataError, match="made from another corpus"):
        write_hybrid([index, second], tmp_path / "hybrid")
    write_hybrid([index, index], tmp_path / "hybrid")
    build_bm25_index(OTHER, index, overwrite=True)
    with pytest.raises(DataError, match="made from another corpus"):
        open_index(tmp_path / "hybrid")
    with pytest.raises(DataError, match="made from another corpus"):
        verify_index(tmp_path / "hybrid")


def test_make_retriever_takes_a_path(index):
    found = make_retriever(str(index), CORPUS).search(["word4 common"], 5)
    assert found == Bm25Retriever(CORPUS).search(["word4 common"], 5)
    with pytest.raises(ValueError, match="the path of an index"):
        make_retriever("nonsense", CORPUS)
    with pytest.raises(DataError, match="no index here"):
        make_retriever("./nowhere", CORPUS)


def test_an_environment_runs_on_an_index_and_a_corpus_on_disk(index):
    corpus = DiskCorpus(index)
    task = {"id": "q", "question": "?", "golden_answers": ["x"], "gold_passages": [["p3"]]}
    register_dataset("on-disk", [task], corpus=corpus, overwrite=True)
    dataset = get_dataset("on-disk")
    assert dataset.corpus() is corpus
    assert dataset.retriever(str(index)).search(["word3"], 1)[0][0].passage.id == "p3"
    with pytest.raises(DataError, match="must be in the corpus, got 'p99'"):
        register_dataset(
            "off-disk", [{**task, "gold_passages": [["p99"]]}], corpus=corpus, overwrite=True
        )


def test_what_nothing_searches_is_refused(tmp_path):
    write_corpus(CORPUS, tmp_path / "corpus")
    with pytest.raises(DataError, match="nothing searches an index of kind 'corpus'"):
        open_index(tmp_path / "corpus")
    with pytest.raises(DataError, match="no index here"):
        open_index(tmp_path / "nowhere")


def test_wrong_settings_are_refused(index, tmp_path):
    with pytest.raises(ValueError, match="at least two indexes, got 1"):
        write_hybrid([index], tmp_path / "h")
    with pytest.raises(ValueError, match="depth must be positive"):
        write_hybrid([index, index], tmp_path / "h", depth=0)
    with pytest.raises(ValueError, match="depth must be positive"):
        write_reranker(index, tmp_path / "r", "model", depth=0)


def test_a_damaged_part_is_found(index, tmp_path):
    write_hybrid([index, index], tmp_path / "hybrid")
    path = index / "corpus" / "passages.jsonl"
    path.write_bytes(path.read_bytes().replace(b"common", b"common".upper(), 1))
    open_index(tmp_path / "hybrid")
    with pytest.raises(DataError, match=r"passages\.jsonl: the bytes are not those"):
        verify_index(tmp_path / "hybrid")
