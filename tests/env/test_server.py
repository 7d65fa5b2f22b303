import asyncio
import http.client
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.remote.batcher import (
    BatchLimits,
    ExpiredError,
    QueueFullError,
    SearchBatcher,
    search_distinct,
)
from calibadv_env.retrieval.remote.server import (
    SearchService,
    ServerConfig,
    create_app,
    open_port,
    run_server,
)
from calibadv_env.retrieval.remote.server_metrics import Histogram, ServerMetrics

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
msgpack = pytest.importorskip("msgpack")

BM25 = get_dataset("toy").retriever("bm25")
QUERIES = [passage.text for passage in BM25.corpus.passages[:64]]


def post(url, record, headers=None, path="/retrieve"):
    """Status, headers and body of a reply; JSON read if it is JSON."""
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    headers = {"content-type": "application/json"} if headers is None else headers
    request = urllib.request.Request(url + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.loads(error.read())


def expected(query, top_k):
    return [hit.passage.id for hit in BM25.search([query], top_k)[0]]


def ids(entries):
    return [entry["document"]["id"] for entry in entries]


# Dialects ---------------------------------------------------------------------------------


def test_search_r1_and_verl(toy_server):
    payload = {"queries": QUERIES[:3], "topk": 3, "return_scores": True}
    status, _, reply = post(toy_server.url, payload)
    assert status == 200
    assert [ids(one) for one in reply["result"]] == [expected(q, 3) for q in QUERIES[:3]]
    first = reply["result"][0][0]
    title, _, text = first["document"]["contents"].partition("\n")
    best = BM25.search(QUERIES[:1], 1)[0][0]
    assert (title.strip('"'), text, first["score"]) == (
        best.passage.title,
        best.passage.text,
        best.score,
    )


def test_without_scores_and_without_a_number(toy_server):
    _, _, reply = post(toy_server.url, {"queries": QUERIES[:2], "topk": None})
    assert [[d["id"] for d in one] for one in reply["result"]] == [
        expected(q, 3) for q in QUERIES[:2]
    ]


def test_rerank_gives_strings(toy_server):
    payload = {"queries": QUERIES[:2], "topk_retrieval": 20, "topk_rerank": 2}
    _, _, reply = post(toy_server.url, {**payload, "return_scores": True})
    assert all(entry["document"].startswith('"') for one in reply["result"] for entry in one)
    assert [[entry["id"] for entry in one] for one in reply["result"]] == [
        expected(q, 2) for q in QUERIES[:2]
    ]
    _, _, bare = post(toy_server.url, payload)
    assert bare["result"][0] == [entry["document"] for entry in reply["result"][0]]


def test_gem_sends_msgpack_without_saying_so(toy_server):
    body = msgpack.packb({"query": QUERIES[0], "topk": 2, "return_scores": True})
    request = urllib.request.Request(toy_server.url + "/retrieve", body, method="POST")
    request.add_unredirected_header("Content-type", "")
    with urllib.request.urlopen(request) as reply:
        assert reply.headers["content-type"] == "application/msgpack"
        assert ids(msgpack.unpackb(reply.read())["result"]) == expected(QUERIES[0], 2)


# Odd requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "status", "message"),
    [
        (b"no json", 400, "the body must be JSON"),
        (b"", 400, "the body must be JSON"),
        ({"queries": ["x"] * 10_000}, 413, "at most 4,096 in a request, got 10,000"),
        ({"query": "x" * 1_000_001}, 413, "at most 1,000,000 characters"),
        ({"query": "x", "topk": 0}, 422, "topk must be from 1 to 1000, got 0"),
        ({"question": "x"}, 422, "either 'queries' or 'query'"),
        (b" " * (32 * 1024 * 1024 + 1), 413, "at most 33,554,432 bytes"),
    ],
)
def test_a_request_that_asks_for_too_much_is_told_why(toy_server, record, status, message):
    got, _, reply = post(toy_server.url, record)
    assert got == status
    assert message in reply["error"]


