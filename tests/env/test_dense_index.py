import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.retrieval import Corpus, Passage, Retriever

pytest.importorskip("faiss")

from calibadv_env.retrieval.dense.faiss_index import (
    Flat,
    Hnsw,
    IvfPq,
    ScalarQuantized,
    from_record,
    to_record,
)
from calibadv_env.retrieval.dense.index import DenseIndex, build_dense_index
from calibadv_env.retrieval.dense.published import adopt_faiss

sys.path.insert(0, str(Path(__file__).parent))
from fake_encoder import FakeEncoder

WORDS = [f"word{i}" for i in range(60)]
CORPUS = Corpus(
    [Passage(f"p{i}", "", " ".join(np.random.default_rng(i).choice(WORDS, 6))) for i in range(400)]
)
QUERIES = ["word1 word2", "word3", "", "word59 word1 word7"]
SMALL_PQ = IvfPq(num_lists=4, num_bytes=4, num_probes=1)
KINDS = [Flat(), ScalarQuantized(), ScalarQuantized(bits=16), Hnsw(), SMALL_PQ]


def exact(query, count, corpus=CORPUS):
    encoder = FakeEncoder()
    scores = encoder.encode_passages(list(corpus)) @ encoder.vector(query)
    order = sorted(range(len(corpus)), key=lambda i: (-round(float(scores[i]), 5), i))[:count]
    return [corpus.passages[i] for i in order]


def passages(row):
    return [hit.passage for hit in row]


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    out = tmp_path_factory.mktemp("dense") / "index"
    build_dense_index(CORPUS, out, FakeEncoder(), chunk_size=64)
    return DenseIndex(out, FakeEncoder(), verify=True)


def test_flat_is_exact_and_ties_stand_in_corpus_order(flat):
    for query, row in zip(QUERIES, flat.search(QUERIES, 20), strict=True):
        assert {p.id for p in passages(row)} == {p.id for p in exact(query, 20)}
        assert [hit.score for hit in row] == sorted((hit.score for hit in row), reverse=True)
    corpus = Corpus([Passage(str(i), "", "same") for i in range(70)])
    out = flat.folder.parent / "same"
    build_dense_index(corpus, out, FakeEncoder())
    [row] = DenseIndex(out, FakeEncoder()).search(["same"], 30)
    assert [hit.passage.id for hit in row] == [str(i) for i in range(30)]


@pytest.mark.parametrize("settings", KINDS, ids=lambda kind: kind.name)
def test_every_kind_finds_enough_and_the_batch_does_not_matter(tmp_path, settings):
    build_dense_index(CORPUS, tmp_path / "i", FakeEncoder(), settings)
    index = DenseIndex(tmp_path / "i", FakeEncoder())
    together = index.search(QUERIES, 7)
    assert together == [index.search([query], 7)[0] for query in QUERIES]
    for row in index.search(QUERIES, 1000):
        assert sorted(p.id for p in passages(row)) == sorted(p.id for p in CORPUS)
    recalls = [
        len(set(passages(row)) & set(exact(query, 7))) / 7
        for query, row in zip(QUERIES, together, strict=True)
        if query
    ]
    assert np.mean(recalls) > (0.15 if settings == SMALL_PQ else 0.9)
    assert DenseIndex(tmp_path / "i", FakeEncoder(), is_mapped=False).search(QUERIES, 7) == together
    assert from_record(to_record(settings)) == settings


def test_it_pickles_and_keeps_the_protocol(flat):
    assert isinstance(flat, Retriever)
    assert pickle.loads(pickle.dumps(flat)).search(QUERIES, 3) == flat.search(QUERIES, 3)
    assert flat.search([], 3) == []
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        flat.search(["x"], 0)


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[3])
    from fake_encoder import FakeEncoder
    from calibadv_env.retrieval.dense.index import build_dense_index

    class Dying(FakeEncoder):
        def encode_passages(self, passages):
            if self.num_encoded >= 150:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_passages(passages)

    build_dense_index(sys.argv[1], sys.argv[2], Dying(), chunk_size=50)
