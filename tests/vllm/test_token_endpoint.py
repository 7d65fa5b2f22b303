"""`calibadv credit` over a plain server of vLLM with OpenAI's API: token ids both ways."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.openai.engine import EndpointConfig
from calibadv_algo.rollout.engines.openai.tokens import TokenEndpointEngine, served_context

pytestmark = pytest.mark.slow

SIZE = ("--questions", "3", "--group-size", "3", "--continuations", "4", "--estimators", "rloo")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as anybody starts it, without the routes for weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", policy_path("atlas-tiny"), "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--enforce-eager", "--no-enable-chunked-prefill"]
    command += ["--block-size", "32", "--max-num-batched-tokens", "8192", "--max-num-seqs", "32"]
    command += ["--kv-cache-memory-bytes", str(64 << 20)]
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tmp_path_factory.mktemp("server") / "server.out"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **settings},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def counted(address: str, name: str) -> float:
    """A counter of the server."""
    with urllib.request.urlopen(f"{address}/metrics") as reply:
        text = reply.read().decode()
    return sum(float(each) for each in re.findall(rf"^vllm:{name}\S* (\S+)$", text, re.M))


def test_turns_are_those_of_the_hugging_face_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any], address: str
) -> None:
    config = EndpointConfig(url=f"{address}/v1", model="tiny", route="completions")
    assert served_context(config) == 1024
    engine = TokenEndpointEngine(config, loaded[1], 1024)
    requests = kit.requests(loaded[1], 12)
    greedy = SamplingParams(temperature=0.0, max_tokens=24, stop=kit.STOP)
    theirs = HfEngine(*loaded).generate(requests, greedy)
    ours = engine.generate(requests, greedy)
    assert [each.token_ids for each in ours] == [each.token_ids for each in theirs]
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert [each.finish_reason for each in ours] == [each.finish_reason for each in theirs]
    sampled = SamplingParams(max_tokens=24, stop=kit.STOP)
    together = engine.generate(requests, sampled)
    [alone] = engine.generate(requests[:1], sampled)
    assert alone.token_ids == together[0].token_ids, "by the seed of the turn"
    mine, again = kit.recomputed(loaded[0], [each.token_ids for each in requests], together, 1.0)
    assert np.abs(mine - again).max() < 1e-3
    engine.close()


def test_the_command_measures_a_served_policy(tmp_path: Path, address: str) -> None:
    before = [counted(address, f"prefix_cache_{each}_total") for each in ("hits", "queries")]
    flags = ["credit", "--endpoint", f"{address}/v1", "--endpoint-model", "tiny"]
    flags += ["--endpoint-route", "tokens", "--endpoint-tokenizer", "atlas-tiny"]
    assert main([*flags, *SIZE, "--output", str(tmp_path)]) == 0
    (result,) = json.loads((tmp_path / "credit.json").read_text())
    assert result["facts"]["questions"] == 3
    assert result["facts"]["continuations"] >= 4 * result["facts"]["states"] > 0
    after = [counted(address, f"prefix_cache_{each}_total") for each in ("hits", "queries")]
    hits, queries = np.subtract(after, before)
    assert hits / queries > 0.5, "continuations find their state in the server's prefix cache"
