"""Real search servers in processes of their own, for the tests of server and client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LAUNCH = """
import sys, time
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.remote.access import AccessRules
from calibadv_env.retrieval.remote.batcher import BatchLimits
from calibadv_env.retrieval.remote.connections import ConnectionLimits
from calibadv_env.retrieval.remote.server import ServerConfig, run_server
from calibadv_env.retrieval.remote.requests import RequestLimits

class Slow:
    def __init__(self, inner, seconds):
        self.inner, self.seconds, self.corpus = inner, seconds, inner.corpus
    def search(self, queries, top_k):
        time.sleep(self.seconds)
        if "poison" in queries:
            raise RetrieverError("this query is poison")
        return self.inner.search(queries, top_k)
    if {has_identity}:
        def identity(self):
            return self.inner.identity()

def load():
    time.sleep({load_s})
    if {is_broken}:
        raise RetrieverError("the index is broken")
    return Slow(get_dataset("toy").retriever("bm25"), {search_s})

def announce(address):
    print("listening on", address, file=sys.stderr, flush=True)

batch, limits = BatchLimits({batch}), RequestLimits({limits})
run_server(load, ServerConfig(port={port}, batch=batch, limits=limits, {more}), announce)
"""


class SearchServer:
    """A server over the toy corpus, in a process of its own."""

    def __init__(
        self,
        *,
        port: int = 0,
        load_s: float = 0.0,
        search_s: float = 0.0,
        is_broken: bool = False,
        has_identity: bool = True,
        batch: str = "",
        limits: str = "",
        more: str = "",
    ) -> None:
        code = LAUNCH.format(
            port=port,
            load_s=load_s,
            search_s=search_s,
            is_broken=is_broken,
            has_identity=has_identity,
            batch=batch,
            limits=limits,
            more=more,
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        line = self.process.stderr.readline()
        found = re.search(r"http://127.0.0.1:(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}"

    def metric(self, name: str, default: float | None = None) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics") as reply:
            text = reply.read().decode()
        found = re.search(rf"^calibadv_{re.escape(name)} (\S+)$", text, re.M)
        return default if found is None and default is not None else float(found.group(1))

    def wait_until_ready(self) -> None:
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/ready").close()
                return
            except urllib.error.HTTPError:
                time.sleep(0.02)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        code = self.process.wait(timeout=20)
        self.process.stderr.close()
        return code


@pytest.fixture
def start_server() -> Iterator[Callable[..., SearchServer]]:
    """Starts servers, and kills those that a test leaves."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    started: list[SearchServer] = []

    def start(**options: Any) -> SearchServer:
        started.append(SearchServer(**options))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def toy_server() -> Iterator[SearchServer]:
    """One server over the toy corpus for all tests of a module."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    server = SearchServer()
    server.wait_until_ready()
    yield server
    server.stop(signal.SIGKILL)
