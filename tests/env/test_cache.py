import pickle
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import pytest

import calibadv_env  # noqa: F401
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage, Retriever, ScoredPassage
from calibadv_env.retrieval.base import identity_record, retriever_identity
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever
from calibadv_env.retrieval.cache import CachedRetriever
from calibadv_env.retrieval.filled import with_fillers
from calibadv_env.retrieval.hybrid import HybridRetriever
from calibadv_env.retrieval.parallel import ParallelRetriever

TOY = get_dataset("toy")
BM25 = TOY.retriever("bm25")
QUERIES = [passage.text for passage in BM25.corpus.passages[:12]]


class Spy:
    """Counts what a retriever is asked."""

    def __init__(self, inner=BM25):
        self.inner, self.corpus = inner, BM25.corpus
        self.asked = []

    def identity(self):
        return {"kind": "Spy", "inner": retriever_identity(self.inner)}

    def search(self, queries, top_k):
        self.asked += queries
        return self.inner.search(queries, top_k)


class Down:
    corpus = BM25.corpus

    def identity(self):
        return retriever_identity(BM25)

    def search(self, queries, top_k):
        raise RetrieverError("down")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "answers.sqlite"


def test_what_is_known_is_not_asked_again(path):
    spy = Spy()
    cached = CachedRetriever(spy, path)
    assert isinstance(cached, Retriever)
    assert cached.search(["a", *QUERIES, "a"], 3) == BM25.search(["a", *QUERIES, "a"], 3)
    assert spy.asked == ["a", *QUERIES]
    again = CachedRetriever(spy, path)
    assert again.search([*QUERIES, "b"], 3) == BM25.search([*QUERIES, "b"], 3)
    assert spy.asked == ["a", *QUERIES, "b"]
    assert len(again) == 14


def test_replay_needs_no_retriever_and_gives_the_same_to_the_last_bit(path):
    odd = ["", "\0", "\ud800", "é" * 9, "x" * 1_000_000]
    recorded = CachedRetriever(BM25, path, "record").search([*QUERIES, *odd], 5)
    replayed = CachedRetriever(None, path, "replay")
    assert replayed.search([*reversed(odd), *QUERIES], 5) == [
        *reversed(recorded[12:]),
        *recorded[:12],
    ]
    assert CachedRetriever(Down(), path, "replay").search(QUERIES, 5) == recorded[:12]
    assert replayed.identity() == retriever_identity(BM25)


def test_replay_of_what_was_not_recorded_names_it(path):
    CachedRetriever(BM25, path).search(["known"], 3)
    replayed = CachedRetriever(None, path, "replay")
    with pytest.raises(RetrieverError, match=r"2 of 3 queries .* top_k 3, the first is 'new'"):
        replayed.search(["known", "new", "newer"], 3)
    with pytest.raises(RetrieverError, match="with top_k 2, the first is 'known'"):
        replayed.search(["known"], 2)


def test_settings_corpus_and_number_are_part_of_the_key(path):
    first = Spy()
    CachedRetriever(first, path).search(["a"], 3)
    CachedRetriever(first, path).search(["a"], 2)
    assert first.asked == ["a", "a"]
    other_settings = Bm25Retriever(BM25.corpus, k1=0.5)
    other_corpus = Bm25Retriever(Corpus([Passage("z", "", "zebra")]))
    for other in (other_settings, other_corpus):
        assert CachedRetriever(other, path).search(["zebra"], 3) == other.search(["zebra"], 3)
        with pytest.raises(DataError, match=r"must hold the answers of one retriever .* got"):
            CachedRetriever(None, path, "replay").search(["zebra"], 3)
    assert CachedRetriever(other_corpus, path, "replay").search(["zebra"], 3) == (
        other_corpus.search(["zebra"], 3)
    )
    with pytest.raises(DataError, match="nothing was recorded from a retriever like"):
        CachedRetriever(Bm25Retriever(BM25.corpus, b=0.1), path, "replay").search(["a"], 3)


class Fickle(Spy):
    """Gives another order each time."""

    def search(self, queries, top_k):
        answers = super().search(queries, top_k)
        return [list(reversed(one)) if len(self.asked) % 2 else one for one in answers]


