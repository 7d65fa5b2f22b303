"""What may go wrong between an episode and its passages, seen from the environment's side.

Each fault of a list, end to end. Where a part has a test of its own, it stands in brackets.

- server killed and restarted under load   (test_http)
- slow server, and one that drips          (test_http)
- garbage in place of a reply              (test_http)
- full disk while indexing                 (test_index_files, test_bm25_index)
- corrupt index file                       (test_bm25_index, test_dense_index, test_tantivy_index)
- corpus changed under the index           (test_opening, test_own)
- a query of a million characters          (test_server, test_bm25_index)
- a NUL byte                               (test_server, test_http)
- 10,000 queries in one request            (test_server)
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium
import pytest

import calibadv_env  # noqa: F401
from calibadv_env.data import registry
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.remote.client import HttpRetriever

pytest.importorskip("httpx")

DATASET = get_dataset("toy")
BM25 = DATASET.retriever("bm25")
PASSAGES = BM25.corpus.passages


def ids(found):
    return [[hit.passage.id for hit in of_query] for of_query in found]


def search(query):
    return f"<think>x</think><search>{query}</search>"


def test_killed_and_restarted_under_load_nothing_is_lost_and_nothing_is_wrong(start_server):
    server = start_server(search_s=0.01)
    server.wait_until_ready()
    port = server.port
    retriever = HttpRetriever(
        server.url, max_retries=60, backoff_s=0.05, max_backoff_s=0.3, timeout_s=5.0
    )
    queries = [PASSAGES[i % len(PASSAGES)].text for i in range(400)]
    answered = threading.Semaphore(0)

    def ask(query):
        found = ids(retriever.search([query], 3))[0]
        answered.release()
        return found

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(ask, query) for query in queries]
        for num_answered in (40, 80):
            for _ in range(num_answered):
                assert answered.acquire(timeout=30)
            server.stop(signal.SIGKILL)
            server = start_server(port=port, search_s=0.01, load_s=0.2)
        found = [future.result(timeout=60) for future in futures]
    assert found == ids(BM25.search(queries, 3))


def reply_with(body, *, status=200, delay_s=0.0):
    """A server that gives one reply to everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            time.sleep(delay_s)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    return server


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (b"<html>Bad gateway</html>", {}),
        (b'{"result": [[{"document": {"id": "x"}}]]}', {}),
        (b'{"result": [[', {}),
        (b"\x00\xff" * 50, {}),
        (b"sorry", {"status": 500}),
        (b'{"result": [[]]}', {"delay_s": 1.5}),
    ],
    ids=["html", "no contents", "cut", "binary", "status 500", "slow"],
)
def test_garbage_and_slowness_are_errors_that_leave_the_episode_as_it_was(body, options):
    server = reply_with(body, **options)
    address = f"http://127.0.0.1:{server.server_port}"
    env = gymnasium.make(
        "calibadv_env:DeepSearch-v1",
        dataset="toy",
        retriever=HttpRetriever(
            address, dialect="search_r1", max_retries=1, backoff_s=0.01, timeout_s=0.4
        ),
    )
    try:
        env.reset(seed=0)
        started = time.monotonic()
        with pytest.raises(RetrieverError) as caught:
            env.step(search("river"))
        assert time.monotonic() - started < 4
        assert caught.value.__cause__ is not None
    finally:
        server.shutdown()
        server.server_close()
    env.unwrapped._world.retriever = BM25
    *_, info = env.step(search("river"))
    assert (info["turn"], info["num_searches"]) == (1, 1)
    assert list(info["passage_ids"]) == ids(BM25.search(["river"], 3))[0]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ((PASSAGES[0].text + " ").ljust(1_000_000, "x"), 3),
        ((PASSAGES[0].text + " ") * (1_000_000 // (len(PASSAGES[0].text) + 1)), 3),
        ("\0", 0),
        (f"a\0b {PASSAGES[3].text}\0", 3),
    ],
    ids=["one long word", "many words", "NUL", "NUL in a text"],
)
def test_odd_queries_of_a_policy_are_answered_as_they_are_in_process(toy_server, query, count):
    local = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy")
    remote = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=toy_server.url)
    infos = []
    for env in (local, remote):
        env.reset(seed=0)
        infos.append(env.step(search(query))[-1])
    assert infos[0]["action"] == "search"
    assert len(infos[0]["passage_ids"]) == count
    assert infos[0] == infos[1]


