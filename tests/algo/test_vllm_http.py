"""The routes of a vLLM server, against a server that says what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.config import VllmServerEngineConfig
from calibadv_algo.rollout.engines.vllm.http import ServerClient

pytest.importorskip("httpx")

Reply = tuple[int, Any]
Answer = Callable[[str, Any], Reply]
TURN = {"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [0.0]}, "text": "x"}]}


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[ServerClient, list[str]]]]:
    """Starts servers; returns a client of one and the paths that it was asked for."""
    servers: list[ThreadingHTTPServer] = []
    clients: list[ServerClient] = []

    def start(answer: Answer, **settings: Any) -> tuple[ServerClient, list[str]]:
        seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                seen.append(self.path)
                status, record = answer(self.path, body)
                data = record if isinstance(record, bytes) else json.dumps(record).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        values = {"url": url, "timeout_s": 5.0, "backoff_s": 0.01, **settings}
        clients.append(ServerClient(VllmServerEngineConfig(**values)))
        return clients[-1], seen

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_turn_is_asked_for_again_and_its_answer_is_read(serve: Any) -> None:
    replies = iter([(503, b"busy"), (200, {"choices": []}), (200, TURN)])
    client, seen = serve(lambda path, body: next(replies))
    assert client.complete({"prompt": [1]}) == TURN["choices"][0]
    assert seen == ["/v1/completions"] * 3


def test_a_refused_turn_is_an_error_at_once(serve: Any) -> None:
    client, seen = serve(lambda path, body: (400, b"no such model"))
    with pytest.raises(EngineError, match="status 400: no such model"):
        client.complete({"prompt": [1]})
    assert len(seen) == 1


def test_an_update_of_weights_is_never_sent_twice(serve: Any) -> None:
    client, seen = serve(lambda path, body: (503, b"busy"))
    with pytest.raises(EngineError, match=r"update_weights: status 503: busy \(1 attempt\)"):
        client.update_weights({"path": "x"})
    assert seen == ["/update_weights"]


def test_what_a_server_serves(serve: Any) -> None:
    replies = {
        "/v1/models": {"data": [{"id": "m"}]},
        "/server_info?config_format=json": {
            "vllm_config": {
                "model_config": {"max_model_len": 512, "logprobs_mode": "raw_logprobs"},
                "weight_transfer_config": None,
            }
        },
        "/get_world_size": {"world_size": 2},
        "/weight_info": {"weight_version": 3},
    }
    client, _ = serve(lambda path, body: (200, replies[path]))
    facts = client.facts()
    assert (facts.model, facts.max_context, facts.num_workers) == ("m", 512, 2)
    assert (facts.logprobs_mode, facts.backend) == ("raw_logprobs", None)
    assert client.weight_version() == "3"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, b""), "no route /weight_info: the server must be vLLM 0.27 or later and started"),
        ((500, b"boom"), "the vLLM server does not answer: .*status 500: boom"),
        ((200, b"<html>"), "weight_info: the answer is not vLLM's: JSONDecodeError"),
        ((200, []), "weight_info: the answer is not vLLM's: TypeError"),
    ],
)
def test_another_server_is_an_error_that_says_so(serve: Any, reply: Reply, message: str) -> None:
    client, _ = serve(lambda path, body: reply)
    with pytest.raises(EngineError, match=message):
        client.weight_version()


def test_nothing_waits_behind_turns(serve: Any) -> None:
    is_asked, may_end = threading.Event(), threading.Event()

    def answer(path: str, body: Any) -> Reply:
        if path == "/v1/completions":
            is_asked.set()
            assert may_end.wait(10)
            return 200, TURN
        return 200, {"weight_version": "7"}

    client, _ = serve(answer, max_connections=1)
    with ThreadPoolExecutor(1) as pool:
        turn = pool.submit(client.complete, {"prompt": [1]})
        assert is_asked.wait(10)
        assert client.weight_version() == "7"
        assert not turn.done()
        may_end.set()
        assert turn.result() == TURN["choices"][0]


def test_a_server_that_does_not_come_up_is_named() -> None:
    client = ServerClient(VllmServerEngineConfig(url="http://127.0.0.1:9"))
    with pytest.raises(EngineError, match=r"no vLLM server at http://127\.0\.0\.1:9.*ConnectError"):
        client.wait_until_ready(0.1)