def test_record_asks_always_and_refuses_an_answer_that_changed(path):
    spy = Spy()
    recorder = CachedRetriever(spy, path, "record")
    recorder.search(["a"], 3)
    recorder.search(["a"], 3)
    assert spy.asked == ["a", "a"]
    fickle = Fickle(spy)
    recorder = CachedRetriever(fickle, path.with_name("fickle"), "record")
    first = recorder.search([QUERIES[0]], 3)
    with pytest.raises(RetrieverError, match="now gives other passages than were recorded"):
        recorder.search([QUERIES[0]], 3)
    calm = CachedRetriever(fickle, path.with_name("fickle"))
    assert calm.search([QUERIES[0]], 3) == first


def test_an_error_of_the_retriever_is_passed_on_and_nothing_is_written(path):
    cached = CachedRetriever(Down(), path)
    with pytest.raises(RetrieverError, match="down"):
        cached.search(["a"], 3)
    assert len(cached) == 0


def test_wrong_files_and_arguments_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="mode must be one of record, replay"):
        CachedRetriever(BM25, path, "play")
    with pytest.raises(ValueError, match="inner must be a retriever in mode 'record'"):
        CachedRetriever(None, path, "record")
    with pytest.raises(ValueError, match="must have a method search"):
        CachedRetriever("bm25", path)
    with pytest.raises(DataError, match="there is no recording here"):
        CachedRetriever(None, path, "replay")
    text = tmp_path / "text"
    text.write_text("no database at all" * 99)
    with pytest.raises(DataError, match="cannot be used"):
        CachedRetriever(BM25, text)
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE t (x)")
    with pytest.raises(DataError, match="must be a recording of format 1, got 0"):
        CachedRetriever(BM25, tmp_path / "other")
    with pytest.raises(ValueError, match="sequence of strings"):
        CachedRetriever(BM25, path).search("text", 3)
    with pytest.raises(ValueError, match="one a query, got 0 for 1"):
        CachedRetriever(BM25, path).search_for(["a"], 3, [])


def test_threads_and_copies_share_a_file(path):
    cached = CachedRetriever(BM25, path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: cached.search([query], 3)[0], QUERIES * 3))
    assert found == BM25.search(QUERIES * 3, 3)
    copy = pickle.loads(pickle.dumps(CachedRetriever(None, path, "replay")))
    assert copy.search(QUERIES, 3) == BM25.search(QUERIES, 3)
    cached.close()
    assert cached.search(QUERIES, 3) == BM25.search(QUERIES, 3)


KILLED = """
import os, signal, sys
from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever
from calibadv_env.retrieval.cache import CachedRetriever
from calibadv_env.retrieval.hybrid import HybridRetriever
from calibadv_env.retrieval.parallel import ParallelRetriever
retriever = get_dataset("toy").retriever("bm25")
cached = CachedRetriever(retriever, sys.argv[1])
cached.search(["first", "second"], 3)

class Killer:
    corpus = retriever.corpus
    def identity(self):
        return cached.identity()
    def search(self, queries, top_k):
        os.kill(os.getpid(), signal.SIGKILL)

CachedRetriever(Killer(), sys.argv[1]).search(["third"], 3)
"""


def test_a_process_that_is_killed_loses_nothing_that_was_used(path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    replayed = CachedRetriever(None, path, "replay")
    assert replayed.search(["first", "second"], 3) == BM25.search(["first", "second"], 3)
    assert len(replayed) == 2


def test_a_full_disk_is_a_retriever_error(path):
    cached = CachedRetriever(BM25, path)
    cached.search(["a"], 3)
    with cached._opened() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RetrieverError, match="full"):
        cached.search(["x" * 100_000], 3)
    assert cached.search(["a"], 3) == BM25.search(["a"], 3)


def play(retriever, num_envs=4):
    """All that a few episodes show, with searches that depend on what was found."""
    env = gymnasium.make_vec(
        "calibadv_env:DeepSearch-v1", num_envs=num_envs, dataset="toy", retriever=retriever
    )
    observations, infos = env.reset(seed=3)
    queries = list(infos["question"])
    seen = [observations]
    for _ in range(3):
        observations, _, _, _, infos = env.step(
            [f"<think>x</think><search>{query}</search>" for query in queries]
        )
        seen.append((observations, [list(scores) for scores in infos["passage_scores"]]))
        queries = [observation[-120:-20] for observation in observations]
    return seen


def test_a_run_is_repeated_without_its_retriever(path):
    first = play(CachedRetriever(BM25, path, "record"))
    assert first == play(BM25)
    assert first == play(CachedRetriever(None, path, "replay"))


