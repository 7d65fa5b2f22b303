import pickle
import random
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Corpus, Passage, Retriever
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.index import Bm25Index
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.bm25.settings import Bm25Settings


def make_corpus(num_passages=150, seed=3):
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(40)] + ["the", "of", "Élan", "x", "日本"]
    return Corpus(
        [
            Passage(f"p{i}", rng.choice(["", "Title"]), " ".join(rng.choices(words, k=i % 13)))
            for i in range(num_passages)
        ]
    )


CORPUS = make_corpus()
MEMORY = Bm25Retriever(CORPUS)
QUERIES = st.lists(
    st.lists(
        st.sampled_from(
            [f"word{i}" for i in range(45)] + ["the", "Title", "élan", "日本", "", "?"]
        ),
        max_size=5,
    ).map(" ".join),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("bm25") / "index"
    return build_bm25_index(CORPUS, out, words_per_run=100, postings_per_range=37)


@pytest.fixture(scope="module")
def index(folder):
    return Bm25Index(folder, verify=True)


@settings(max_examples=60, deadline=None)
@given(queries=QUERIES, top_k=st.integers(1, 200))
def test_it_gives_what_the_retriever_in_memory_gives(index, queries, top_k):
    assert index.search(queries, top_k) == MEMORY.search(queries, top_k)


def test_the_atlas_gives_the_same_top_3(tmp_path):
    dataset = get_dataset("atlas")
    index = Bm25Index(build_bm25_index(dataset.corpus(), tmp_path / "index"))
    queries = [task.question for task in dataset.tasks("dev")][:200]
    assert index.search(queries, 3) == dataset.retriever("bm25").search(queries, 3)
    assert index.corpus.sha256 == dataset.corpus().sha256


@pytest.mark.parametrize(("words", "postings"), [(1, 1), (50, 10_000), (10**6, 10**6)])
def test_runs_and_ranges_do_not_matter(tmp_path, folder, words, postings):
    other = build_bm25_index(
        CORPUS, tmp_path / "index", words_per_run=words, postings_per_range=postings
    )
    for path in folder.glob("*.*"):
        assert path.read_bytes() == (other / path.name).read_bytes()
    assert not (other / "runs").exists()


def test_settings_reach_the_scores(tmp_path):
    folder = build_bm25_index(CORPUS, tmp_path / "i", Bm25Settings(k1=0.5, b=0.2))
    found = Bm25Index(folder).search(["word1 word2"], 20)
    assert found == Bm25Retriever(CORPUS, k1=0.5, b=0.2).search(["word1 word2"], 20)
    with pytest.raises(ValueError, match="k1 must not be negative, got -1"):
        Bm25Settings(k1=-1)
    with pytest.raises(ValueError, match=r"b must be in \[0, 1\], got 2"):
        Bm25Settings(b=2)


def test_a_long_query_is_the_same_but_for_rounding(index):
    query = "word1 word2 word2 Title " * 200
    [found], [expected] = index.search([query], 50), MEMORY.search([query], 50)
    scores = [hit.score for hit in found]
    assert scores == pytest.approx([hit.score for hit in expected], rel=1e-4)


def test_a_million_characters_and_a_nul_byte_are_queries(index):
    queries = ["word3 " * 170_000, "word3\0word4", "\0", "\ud800"]
    long, nul, *none = index.search(queries, 3)
    assert [h.passage for h in long] == [h.passage for h in MEMORY.search(["word3"], 3)[0]]
    assert nul == MEMORY.search(["word3 word4"], 3)[0]
    assert none == [[], []]


@pytest.mark.parametrize("texts", [["?", "the"], ["alpha", "beta"], ["", ""]])
def test_the_smallest_corpora_can_be_searched(tmp_path, texts):
    corpus = Corpus([Passage(str(i), "", text) for i, text in enumerate(texts)])
    index = Bm25Index(build_bm25_index(corpus, tmp_path / "index"))
    queries = ["beta", "", "the"]
    assert index.search(queries, 5) == Bm25Retriever(corpus).search(queries, 5)


def test_it_pickles_and_keeps_the_protocol(index):
    assert isinstance(index, Retriever)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.search(["word5"], 4) == index.search(["word5"], 4)
    in_memory = Bm25Index(index.folder, in_memory=True)
    assert in_memory.search(["word5"], 4) == index.search(["word5"], 4)
    assert index.search([], 3) == []
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        index.search(["x"], 0)


KILLED = """
    import os, signal, sys
    from calibadv_env.retrieval.bm25.build import build_bm25_index

    def kill(stage, done, total):
        if stage == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)

    build_bm25_index(sys.argv[1], sys.argv[2], progress=kill)
"""


@pytest.mark.parametrize("stage", ["read passages", "split into words", "merge"])
def test_a_kill_leaves_no_half_index(tmp_path, stage):
    CORPUS.to_jsonl(tmp_path / "corpus.jsonl")
    out = tmp_path / "index"
    arguments = [str(tmp_path / "corpus.jsonl"), str(out), stage]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments])
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".index.partial").is_dir()
    with pytest.raises(DataError, match="no index here"):
        Bm25Index(out)
    with pytest.warns(UserWarning, match="passages without any text were left out"):
        build_bm25_index(tmp_path / "corpus.jsonl", out)
    memory = Bm25Retriever(Corpus([p for p in CORPUS if p.text.strip()]))
    assert Bm25Index(out, verify=True).search(["word1"], 3) == memory.search(["word1"], 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


FULL = """
    import resource, signal, sys
    from calibadv_env.errors import DataError
    from calibadv_env.retrieval.bm25.build import build_bm25_index

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        build_bm25_index(sys.argv[1], sys.argv[2])
    except DataError as error:
        sys.exit(str(error))
"""


def test_a_disk_that_takes_no_more_is_a_clear_error(tmp_path):
    CORPUS.to_jsonl(tmp_path / "corpus.jsonl")
    arguments = [str(tmp_path / "corpus.jsonl"), str(tmp_path / "index")]
    code = textwrap.dedent(FULL)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "index could not be written" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize("name", ["scores.f32", "positions.i32", "words.utf8", "starts.i64"])
def test_a_damaged_index_is_refused(tmp_path, name):
    folder = build_bm25_index(CORPUS, tmp_path / "index")
    path = folder / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=f"{name}: the bytes are not those"):
        Bm25Index(folder, verify=True)
    path.write_bytes(whole[:-4])
    with pytest.raises(DataError, match=f"{name}: must have"):
        Bm25Index(folder)


def test_an_index_of_other_words_is_refused(tmp_path):
    folder = build_bm25_index(CORPUS, tmp_path / "index")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"english"', '"german"'))
    with pytest.raises(DataError, match="stop_words 'german', this code has 'english'"):
        Bm25Index(folder)


def test_progress_is_reported(tmp_path):
    seen = []
    build_bm25_index(CORPUS, tmp_path / "i", progress=lambda *report: seen.append(report))
    assert ("read passages", 150, 150) in seen
    assert ("split into words", 150, 150) in seen
    assert seen[-1][0] == "merge"
    assert seen[-1][1] == seen[-1][2]


def test_a_corpus_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot open"):
        build_bm25_index(tmp_path / "nowhere.jsonl", tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
