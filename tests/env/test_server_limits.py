"""Clients that starve a server, and those that it should not answer."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.remote import server as server_module
from calibadv_env.retrieval.remote.access import Access, AccessRules
from calibadv_env.retrieval.remote.asgi import PendingBytes, send_reply
from calibadv_env.retrieval.remote.client import HttpRetriever
from calibadv_env.retrieval.remote.connections import ConnectionLimits, ConnectionWatch
from calibadv_env.retrieval.remote.server import SearchService, ServerConfig
from calibadv_env.retrieval.remote.server_logs import RepeatFilter
from calibadv_env.retrieval.remote.server_metrics import ServerMetrics
from tests.env.test_server import BM25, QUERIES, expected, post

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

HEAD = b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\n"
FUZZED = int(os.environ.get("CALIBADV_FUZZED_REQUESTS", "400"))


def get(port, path="/health", headers=None, timeout=5.0):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def opened(port, data=b"", receive_buffer=None):
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10.0)
    connection.connect(("127.0.0.1", port))
    connection.sendall(data)
    return connection


def is_closed_within(connection, seconds):
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def sends_until_closed(connection, data, pause_s=0.0, most_s=20.0):
    """Seconds until the server no longer takes data."""
    started = time.monotonic()
    while time.monotonic() < started + most_s:
        try:
            connection.sendall(data)
        except OSError:
            return time.monotonic() - started
        time.sleep(pause_s)
    return most_s


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What a request may ask for ---------------------------------------------------------------


def test_queries_times_passages_are_bounded(toy_server):
    record = {"queries": ["x"] * 51, "topk": 1000}
    status, _, reply = post(toy_server.url, record)
    assert status == 413
    assert "at most 50,000 passages, 51 queries times 1000 are 51,000" in reply["error"]


def test_a_reply_is_bounded_in_bytes(start_server):
    server = start_server(limits="max_reply_bytes=2000")
    server.wait_until_ready()
    status, _, reply = post(server.url, {"queries": QUERIES[:30], "topk": 20})
    assert (status, "longer than 2,000 bytes" in reply["error"]) == (413, True)
    assert post(server.url, {"query": "x", "topk": 1})[0] == 200


def test_a_client_splits_what_a_reply_cannot_hold(toy_server, monkeypatch):
    sizes = []
    retriever = HttpRetriever(toy_server.url, dialect="search_r1")
    original = retriever._ask
    monkeypatch.setattr(
        retriever,
        "_ask",
        lambda d, k, queries: sizes.append(len(queries)) or original(d, k, queries),
    )
    assert len(retriever.search(["x"] * 120, 1000)) == 120
    assert sorted(sizes) == [20, 50, 50]


@pytest.mark.parametrize("name", ["topk", "top_k", "topK", "k", "top_n", "topn"])
def test_every_name_of_the_number_of_passages_is_understood(toy_server, name):
    _, _, reply = post(toy_server.url, {"query": QUERIES[0], name: 7})
    assert len(reply["result"][0]) == 7


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"topk": 3, "top_k": 5}, "must be given once, got topk 3 and top_k 5"),
        ({"num_results": 5}, "the field 'num_results' is not known; the number of passages is"),
        ({"limit": "5"}, "the field 'limit' is not known"),
        ({"maxDocs": 5.0}, "the field 'maxDocs' is not known"),
        ({"top_n": 0}, "top_n must be from 1 to 1000, got 0"),
    ],
)
def test_a_size_that_is_not_understood_is_refused(toy_server, record, message):
    status, _, reply = post(toy_server.url, {"query": "x", **record})
    assert (status, message in reply["error"]) == (422, True), reply


def test_other_fields_are_ignored_and_counted(start_server):
    server = start_server()
    server.wait_until_ready()
    for name in ("instruction", "instruction", 'a"b\n', "x" * 99):
        assert post(server.url, {"query": "x", "topk": 3, "top_k": 3, name: "y"})[0] == 200
    assert server.metric('ignored_fields_total{field="instruction"}') == 2
    assert server.metric('ignored_fields_total{field="other"}') == 2


# The routes of ReSearch -------------------------------------------------------------------


def test_search_answers_as_researchs_server_does(toy_server):
    record = {"query": QUERIES[0], "top_n": 4, "return_score": False}
    _, _, reply = post(toy_server.url, record, path="/search")
    assert [each["id"] for each in reply] == expected(QUERIES[0], 4)
    assert set(reply[0]) == {"id", "contents"}
    found, scores = post(toy_server.url, {**record, "return_score": True}, path="/search")[2]
    assert found == reply
    assert scores == [hit.score for hit in BM25.search([QUERIES[0]], 4)[0]]
    assert len(post(toy_server.url, {"query": QUERIES[0]}, path="/search")[2]) == 10


def test_batch_search_answers_as_researchs_server_does(toy_server):
    record = {"query": QUERIES[:3], "top_n": 2}
    _, _, reply = post(toy_server.url, record, path="/batch_search")
    assert [[each["id"] for each in one] for one in reply] == [expected(q, 2) for q in QUERIES[:3]]
    found, scores = post(toy_server.url, {**record, "return_score": True}, path="/batch_search")[2]
    assert found == reply
    assert scores == [[h.score for h in one] for one in BM25.search(QUERIES[:3], 2)]
    for path, bad in (("/search", ["x"]), ("/batch_search", "x")):
        assert post(toy_server.url, {"query": bad}, path=path)[0] == 422


# Clients that are slow, or many -----------------------------------------------------------


def test_half_requests_are_closed(start_server):
    server = start_server(more="connections=ConnectionLimits(head_s=0.5, body_s=1.0)")
    server.wait_until_ready()
    halves = {
        "nothing": opened(server.port),
        "head": opened(server.port, HEAD),
        "second": opened(server.port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /"),
        "body": opened(server.port, HEAD + b"content-length: 500\r\n\r\n{"),
        "chunks": opened(server.port, HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{    \r\n"),
    }
    assert halves["second"].recv(1 << 16).startswith(b"HTTP/1.1 200")
    for name, connection in halves.items():
        assert is_closed_within(connection, 5.0), name
    assert server.metric('dropped_connections_total{stage="head"}') == 3
    assert server.metric('dropped_connections_total{stage="body"}') == 2
    assert server.metric("pending_bytes") == 0


def test_a_request_that_drips_is_closed_in_time(start_server):
    server = start_server(more="connections=ConnectionLimits(head_s=1.0)")
    server.wait_until_ready()
    assert sends_until_closed(opened(server.port, HEAD), b"x-a: b\r\n", 0.1) < 5.0


def test_a_reply_that_nobody_reads_is_dropped_and_its_bytes_are_free_again(start_server):
    limits = "max_passages=3_000_000"
    server = start_server(limits=limits, more="connections=ConnectionLimits(reply_s=2.0)")
    server.wait_until_ready()
    body = json.dumps({"queries": QUERIES[:50] * 50, "topk": 1000}).encode()
    asked = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    readers = [opened(server.port, asked, receive_buffer=4096) for _ in range(3)]
    until(lambda: server.metric("pending_bytes") > 1_000_000)
    until(lambda: server.metric("pending_bytes") == 0)
    dropped = 'dropped_connections_total{stage="reply"}'
    until(lambda: server.metric(dropped, default=0) == 3)
    assert len(readers) == 3


def test_bodies_that_are_held_are_bounded_over_connections(start_server):
    server = start_server(more="connections=ConnectionLimits(max_pending_bytes=1_000_000)")
    server.wait_until_ready()
    part = HEAD + b"content-length: 900000\r\n\r\n" + b" " * 400_000
    halves = [opened(server.port, part) for _ in range(2)]
    until(lambda: server.metric("pending_bytes") >= 790_000)
    status, headers, reply = post(server.url, b" " * 300_000)
    assert (status, reply["error"]) == (503, "the server holds too many requests")
    assert headers["retry-after"] == "1"
    assert post(server.url, {"query": "x"})[0] == 200
    for half in halves:
        half.close()
    until(lambda: server.metric("pending_bytes") == 0)
    assert post(server.url, b" " * 300_000)[0] == 400


def test_when_all_connections_are_taken_the_one_that_waits_longest_gives_way(start_server):
    server = start_server(more="connections=ConnectionLimits(max_connections=10)")
    server.wait_until_ready()
    loris = [opened(server.port, HEAD) for _ in range(30)]
    assert get(server.port)[0] == 200
    assert post(server.url, {"query": "x"})[0] == 200
    assert is_closed_within(loris[0], 1.0)
    assert not is_closed_within(loris[-1], 0.2)
    assert server.metric("connections") <= 10
    assert server.metric('dropped_connections_total{stage="full"}') >= 20


def test_a_head_without_end_is_refused(start_server):
    server = start_server()
    server.wait_until_ready()
    for begin in (HEAD + b"x: ", b"GET /"):
        assert sends_until_closed(opened(server.port, begin), b"a" * 65536) < 5.0
    assert server.metric('dropped_connections_total{stage="head"}') == 2
    trailers = opened(server.port, HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    trailers.sendall(b"x: y\r\n\r\n")
    assert trailers.recv(1 << 16).startswith(b"HTTP/1.1 422")


def test_a_long_request_lets_others_in_between(start_server):
    server = start_server(search_s=0.1, batch="max_batch=4")
    server.wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(post, server.url, {"queries": [f"city {i}" for i in range(80)]})
        until(lambda: server.metric("queries_total") >= 80)
        started = time.monotonic()
        assert post(server.url, {"query": "x"})[0] == 200
        took = time.monotonic() - started
        assert not long.done()
        assert len(long.result()[2]["result"]) == 80
    assert took < 1.0


def test_long_bodies_and_replies_are_done_off_the_event_loop(monkeypatch):
    where = {}

    def noting(name):
        original = getattr(server_module, name)

        def call(*args):
            where.setdefault(name, []).append(threading.current_thread().name)
            return original(*args)

        monkeypatch.setattr(server_module, name, call)

    noting("parse_request")
    noting("encode_reply")

    async def main():
        service = SearchService(lambda: BM25, ServerConfig())
        worker = asyncio.create_task(service.run(lambda: None))
        while not service.is_ready:
            await asyncio.sleep(0.005)
        small = await service.retrieve(b'{"query": "x"}', None)
        long = json.dumps({"queries": ["x" * 1000, *QUERIES] * 6, "topk": 20}).encode()
        large = await service.retrieve(long.ljust(400_000), None)
        worker.cancel()
        return small.status, large.status

    assert asyncio.run(main()) == (200, 200)
    for names in where.values():
        assert names[0] == "MainThread"
        assert names[1].startswith("calibadv-search")


def test_a_long_reply_goes_in_pieces():
    sent = []

    async def send(message):
        sent.append(message)

    for size in (0, 1, 262_144, 262_145, 1_000_000, 524_288):
        sent.clear()
        body = os.urandom(size)
        asyncio.run(send_reply(send, server_module.Reply(200, body, "x/y")))
        assert b"".join(each["body"] for each in sent[1:]) == body
        assert [each.get("more_body", False) for each in sent[1:]][-1] is False
        assert max(len(each["body"]) for each in sent[1:]) <= 262_144


def test_a_watch_refuses_only_when_every_connection_is_being_answered():
    class Busy:
        since, mark, dropped = 0.0, None, False

        def __init__(self, stage):
            self._stage = stage

        def stage(self):
            return self._stage, 1

        def drop(self):
            self.dropped = True

    watch = ConnectionWatch(ConnectionLimits(max_connections=2), ServerMetrics())
    watch.max_connections = 2
    first, second = Busy("work"), Busy("reply")
    assert watch.add(first, 1.0)
    assert watch.add(second, 2.0)
    assert not watch.add(Busy("head"), 3.0)
    second._stage = "idle"
    assert watch.add(Busy("head"), 3.0)
    assert (first.dropped, second.dropped, len(watch)) == (False, True, 2)


def test_pending_bytes_are_counted():
    pending = PendingBytes(10)
    assert pending.take(8)
    assert not pending.take(3)
    pending.force(5)
    assert pending.held == 13
    pending.give(13)
    assert pending.take(10)


# Who may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("[::1", 421),
        ("a b", 421),
    ],
)
def test_only_names_of_this_machine_are_answered_to(toy_server, host, status):
    body = json.dumps({"query": "x"}).encode()
    headers = {"content-type": "text/plain", "host": host}
    assert post(toy_server.url, body, headers)[0] == status
    assert get(toy_server.port, "/health", {"host": host})[0] == status


def test_pages_of_other_sites_are_refused(toy_server):
    body = json.dumps({"query": "x"}).encode()
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        ("http://10.9.8.7", 403),
        (toy_server.url, 200),
    ):
        headers = {"content-type": "text/plain", "origin": origin}
        assert post(toy_server.url, body, headers)[0] == status, origin
    assert toy_server.metric('refused_total{status="403"}') == 3


def test_more_names_can_be_allowed():
    access = Access(AccessRules(allow_host=("search.internal",)), "0.0.0.0")
    assert access.refusal("/retrieve", {b"host": b"Search.Internal:8000"}) is None
    assert access.refusal("/retrieve", {b"host": b"other.internal"}).status == 421
    assert access.refusal("/retrieve", {}) is None
    anyone = Access(AccessRules(allow_host=("*",)), "0.0.0.0")
    assert anyone.refusal("/retrieve", {b"host": b"other.internal"}) is None
    for number in range(2000):
        access.refusal("/", {b"host": b"h%d" % number})
    assert len(access._known) <= 256


def test_a_token_is_asked_for_if_one_is_set(start_server, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    server = start_server(more='access=AccessRules(token_variable="MY_TOKEN")')
    until(lambda: get(server.port, "/ready", {"authorization": "Bearer s3cret"})[0] == 200)
    assert get(server.port)[0] == 200
    assert get(server.port, "/metrics")[0] == 401
    status, headers, reply = post(server.url, {"query": "x"})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert "token" in reply["error"]
    with pytest.raises(RetrieverError, match="401"):
        HttpRetriever(server.url).search(["x"], 1)
    asked = HttpRetriever.from_spec(f"{server.url}#token_variable=MY_TOKEN&ready_timeout_s=5")
    assert len(asked.search(QUERIES[:1], 1)[0]) == 1
    assert asked.identity()["kind"]
    monkeypatch.setenv("MY_TOKEN", "other")
    with pytest.raises(RetrieverError, match="401") as caught:
        asked.search(["x"], 1)
    assert "other" not in str(caught.value)


def test_a_token_that_is_not_there_is_refused_at_the_start(monkeypatch):
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(ValueError, match="NO_TOKEN is not set"):
        Access(AccessRules(token_variable="NO_TOKEN"), "127.0.0.1")
    monkeypatch.setenv("NO_TOKEN", "a b")
    with pytest.raises(ValueError, match="NO_TOKEN holds spaces"):
        Access(AccessRules(token_variable="NO_TOKEN"), "127.0.0.1")


# Logs -------------------------------------------------------------------------------------


def test_lines_of_a_kind_are_few_a_minute_and_the_rest_are_counted():
    now = [0.0]
    few = RepeatFilter(per_minute=2, clock=lambda: now[0])

    def line(message, *args):
        record = logging.LogRecord("x", logging.WARNING, "f", 1, message, args, None)
        return record.getMessage() if few.filter(record) else None

    assert [line("bad %s", i) for i in range(5)] == ["bad 0", "bad 1", None, None, None]
    assert line("other") == "other"
    now[0] = 61.0
    assert line("bad %s", 9) == "bad 9 (3 more like it were left out)"
    assert line("bad %s", 9) == "bad 9"
    for number in range(1000):
        line(f"kind {number}")
    assert len(few._kinds) <= 101


def test_nonsense_does_not_flood_the_log(start_server):
    server = start_server()
    server.wait_until_ready()
    for _ in range(300):
        connection = opened(server.port, b"nonsense\r\n\r\n")
        assert b"400" in connection.recv(1 << 16)
        connection.close()
    server.process.terminate()
    server.process.wait(timeout=20)
    assert 1 <= server.process.stderr.read().count("Invalid HTTP request") <= 10


# Fuzzing ----------------------------------------------------------------------------------


def fuzzed(draw):
    """Bytes of a request: a right one, with what hostile or broken clients do to it."""
    value = draw.choice(
        [
            None,
            True,
            -1,
            0,
            3,
            10**30,
            1.5,
            float("nan"),
            "",
            "x",
            "5",
            [],
            ["a"],
            [[]],
            {},
            "\ud800",
        ]
    )
    record = {"queries": ["river", "\0 city"], "topk": 2, "return_scores": True}
    keys = ["queries", "query", "topk", "top_k", "top_n", "return_scores", "not_sort", "a", ""]
    for _ in range(draw.choice([0, 0, 1, 2])):
        record[draw.choice(keys)] = value
    if not draw.randrange(4):
        record.pop(draw.choice(list(record)))
    body = json.dumps(record).encode()
    match draw.randrange(12):
        case 0:
            body = bytes(draw.randrange(256) for _ in range(draw.randrange(60)))
        case 1:
            at = draw.randrange(len(body) + 1)
            body = body[:at] + bytes([draw.randrange(256)]) + body[at:]
        case 2:
            body = b"[" * draw.choice([10, 100_000])
        case 3:
            body = body[: draw.randrange(len(body) + 1)]
    path = draw.choice(
        ["/retrieve"] * 8 + ["/search", "/batch_search", "/ready", "/%ff", "//", "/a?b=%"]
    )
    method = draw.choice(["POST"] * 12 + ["GET", "HEAD", "PUT", "OPTIONS", "post", "X"])
    length = draw.choice([len(body)] * 6 + [0, -1, 10**20, len(body) + 5])
    kind = draw.choice(["application/json", "application/msgpack", "", "\xff", "text/html"])
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-type: {kind}"]
    lines.append(draw.choice([f"content-length: {length}"] * 8 + ["transfer-encoding: chunked"]))
    lines += draw.choice([[], [], [], ["connection: close"], ["expect: 100-continue"], ["x"]])
    lines += draw.choice(
        [[]] * 6 + [["upgrade: websocket", "connection: upgrade"], ["a: " + "b" * 70_000]]
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def test_fuzzed_requests_are_answered_or_refused_and_hurt_nobody(start_server):
    server = start_server(more="connections=ConnectionLimits(head_s=1.0, body_s=1.0)")
    server.wait_until_ready()
    statuses = {}

    def ask(seed):
        connection = opened(server.port)
        try:
            connection.sendall(fuzzed(random.Random(seed)))
            return connection.recv(1 << 16)[9:12].decode("latin-1")
        except TimeoutError:
            return f"seed {seed} got no answer"
        except OSError:
            return ""
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as pool:
        for status in pool.map(ask, range(FUZZED)):
            statuses[status] = statuses.get(status, 0) + 1
    assert not [status for status in statuses if status[:1] in ("5", "s")], statuses
    assert statuses["200"] > FUZZED // 50
    assert post(server.url, {"query": "x"})[0] == 200
    until(lambda: server.metric("pending_bytes") == 0)
    server.process.terminate()
    assert server.process.wait(timeout=20) in (0, -15)
    assert "Traceback" not in server.process.stderr.read(), statuses


def test_a_slow_loris_beside_a_load_costs_no_answer(start_server):
    limits = "ConnectionLimits(max_connections=40, head_s=1.0)"
    server = start_server(more=f"connections={limits}")
    server.wait_until_ready()
    is_over = threading.Event()

    def drip():
        held = []
        while not is_over.wait(0.005):
            held.append(opened(server.port, HEAD))
            for one in held[-5:]:
                with contextlib.suppress(OSError):
                    one.sendall(b"a: b\r\n")
            del held[:-60]

    loris = threading.Thread(target=drip)
    loris.start()
    try:
        retriever = HttpRetriever(server.url, max_retries=0, max_connections=8)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda q: retriever.search([q], 3)[0], QUERIES * 12))
    finally:
        is_over.set()
        loris.join()
    assert found == BM25.search(QUERIES * 12, 3)