@pytest.mark.parametrize("query", ["", "\0", "\ud800", "river\0bank " + QUERIES[0], "é" * 20])
def test_odd_queries_are_answered(toy_server, query):
    status, _, reply = post(toy_server.url, {"queries": [query, QUERIES[0]], "return_scores": True})
    assert status == 200
    assert ids(reply["result"][0]) == expected(query, 3)
    assert ids(reply["result"][1]) == expected(QUERIES[0], 3)


def test_a_query_of_a_million_characters_is_answered(toy_server):
    query = (QUERIES[0] + " ") * (1_000_000 // (len(QUERIES[0]) + 1))
    status, _, reply = post(toy_server.url, {"query": query, "return_scores": True})
    assert status == 200
    assert ids(reply["result"][0])[0] == expected(QUERIES[0], 1)[0]


def test_a_body_in_chunks_is_limited_too(toy_server):
    connection = http.client.HTTPConnection("127.0.0.1", toy_server.port, timeout=20)
    chunks = (b" " * 1024 * 1024 for _ in range(40))
    try:
        connection.request("POST", "/retrieve", chunks, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        assert connection.getresponse().status == 413
    finally:
        connection.close()
    assert post(toy_server.url, {"query": "x"})[0] == 200


def test_only_posts_are_searches(toy_server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(toy_server.url + "/retrieve")
    assert caught.value.code == 405
    assert caught.value.headers["allow"] == "POST"
    assert "must be POST, got GET" in json.loads(caught.value.read())["error"]


def test_a_client_that_goes_away_in_the_middle_hurts_nobody(toy_server):
    with socket.create_connection(("127.0.0.1", toy_server.port)) as connection:
        connection.sendall(b"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
    assert post(toy_server.url, {"query": "x"})[0] == 200


def test_other_routes(toy_server):
    for path, status in (("/health", 200), ("/ready", 200), ("/metrics", 200), ("/nothing", 404)):
        try:
            got = urllib.request.urlopen(toy_server.url + path).status
        except urllib.error.HTTPError as error:
            got = error.code
        assert got == status, path
    with urllib.request.urlopen(toy_server.url + "/ready") as reply:
        identity = json.loads(reply.read())["identity"]
    assert identity["corpus_sha256"] == BM25.corpus.sha256


# Life -------------------------------------------------------------------------------------


def test_it_says_when_it_is_ready(start_server):
    server = start_server(load_s=0.7)
    assert urllib.request.urlopen(server.url + "/health").status == 200
    status, headers, reply = post(server.url, {"query": "x"})
    assert (status, headers["retry-after"]) == (503, "1")
    assert "loading" in reply["error"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url + "/ready")
    assert caught.value.code == 503
    server.wait_until_ready()
    assert post(server.url, {"query": "x"})[0] == 200


def test_an_index_that_cannot_be_loaded_ends_the_server(start_server):
    server = start_server(is_broken=True)
    assert "the index is broken" in server.process.stderr.read()
    assert server.stop() == 1


def test_a_port_that_is_taken_is_an_error():
    with open_port("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            run_server(lambda: BM25, ServerConfig(port=port))


def test_concurrent_requests_are_searched_together_and_a_stop_answers_them_all(start_server):
    server = start_server(search_s=0.15)
    server.wait_until_ready()

    def ask(query):
        return post(server.url, {"query": query, "topk": 2, "return_scores": True})

    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(ask, QUERIES))
        assert [status for status, _, _ in replies] == [200] * 64
        for query, (_, _, reply) in zip(QUERIES, replies, strict=True):
            assert ids(reply["result"][0]) == expected(query, 2)
        assert server.metric('requests_total{status="200"}') == 64
        assert server.metric("queries_total") == 64
        assert server.metric("searches_total") <= 32
        assert server.metric("batch_requests_count") == server.metric("searches_total")

        late = [pool.submit(ask, query) for query in QUERIES[:8]]
        while server.metric("queries_total") < 72:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        for query, future in zip(QUERIES, late, strict=False):
            status, _, reply = future.result()
            assert status == 200
            assert ids(reply["result"][0]) == expected(query, 2)
    assert server.stop() in (0, -signal.SIGTERM)
    with pytest.raises(urllib.error.URLError):
        post(server.url, {"query": "x"})


def test_a_full_queue_turns_requests_away_and_one_bad_query_hurts_nobody_else(start_server):
    server = start_server(search_s=0.15, batch="max_batch=2, max_queue=4")
    server.wait_until_ready()
    queries = [*QUERIES[:23], "poison"]

    def ask(query):
        return post(server.url, {"query": query, "return_scores": True})

    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(ask, queries))
    rejected = [headers for status, headers, _ in replies if status == 503]
    assert 10 <= len(rejected) < 24
    assert all(int(headers["retry-after"]) >= 1 for headers in rejected)
    assert server.metric("rejected_total") == len(rejected)
    with ThreadPoolExecutor(2) as pool:
        good, bad = pool.map(ask, [QUERIES[0], "poison"])
    assert bad[0] == 500
    assert "this query is poison" in bad[2]["error"]
    assert good[0] == 200
    assert ids(good[2]["result"][0]) == expected(QUERIES[0], 3)


# The batcher alone ------------------------------------------------------------------------


class Recorder:
    """Notes what it is asked, and can be held up."""

    def __init__(self):
        self.asked = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_entered = threading.Event()

    def search(self, queries, top_k):
        self.is_entered.set()
        self.gate.wait(30)
        self.asked.append((list(queries), top_k))
        if "short" in queries:
            return []
        return [[(query, top_k)] for query in queries]


def batched(jobs, limits=None, *, held_s=0.05):
    """Submits jobs while a first search is held up; gives their answers or errors."""

    async def main():
        metrics, recorder = ServerMetrics(), Recorder()
        with ThreadPoolExecutor(1) as executor:
            batcher = SearchBatcher(recorder, executor, limits or BatchLimits(), metrics)
            worker = asyncio.create_task(batcher.run())
            recorder.gate.clear()
            first = batcher.ask(["first"], 1)
            while not recorder.is_entered.is_set():
                await asyncio.sleep(0.005)
            tasks = [batcher.ask(*job) for job in jobs]
            await asyncio.sleep(held_s)
            recorder.gate.set()
            async with asyncio.timeout(10):
                answers = await asyncio.gather(first, *tasks)
            worker.cancel()
            assert batcher.queue_length == 0
        return answers[1:], recorder.asked[1:], metrics

    return asyncio.run(main())


def test_requests_that_wait_share_a_search_and_equal_queries_are_asked_once():
    answers, asked, metrics = batched([(["a", "b"], 3), (["b"], 3), (["c"], 3)])
    assert asked == [(["a", "b", "c"], 3)]
    assert answers == [[[("a", 3)], [("b", 3)]], [[("b", 3)]], [[("c", 3)]]]
    assert (metrics.searches, metrics.queries, metrics.distinct_queries) == (2, 5, 4)


def test_only_requests_for_the_same_number_share_a_search():
    answers, asked, _ = batched([(["a"], 3), (["b"], 2), (["c"], 3), (["d"], 2)])
    assert asked == [(["a", "c"], 3), (["b", "d"], 2)]
    assert answers == [[[("a", 3)]], [[("b", 2)]], [[("c", 3)]], [[("d", 2)]]]


def test_a_batch_is_bounded_and_a_long_request_goes_piece_by_piece():
    jobs = [(["a"], 1), (["b", "c"], 1), (list("defgh"), 1), (["i"], 1)]
    answers, asked, _ = batched(jobs, BatchLimits(max_batch=3))
    assert [queries for queries, _ in asked] == [list("abc"), list("def"), list("igh")]
    assert [len(answer) for answer in answers] == [1, 2, 5, 1]
    _, alone, _ = batched([(["a"], 1), (["b"], 1)], BatchLimits(max_batch=1))
    assert alone == [(["a"], 1), (["b"], 1)]


def test_a_search_that_fails_is_repeated_for_each_request_alone():
    answers, asked, metrics = batched([(["a"], 1), (["short"], 1), (["b"], 1)])
    assert asked == [(["a", "short", "b"], 1), (["a"], 1), (["short"], 1), (["b"], 1)]
    assert answers[0] == [[("a", 1)]]
    assert answers[2] == [[("b", 1)]]
    assert isinstance(answers[1], RetrieverError)
    assert metrics.failed_searches == 2


def test_who_waited_too_long_or_finds_no_room_is_told():
    answers, asked, metrics = batched([(["a"], 1)], BatchLimits(max_age_s=0.01))
    assert isinstance(answers[0], ExpiredError)
    assert (asked, metrics.expired) == ([], 1)
    answers, _, metrics = batched(
        [(["a"], 1), (["b"], 1), (["c", "d"], 1)], BatchLimits(max_queue=2)
    )
    assert isinstance(answers[2], QueueFullError)
    assert answers[2].retry_after_s >= 1
    assert metrics.rejected == 1


def test_a_stop_that_cannot_wait_still_answers():
    async def main():
        recorder = Recorder()
        recorder.gate.clear()
        service = SearchService(lambda: recorder, ServerConfig())
        worker = asyncio.create_task(service.run(lambda: None))
        while not service.is_ready:
            await asyncio.sleep(0.005)
        body = json.dumps({"query": "a"}).encode()
        running = asyncio.create_task(service.retrieve(body, None))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(service.retrieve(body, None))
        await asyncio.sleep(0.01)
        worker.cancel()
        async with asyncio.timeout(5):
            replies = await asyncio.gather(running, waiting)
        recorder.gate.set()
        return [reply.status for reply in replies]

    assert asyncio.run(main()) == [503, 503]


def test_a_retriever_that_answers_too_little_is_an_error():
    with pytest.raises(RetrieverError, match="all 1 queries, got 0"):
        search_distinct(Recorder(), ["short"], 1)


def test_a_lone_request_waits_no_longer_than_allowed():
    async def main():
        with ThreadPoolExecutor(1) as executor:
            batcher = SearchBatcher(Recorder(), executor, BatchLimits(), ServerMetrics())
            worker = asyncio.create_task(batcher.run())
            started = time.monotonic()
            await batcher.ask(["a"], 1)
            worker.cancel()
            return time.monotonic() - started

    assert asyncio.run(main()) < 0.5


def test_a_lone_client_is_searched_at_once_and_many_are_waited_for():
    """Seconds do not matter here: what is asked together does."""

    async def main():
        recorder = Recorder()
        with ThreadPoolExecutor(1) as executor:
            limits = BatchLimits(max_wait_ms=300)
            batcher = SearchBatcher(recorder, executor, limits, ServerMetrics())
            worker = asyncio.create_task(batcher.run())
            started = time.monotonic()
            for _ in range(5):
                await batcher.ask(["a"], 1)
            alone = time.monotonic() - started
            recorder.gate.clear()
            first = batcher.ask(["first"], 1)
            while not recorder.is_entered.is_set():
                await asyncio.sleep(0.001)
            many = [batcher.ask([str(number)], 1) for number in range(8)]
            recorder.gate.set()
            await asyncio.gather(first, *many)
            late = [batcher.ask(["x"], 1)]
            await asyncio.sleep(0.05)
            late.append(batcher.ask(["y"], 1))
            await asyncio.gather(*late)
            worker.cancel()
        return alone, recorder.asked[-1][0]

    alone, together = asyncio.run(main())
    assert alone < 0.3
    assert together == ["x", "y"]


def test_limits_are_checked():
    for settings in ({"max_batch": 0}, {"max_wait_ms": -1}, {"max_queue": 0}, {"max_age_s": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            BatchLimits(**settings)
    for settings in ({"port": 70_000}, {"max_body_bytes": 0}, {"grace_s": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ServerConfig(**settings)


def test_the_histogram_is_cumulative():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.add(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 12.000000",
        "x_count 4",
    ]


def test_the_application_is_made_without_loading_anything():
    app = create_app(lambda: pytest.fail("loaded"))
    assert not app.state.service.is_ready
