"""A small server with OpenAI's API whose answers and faults a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering."""

    status: int = 200
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    sleep_s: float = 0.0
    drops: bool = False


@dataclass
class Endpoint:
    """The server's side of a test.

    ``answer`` makes the text of a turn from the request; ``faults`` are used up first, one a
    request; ``bodies`` are the requests that were answered or refused, in order. With ``encode``
    it gives token ids, as vLLM does.
    """

    answer: Callable[[Body], str]
    counts_tokens: bool = True
    encode: Callable[[str], list[int]] | None = None
    max_model_len: int | None = 64
    delay_s: float = 0.0
    faults: deque[Fault] = field(default_factory=deque)
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at_once: int = 0

    def reply(self, body: Body, path: str) -> bytes:
        """A whole reply, as servers make it: without the stop string."""
        text = self.answer(body)
        ends = [text.find(stop) for stop in body.get("stop", ()) if stop in text]
        choice: Body = {"index": 0, "finish_reason": "stop"}
        if body.get("return_token_ids") and self.encode is not None:
            ids = self.encode(text)
            choice |= {"token_ids": ids, "text": text}
            choice["logprobs"] = {"token_logprobs": [-0.5] * len(ids)}
            return json.dumps({"object": "x", "choices": [choice]}).encode()
        text = text[: min(ends)] if ends else text
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        reply: Body = {"object": "x", "choices": [choice]}
        if self.counts_tokens:
            reply["usage"] = {"prompt_tokens": 9, "completion_tokens": len(text.split()) + 1}
        return json.dumps(reply).encode()


def handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with endpoint._lock:
                endpoint._at_once += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint._at_once)
            try:
                self.answer_one()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with endpoint._lock:
                    endpoint._at_once -= 1

        def do_GET(self) -> None:
            limit = endpoint.max_model_len
            model = {"id": "m"} if limit is None else {"id": "m", "max_model_len": limit}
            content = json.dumps({"data": [model]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def answer_one(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with endpoint._lock:
                endpoint.bodies.append(body)
                endpoint.headers.append({k.lower(): v for k, v in self.headers.items()})
                endpoint.paths.append(self.path)
                fault = endpoint.faults.popleft() if endpoint.faults else None
            time.sleep(endpoint.delay_s + (fault.sleep_s if fault else 0.0))
            if fault is not None and fault.drops:
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return
            is_answer = fault is None or (fault.status == 200 and not fault.content)
            content = endpoint.reply(body, self.path) if is_answer else fault.content
            self.send_response(200 if is_answer else fault.status)
            self.send_header("content-length", str(len(content)))
            for name, value in () if fault is None else fault.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serve(answer: Callable[[Body], str], **options: Any) -> Iterator[Endpoint]:
    """Runs a server on a free port of this machine."""
    endpoint = Endpoint(answer, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(endpoint))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