def test_worker_processes_record_into_one_file(path):
    cached = CachedRetriever(BM25, path)
    envs = gymnasium.vector.AsyncVectorEnv(
        [lambda: gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=cached)] * 3,
        shared_memory=False,
        context="fork",
    )
    try:
        envs.reset(seed=0)
        for i in range(3):
            envs.step([f"<think>x</think><search>{q}</search>" for q in QUERIES[i : i + 3]])
    finally:
        envs.close()
    assert CachedRetriever(None, path, "replay").search(QUERIES[:5], 3) == BM25.search(
        QUERIES[:5], 3
    )


def test_a_recording_is_opened_read_only_to_replay(path):
    CachedRetriever(BM25, path).search(["a", "city"], 3)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        found = CachedRetriever(None, path, "replay").search(["a", "city"], 3)
        assert found == BM25.search(["a", "city"], 3)
        assert found[0] == []
    finally:
        path.parent.chmod(0o755)


def test_identity_tells_what_answers_depend_on():
    one = retriever_identity(BM25)
    assert one["corpus_sha256"] == BM25.corpus.sha256
    assert one != retriever_identity(Bm25Retriever(BM25.corpus, k1=2.0))
    known = MemoryRetriever(BM25.corpus, {"a": [BM25.corpus.passages[3].id]})
    assert retriever_identity(known) != retriever_identity(MemoryRetriever(BM25.corpus))


class Blend:
    """Two of these that differ in ``alpha`` alone give other passages."""

    def __init__(self, alpha):
        self.alpha = alpha
        self.corpus = BM25.corpus

    def search(self, queries, top_k):
        first = int(self.alpha * 10)
        passages = self.corpus.passages[first : first + top_k]
        return [[ScoredPassage(passage, 1.0) for passage in passages] for _ in queries]


class NamedBlend(Blend):
    def identity(self):
        return identity_record(self, self.corpus, alpha=self.alpha)


def test_a_retriever_without_identity_is_neither_recorded_nor_cached(path):
    for mode in ("record", "record_or_replay"):
        with pytest.raises(ValueError, match=r"Blend has no method identity.*define identity"):
            CachedRetriever(Blend(0.1), path, mode)
    fused = HybridRetriever(BM25.corpus, [BM25, Blend(0.1)])
    with pytest.raises(ValueError, match="Blend has no method identity"):
        CachedRetriever(fused, path).search(["a"], 3)


def test_retrievers_that_differ_in_one_setting_share_no_answers(path):
    for alpha in (0.1, 0.7):
        blend = NamedBlend(alpha)
        assert CachedRetriever(blend, path).search(["a"], 3) == blend.search(["a"], 3)
    halves = [HybridRetriever(BM25.corpus, [BM25, NamedBlend(alpha)]) for alpha in (0.1, 0.7)]
    assert halves[0].identity() != halves[1].identity()
    okapi = [RankBm25Retriever(BM25.corpus, k1=k1) for k1 in (1.2, 2.0)]
    assert okapi[0].identity() != okapi[1].identity()


RECORDED = {"corpus_sha256": BM25.corpus.sha256, "num_passages": 224}


def test_recordings_of_earlier_versions_go_on_to_match_in_environments_of_theirs():
    bm25 = {"kind": "Bm25Retriever", "k1": 1.2, "b": 0.75, **RECORDED}
    okapi = RankBm25Retriever(BM25.corpus)
    fused = HybridRetriever(BM25.corpus, [BM25, BM25], depth=7)
    assert MemoryRetriever(BM25.corpus).identity() == {"kind": "MemoryRetriever", **RECORDED}
    assert with_fillers(BM25).identity() == bm25
    assert with_fillers(okapi).identity() == {"kind": "RankBm25Retriever", **RECORDED}
    assert with_fillers(ParallelRetriever(BM25, 2)).identity() == bm25
    assert with_fillers(fused).identity() == {
        "kind": "HybridRetriever",
        "depth": 7,
        "constant": 60.0,
        "parts": [bm25, bm25],
        **RECORDED,
    }
    for retriever in (BM25, okapi, fused):
        assert retriever.identity() != with_fillers(retriever).identity()


def test_what_was_recorded_with_fillers_is_no_answer_of_a_retriever_without(path):
    CachedRetriever(with_fillers(BM25), path).search(["zzz"], 3)
    with pytest.raises(DataError, match="nothing was recorded from a retriever like"):
        CachedRetriever(BM25, path, "replay").search(["zzz"], 3)
    old = CachedRetriever(BM25, path, "replay").with_fillers()
    assert len(old.search(["zzz"], 3)[0]) == 3