def test_a_query_past_the_limit_of_the_server_is_an_error_that_names_it(toy_server):
    env = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=toy_server.url)
    env.reset(seed=0)
    with pytest.raises(RetrieverError, match=r"status 413: .*at most 1,000,000 characters, got 1"):
        env.step(search("x" * 1_000_001))
    *_, info = env.step(search("river"))
    assert info["turn"] == 1


def test_ten_thousand_queries_are_refused_whole_or_answered_in_parts(toy_server):
    queries = [PASSAGES[i % len(PASSAGES)].text for i in range(10_000)]
    retriever = HttpRetriever(toy_server.url, timeout_s=60.0)
    assert ids(retriever.search(queries, 1)) == ids(BM25.search(queries, 1))
    greedy = HttpRetriever(
        toy_server.url, dialect="search_r1", max_queries_per_request=10_000, max_retries=0
    )
    with pytest.raises(RetrieverError, match=r"status 413: .*at most 4,096 .*got 10,000"):
        greedy.search(queries, 1)
    assert retriever.search(queries[:1], 1) == BM25.search(queries[:1], 1)


def test_a_server_does_not_start_with_a_corrupt_index(tmp_path):
    pytest.importorskip("uvicorn")
    index = build_bm25_index(BM25.corpus, tmp_path / "index")
    path = index / "positions.i32"
    path.write_bytes(path.read_bytes()[:-8])
    command = [sys.executable, "-m", "calibadv_algo.cli.main", "serve", str(index), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "positions.i32: must have" in done.stderr
    with pytest.raises(DataError, match=r"positions\.i32: must have"):
        gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=str(index))


def test_an_index_is_refused_when_its_corpus_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_folders", {})
    folder = tmp_path / "quiz"
    folder.mkdir()
    BM25.corpus.to_jsonl(folder / "corpus.jsonl")
    task = {"id": "1", "question": "Where?", "golden_answers": ["there"]}
    (folder / "test.jsonl").write_text(json.dumps(task) + "\n")
    index = build_bm25_index(folder / "corpus.jsonl", tmp_path / "index")
    options = {"dataset": str(folder), "split": "test", "retriever": str(index)}
    env = gymnasium.make("calibadv_env:DeepSearch-v1", **options)
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"id": "new", "title": "", "text": "a late passage"}\n')
    env.reset(seed=0)
    *_, info = env.step(search(PASSAGES[5].text))
    assert info["passage_ids"][0] == PASSAGES[5].id
    registry._folders.clear()
    with pytest.raises(DataError, match="made from another corpus"):
        gymnasium.make("calibadv_env:DeepSearch-v1", **options)


FULL = """
    import resource, signal, sys
    from calibadv_algo.cli.main import main
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("what", ["index", "data"])
def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path, what):
    folder = tmp_path / "place"
    folder.mkdir()
    BM25.corpus.to_jsonl(tmp_path / "corpus.jsonl")
    (tmp_path / "q.csv").write_text("question,answer,split\nWhere?,there,test\n")
    if what == "index":
        build_bm25_index(BM25.corpus, folder / "out")
        arguments = ["index", "bm25", "corpus.jsonl", "place/out", "--overwrite"]
    else:
        arguments = ["data", "prepare", "place/out", "--from", "csv", "q.csv"]
        arguments += ["--corpus", "corpus.jsonl"]
        run = [sys.executable, "-m", "calibadv_algo.cli.main", *arguments]
        assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 0
        arguments.append("--force")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    if what == "index":
        assert BM25.search(["river"], 3) == get_dataset("toy").retriever(
            str(folder / "out")
        ).search(["river"], 3)
    else:
        assert len(get_dataset(str(folder / "out")).tasks("test")) == 1