"""


def test_a_killed_run_goes_on_and_gives_the_same_vectors(tmp_path):
    CORPUS.to_jsonl(tmp_path / "corpus.jsonl")
    out = tmp_path / "index"
    arguments = [str(tmp_path / "corpus.jsonl"), str(out), str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    chunks = sorted((tmp_path / ".index.partial" / "vectors").glob("*.npy"))
    assert len(chunks) == 3
    encoder = FakeEncoder()
    build_dense_index(tmp_path / "corpus.jsonl", out, encoder, chunk_size=50)
    assert encoder.num_encoded == 250
    build_dense_index(tmp_path / "corpus.jsonl", tmp_path / "whole", FakeEncoder(), chunk_size=50)
    whole = (tmp_path / "whole" / "vectors.faiss").read_bytes()
    assert (out / "vectors.faiss").read_bytes() == whole
    names = ["corpus.jsonl", "index", "whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    names = ["corpus", "manifest.json", "vectors.faiss"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_a_chunk_that_was_cut_is_encoded_again(tmp_path):
    vectors = tmp_path / "vectors"
    build_dense_index(CORPUS, tmp_path / "a", FakeEncoder(), vectors_dir=vectors, chunk_size=100)
    chunk = vectors / "000002.npy"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-9])
    encoder = FakeEncoder()
    build_dense_index(CORPUS, tmp_path / "b", encoder, vectors_dir=vectors, chunk_size=100)
    assert encoder.num_encoded == 100
    assert chunk.read_bytes() == whole


def test_kept_vectors_make_another_kind_without_encoding(tmp_path):
    vectors = tmp_path / "vectors"
    options = {"vectors_dir": vectors, "dtype": "float16"}
    build_dense_index(CORPUS, tmp_path / "flat", FakeEncoder(), **options)
    encoder = FakeEncoder()
    build_dense_index(tmp_path / "flat", tmp_path / "sq", encoder, ScalarQuantized(), **options)
    assert encoder.num_encoded == 0
    other = FakeEncoder(fingerprint="other")
    with pytest.raises(DataError, match="made with encoder 'fake', this call has 'other'"):
        build_dense_index(CORPUS, tmp_path / "c", other, **options)
    with pytest.raises(DataError, match="made with corpus_sha256"):
        build_dense_index(Corpus(CORPUS.passages[:9]), tmp_path / "d", FakeEncoder(), **options)


def test_a_corpus_that_changed_before_the_run_goes_on_is_noticed(tmp_path):
    class Failing(FakeEncoder):
        def encode_passages(self, passages):
            raise ZeroDivisionError

    path = tmp_path / "corpus.jsonl"
    CORPUS.to_jsonl(path)
    with pytest.raises(ZeroDivisionError):
        build_dense_index(path, tmp_path / "i", Failing())
    Corpus(CORPUS.passages[:50]).to_jsonl(path)
    with pytest.raises(DataError, match="made with corpus_sha256"):
        build_dense_index(path, tmp_path / "i", FakeEncoder())


def test_the_wrong_encoder_is_refused(flat):
    with pytest.raises(DataError, match="were encoded by 'fake', the encoder of the queries is"):
        DenseIndex(flat.folder, FakeEncoder(fingerprint="new"))
    with pytest.raises(DataError, match="names no encoder"):
        DenseIndex(flat.folder)


def test_a_damaged_index_is_refused(tmp_path):
    build_dense_index(CORPUS, tmp_path / "i", FakeEncoder())
    path = tmp_path / "i" / "vectors.faiss"
    whole = path.read_bytes()
    path.write_bytes(b"nonsense" + whole[8:])
    with pytest.raises(DataError, match="faiss cannot read"):
        DenseIndex(tmp_path / "i", FakeEncoder())
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="must have"):
        DenseIndex(tmp_path / "i", FakeEncoder())


def test_settings_out_of_range_are_refused(tmp_path):
    for make, message in [
        (lambda: ScalarQuantized(bits=5), "bits must be 4, 6, 8 or 16, got 5"),
        (lambda: Hnsw(num_links=1), "num_links must be at least 2, got 1"),
        (lambda: Hnsw(search_depth=0), "search_depth must be positive, got 0"),
        (lambda: IvfPq(num_probes=0), "num_probes must be positive, got 0"),
        (lambda: from_record({"name": "x"}), "must be one of flat, sq, hnsw, ivfpq, got 'x'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    small = Corpus(CORPUS.passages[:20])
    with pytest.raises(ValueError, match="at least 256 passages to train on, got 20"):
        build_dense_index(small, tmp_path / "i", FakeEncoder(), IvfPq())
    with pytest.raises(ValueError, match="must divide the dimension 16, got 3"):
        build_dense_index(CORPUS, tmp_path / "j", FakeEncoder(), IvfPq(num_bytes=3))
    with pytest.raises(ValueError, match="chunk_size must be positive"):
        build_dense_index(CORPUS, tmp_path / "k", FakeEncoder(), chunk_size=0)
    with pytest.raises(ValueError, match="dtype must be"):
        build_dense_index(CORPUS, tmp_path / "k", FakeEncoder(), dtype="int3")


def test_the_gpu_is_refused_where_there_is_none(flat):
    import faiss

    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="needs faiss-gpu"):
        DenseIndex(flat.folder, FakeEncoder(), device="cuda")
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'tpu'"):
        DenseIndex(flat.folder, FakeEncoder(), device="tpu")


def test_an_index_goes_to_the_gpu_of_faiss_whole(flat, monkeypatch):
    import faiss

    moved = []

    def move(resources, number, index):
        moved.append((resources, number, index.ntotal))
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "memory", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)
    on_gpu = DenseIndex(flat.folder, FakeEncoder(), device="cuda").search(QUERIES[:2], 5)
    assert moved == [("memory", 0, len(CORPUS))]
    for a, b in zip(flat.search(QUERIES[:2], 5), on_gpu, strict=True):
        assert [hit.score for hit in a] == pytest.approx([hit.score for hit in b], abs=1e-5)


def test_no_model_is_loaded_for_a_gpu_that_is_not_there(flat, monkeypatch):
    import torch

    from calibadv_env.retrieval.dense import encoders

    monkeypatch.setattr(encoders, "_load", lambda *_: pytest.fail("a model was loaded"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' needs a GPU that torch can use"):
            encoders.TransformerEncoder("intfloat/e5-base-v2", device="cuda")
    monkeypatch.setattr("calibadv_env.retrieval.dense.index._load_encoder", pytest.fail)
    with pytest.raises(ValueError, match="needs faiss-gpu"):
        DenseIndex(flat.folder, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [Flat(), ScalarQuantized(), SMALL_PQ], ids=lambda k: k.name)
def test_the_gpu_finds_what_the_cpu_finds(tmp_path, settings):
    build_dense_index(CORPUS, tmp_path / "i", FakeEncoder(), settings)
    on_cpu = DenseIndex(tmp_path / "i", FakeEncoder()).search(QUERIES[:2], 5)
    on_gpu = DenseIndex(tmp_path / "i", FakeEncoder(), device="cuda").search(QUERIES[:2], 5)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert [hit.score for hit in a] == pytest.approx([hit.score for hit in b], abs=1e-2)


def test_a_missing_package_names_both_extras(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[dense\].*never both"):
        build_dense_index(CORPUS, tmp_path / "i", FakeEncoder())


@pytest.fixture
def published(tmp_path):
    """A faiss file and a corpus, as others publish them; the last passage has no text."""
    import json

    import faiss

    rows = [*CORPUS, Passage("empty", "", "")]
    encoder = FakeEncoder()
    index = faiss.IndexFlatIP(encoder.dimension)
    index.add(encoder.encode_passages(rows))
    faiss.write_index(index, str(tmp_path / "e5_Flat.index"))
    lines = [json.dumps({"id": p.id, "contents": f"\n{p.text}"}) for p in rows]
    (tmp_path / "wiki.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_a_published_faiss_file_opens_as_it_is(published):
    encoder = FakeEncoder()
    out = adopt_faiss(
        published / "e5_Flat.index", published / "wiki.jsonl", published / "out", encoder
    )
    opened = DenseIndex(out, encoder)
    assert len(opened.corpus) == 401
    assert passages(opened.search(["word1 word2"], 3)[0]) == exact("word1 word2", 3)
    inode = (published / "e5_Flat.index").stat().st_ino
    assert (out / "vectors.faiss").stat().st_ino == inode


def test_a_published_file_that_does_not_fit_is_refused_with_numbers(published):
    def refused(message, encoder=None, corpus="wiki.jsonl", index="e5_Flat.index"):
        with pytest.raises(DataError, match=message):
            adopt_faiss(
                published / index, published / corpus, published / "out", encoder or FakeEncoder()
            )
        assert not (published / "out").exists()

    refused("vectors have 16 components, those of the encoder 8", FakeEncoder(dimension=8))
    lines = (published / "wiki.jsonl").read_text().splitlines()
    (published / "short.jsonl").write_text("\n".join(lines[:-1]))
    refused("holds 401 vectors, .* 400 passages", corpus="short.jsonl")
    (published / "other.jsonl").write_text("\n".join(lines[200:] + lines[:200]))
    refused(r"are not those of the encoder \(mean cosine", corpus="other.jsonl")
    (published / "no.index").write_bytes(b"nothing")
    refused("faiss cannot read", index="no.index")
