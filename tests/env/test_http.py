import json
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium
import pytest

import calibadv_env  # noqa: F401
from calibadv_env.common.http import HttpSettings, retry_after_s
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval import Retriever, make_retriever
from calibadv_env.retrieval.cache import CachedRetriever
from calibadv_env.retrieval.remote.client import HttpRetriever, split_batch

httpx = pytest.importorskip("httpx")
msgpack = pytest.importorskip("msgpack")

BM25 = get_dataset("toy").retriever("bm25")
QUERIES = [passage.text for passage in BM25.corpus.passages[:20]]
FAST = {"backoff_s": 0.01, "timeout_s": 5.0}


@contextmanager
def fake_server(answer):
    """Runs `answer(body, number of the request) -> (status, headers, body)` as a server."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            requests.append(self.rfile.read(int(self.headers["content-length"])))
            self.reply(*answer(requests[-1], len(requests)))

        def do_GET(self):
            self.reply(404, {}, b"")

        def reply(self, status, headers, body):
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hit(text="x"):
    return {"document": {"id": text, "contents": f'"T"\n{text}'}, "score": 1.0}


def ok(record):
    return 200, {}, json.dumps(record).encode()


def ids(found):
    return [[one.passage.id for one in of_query] for of_query in found]


# Against the real server ------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["auto", "search_r1", "rerank", "skyrl", "gem"])
def test_every_dialect_gives_what_the_retriever_gives(toy_server, dialect):
    retriever = HttpRetriever(toy_server.url, dialect=dialect, max_queries_per_request=7)
    found = retriever.search([*QUERIES, "", "\0", "\ud800"], 3)
    wanted = BM25.search([*QUERIES, "", "\0", "\ud800"], 3)
    assert ids(found) == ids(wanted)
    assert [[one.score for one in row] for row in found] == [
        [one.score for one in row] for row in wanted
    ]
    if dialect != "rerank":
        assert found == wanted
    assert retriever.search([], 3) == []
    retriever.close()
    assert ids(retriever.search(QUERIES[:1], 1)) == ids(BM25.search(QUERIES[:1], 1))


def test_a_retriever_is_made_from_an_address(toy_server):
    retriever = make_retriever(f"{toy_server.url}#dialect=skyrl&timeout_s=7", BM25.corpus)
    assert isinstance(retriever, Retriever)
    assert retriever.url == f"{toy_server.url}/retrieve"
    assert retriever.search(QUERIES[:2], 2) == BM25.search(QUERIES[:2], 2)
    assert retriever.identity()["corpus_sha256"] == BM25.corpus.sha256
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.search(QUERIES[:2], 2) == BM25.search(QUERIES[:2], 2)
    assert "skyrl" in repr(copy)


def test_a_served_retriever_without_identity_is_searched_but_not_recorded(start_server, tmp_path):
    retriever = HttpRetriever(start_server(has_identity=False).url)
    assert retriever.search(QUERIES[:2], 2) == BM25.search(QUERIES[:2], 2)
    with pytest.raises(RetrieverError, match="has no method identity"):
        CachedRetriever(retriever, tmp_path / "answers").search(QUERIES[:2], 2)


def test_many_threads_share_a_retriever(toy_server):
    retriever = HttpRetriever(toy_server.url, max_concurrency=4, max_connections=4)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda query: retriever.search([query], 3)[0], QUERIES * 4))
    assert found == BM25.search(QUERIES * 4, 3)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_environments_in_worker_processes(toy_server, context):
    retriever = HttpRetriever(toy_server.url)
    retriever.search(QUERIES[:1], 1)
    kwargs = {"dataset": "toy", "retriever": retriever}
    envs = gymnasium.vector.AsyncVectorEnv(
        [lambda: gymnasium.make("calibadv_env:DeepSearch-v1", **kwargs)] * 2,
        shared_memory=False,
        context=context,
    )
    try:
        envs.reset(seed=0)
        actions = [f"<think>x</think><search>{query}</search>" for query in QUERIES[:2]]
        _, _, _, _, infos = envs.step(actions)
    finally:
        envs.close()
    assert [list(one) for one in infos["passage_ids"]] == ids(BM25.search(QUERIES[:2], 3))
    assert retriever.search(QUERIES[:1], 1) == BM25.search(QUERIES[:1], 1)


def test_a_server_that_is_killed_is_an_error_until_it_is_back(start_server):
    server = start_server(search_s=0.3)
    server.wait_until_ready()
    retriever = HttpRetriever(server.url, max_retries=1, **FAST)
    assert retriever.search(QUERIES[:1], 3) == BM25.search(QUERIES[:1], 3)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(retriever.search, [query], 3) for query in QUERIES[:4]]
        while server.metric("queries_total") < 5:
            time.sleep(0.005)
        server.stop(signal.SIGKILL)
        errors = [future.exception(timeout=10) for future in running]
    assert all(isinstance(error, RetrieverError) for error in errors)
    assert all(isinstance(error.__cause__, httpx.TransportError) for error in errors)
    with pytest.raises(RetrieverError, match=r"ConnectError.*\(2 attempts\)"):
        retriever.search(QUERIES[:1], 3)
    start_server(port=server.port, load_s=0.3)
    retriever.wait_until_ready(20)
    assert retriever.search(QUERIES[:4], 3) == BM25.search(QUERIES[:4], 3)


def test_the_environment_gives_the_error_and_no_text_and_goes_on_afterwards(start_server):
    server = start_server()
    server.wait_until_ready()
    retriever = HttpRetriever(server.url, max_retries=0, **FAST)
    env = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=retriever)
    env.reset(seed=0)
    action = f"<think>x</think><search>{QUERIES[0]}</search>"
    server.stop(signal.SIGKILL)
    with pytest.raises(RetrieverError):
        env.step(action)
    start_server(port=server.port).wait_until_ready()
    observation, *_, info = env.step(action)
    assert list(info["passage_ids"]) == ids(BM25.search(QUERIES[:1], 3))[0]
    assert BM25.search(QUERIES[:1], 1)[0][0].passage.text in observation


def test_it_waits_for_a_server_that_is_loading(start_server):
    server = start_server(load_s=0.5)
    retriever = HttpRetriever(server.url, ready_timeout_s=20, max_retries=0)
    assert retriever.search(QUERIES[:1], 3) == BM25.search(QUERIES[:1], 3)
    server.stop(signal.SIGKILL)
    late = HttpRetriever(server.url, ready_timeout_s=0.2, max_retries=0)
    with pytest.raises(RetrieverError, match=r"not ready within 0\.2 s: .*ConnectError"):
        late.search(QUERIES[:1], 3)


# Against servers that misbehave -----------------------------------------------------------


def test_what_may_pass_is_tried_again():
    def answer(body, number):
        if number == 1:
            return 503, {}, b"busy"
        if number == 2:
            return 200, {}, b"<html>starting</html>"
        if number == 3:
            return 200, {"content-length": "999", "connection": "close"}, b"cut off"
        return ok({"result": [[hit()]]})

    with fake_server(answer) as (url, requests):
        retriever = HttpRetriever(url, dialect="search_r1", **{**FAST, "timeout_s": 0.5})
        assert ids(retriever.search(["q"], 1)) == [["x"]]
        assert len(requests) == 4


@pytest.mark.parametrize(
    ("reply", "attempts", "message"),
    [
        ((400, {}, b"no such field"), 1, r"status 400: no such field \(1 attempt\)"),
        ((404, {}, b"nothing here"), 1, "status 404: nothing here"),
        ((500, {}, b"boom"), 3, r"status 500: boom \(3 attempts\)"),
        ((200, {}, b"not json"), 3, "the reply must be JSON"),
        (ok({"results": []}), 1, "must be an object with a list 'result'"),
        (ok({"result": [hit()]}), 1, r"result\[0\] must be a list of passages"),
        (ok({"result": [[hit()], [hit()]]}), 1, "result must hold 1 lists, got 2"),
        (ok({"result": [[hit(), hit(), hit()]]}), 1, "at most 2 passages, got 3"),
    ],
)
def test_what_is_no_answer_is_an_error_with_its_cause(reply, attempts, message):
    with fake_server(lambda *_: reply) as (url, requests):
        retriever = HttpRetriever(url, dialect="search_r1", max_retries=2, **FAST)
        with pytest.raises(RetrieverError, match=message) as caught:
            retriever.search(["q"], 2)
        assert caught.value.__cause__ is not None
        assert len(requests) == attempts


def test_a_slow_server_does_not_hold_a_search_up():
    def answer(*_):
        time.sleep(0.6)
        return ok({"result": [[hit()]]})

    with fake_server(answer) as (url, _):
        retriever = HttpRetriever(url, dialect="search_r1", timeout_s=0.2, max_retries=1)
        started = time.monotonic()
        with pytest.raises(RetrieverError, match="ReadTimeout"):
            retriever.search(["q"], 1)
        assert time.monotonic() - started < 2


def test_a_server_that_drips_is_cut_off_in_time():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
                time.sleep(0.05)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    retriever = HttpRetriever(
        f"http://127.0.0.1:{server.server_port}",
        dialect="search_r1",
        timeout_s=0.3,
        max_retries=0,
    )
    started = time.monotonic()
    with pytest.raises(RetrieverError, match=r"no whole reply within 0\.3 s"):
        retriever.search(["q"], 1)
    assert time.monotonic() - started < 2
    server.shutdown()
    server.server_close()


def test_it_waits_as_long_as_the_server_asks():
    def answer(_, number):
        return (503, {"retry-after": "1"}, b"") if number == 1 else ok({"result": [[hit()]]})

    with fake_server(answer) as (url, _):
        started = time.monotonic()
        HttpRetriever(url, dialect="search_r1", **FAST).search(["q"], 1)
        assert 1.0 <= time.monotonic() - started < 4


def test_no_more_requests_run_than_allowed():
    lock, running, most = threading.Lock(), [0], [0]

    def answer(*_):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.03)
        with lock:
            running[0] -= 1
        return ok({"result": [[hit()]]})

    with fake_server(answer) as (url, requests):
        retriever = HttpRetriever(url, dialect="skyrl", max_concurrency=3)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: ids(retriever.search(["a", "b"], 1)), range(6)))
            found += list(pool.map(lambda _: ids(retriever.search(["a"], 1)), range(6)))
        assert found == [[["x"], ["x"]]] * 6 + [[["x"]]] * 6
        assert len(requests) == 18
        assert 2 <= most[0] <= 3


# Servers that speak one dialect, as strictly as the originals ------------------------------


def strict(dialect):
    """A server that knows one dialect and refuses the fields of the others."""

    def answer(body, _):
        try:
            record = msgpack.unpackb(body) if dialect == "gem" else json.loads(body)
        except (ValueError, msgpack.UnpackException):
            return 400, {}, b"cannot decode"
        if dialect in ("gem", "skyrl"):
            if "query" not in record:
                return 422, {}, b'{"detail": "field required: query"}'
            hits = [hit(record["query"])] * record["topk"]
            if dialect == "gem":
                return 200, {}, msgpack.packb({"result": hits})
            return ok({"result": [hits]})
        if "queries" not in record:
            return 422, {}, b'{"detail": "field required: queries"}'
        if dialect == "search_r1":
            return ok({"result": [[hit(q)] * record.get("topk", 3) for q in record["queries"]]})
        count = record.get("topk_rerank", 3)
        entry = {"document": '"T"\nx', "score": 1.0}
        return ok({"result": [[entry] * count for _ in record["queries"]]})

    return answer


@pytest.mark.parametrize("dialect", ["search_r1", "rerank", "skyrl", "gem"])
@pytest.mark.parametrize("top_k", [2, 5])
def test_the_dialect_is_found_out(dialect, top_k):
    with fake_server(strict(dialect)) as (url, requests):
        retriever = HttpRetriever(url, max_retries=0, **FAST)
        found = retriever.search(["a", "b"], top_k)
        assert [len(one) for one in found] == [top_k, top_k]
        if dialect != "rerank":
            assert ids(found) == [["a"] * top_k, ["b"] * top_k]
        num_probes = len(requests)
        retriever.search(["a"], top_k)
        assert len(requests) == num_probes + 1


def test_a_server_that_speaks_none_is_an_error():
    message = r"none of the dialects; search_r1: .*gem: "
    with (
        fake_server(lambda *_: (422, {}, b"no")) as (url, _),
        pytest.raises(RetrieverError, match=message),
    ):
        HttpRetriever(url, **FAST).search(["q"], 1)
    with pytest.raises(RetrieverError, match="ConnectError"):
        HttpRetriever(url, max_retries=0, **FAST).search(["q"], 1)


# Small parts ------------------------------------------------------------------------------


def test_batches_are_cut_by_number_and_by_length():
    assert split_batch(["a", "b", "c"], 2, 100) == [["a", "b"], ["c"]]
    assert split_batch(["aa", "b", "cccc", "d"], 9, 3) == [["aa", "b"], ["cccc"], ["d"]]
    assert split_batch([], 2, 100) == []


def test_retry_after_is_seconds_or_a_date():
    assert retry_after_s("7") == 7.0
    assert 8 < retry_after_s(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert retry_after_s(formatdate(0, usegmt=True)) == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None


def test_pauses_grow_differ_and_repeat():
    def pauses(seed):
        client = HttpRetriever("http://h", seed=seed, backoff_s=1.0, max_backoff_s=4.0)._http
        return [client._pause_s(attempt, ValueError()) for attempt in range(5)]

    assert pauses(0) == pauses(0) != pauses(1)
    for pause, whole in zip(pauses(0), [1, 2, 4, 4, 4], strict=True):
        assert whole / 2 <= pause <= whole


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://h#color=red", "must be among dialect.* got 'color'"),
        ("http://h#timeout_s=long", "timeout_s in .* must be a float, got 'long'"),
        ("http://h#dialect=french", "dialect must be one of auto"),
        ("http://h#timeout_s=0", "timeout_s must be positive"),
        ("http://h#max_retries=-1", "max_retries must not be negative"),
        ("http://h#max_connections=0", "max_connections must be positive"),
        ("http://h#max_queries_per_request=0", "max_queries_per_request must be positive"),
        ("http://h#ready_timeout_s=-1", "ready_timeout_s must not be negative"),
        ("http://", "name a host"),
    ],
)
def test_a_wrong_address_or_setting_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        make_retriever(spec, BM25.corpus)


def test_wrong_arguments_are_refused():
    retriever = HttpRetriever("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="sequence of strings"):
        retriever.search("text", 3)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        retriever.search(["a"], 0)
    with pytest.raises(ValueError, match="begin with http"):
        HttpRetriever("ftp://h")
    with pytest.raises(ValueError, match="backoff_s"):
        HttpSettings(backoff_s=-1)


def test_a_fork_opens_connections_of_its_own(toy_server):
    retriever = HttpRetriever(toy_server.url)
    retriever.search(QUERIES[:1], 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        right = retriever.search(QUERIES[:2], 3) == BM25.search(QUERIES[:2], 3)
        os.write(writer, b"right" if right else b"wrong")
        os._exit(0)
    assert retriever.search(QUERIES[2:4], 3) == BM25.search(QUERIES[2:4], 3)
    os.waitpid(child, 0)
    assert os.read(reader, 9) == b"right"
    os.close(reader)
    os.close(writer)
    assert len(retriever._http._processes) == 1
