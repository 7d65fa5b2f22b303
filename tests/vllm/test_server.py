"""A real `vllm serve` process: turns and weights over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibadv_algo.errors import EngineError
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmServerEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine
from calibadv_algo.rollout.engines.vllm.server import VllmServerEngine, server_command
from calibadv_algo.rollout.engines.vllm.versions import has_trainer_backends

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def new_enough() -> None:
    """Servers that tell their weights' version are vLLM 0.27's and later ones."""
    if not has_trainer_backends():
        pytest.skip("this vLLM's server has no route for the version of its weights")


class Server:
    """A server that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "server.out"
        self.config = VllmServerEngineConfig(
            url=f"http://127.0.0.1:{self.port}", transfer_dir="/dev/shm", backoff_s=0.2
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = server_command(
            policy_path("atlas-tiny"), self.config, max_context=1024, on_cpu=True
        )
        command += ["--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "32"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32"]
        environment = {
            **os.environ,
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.5)
        raise AssertionError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    started.start()
    started.wait()
    yield started
    started.kill()


def test_turns_and_weights_go_over_http(
    kit: SimpleNamespace, loaded: tuple[Any, Any], server: Server
) -> None:
    model, tokenizer = loaded
    new = kit.changed(model, scale=0.3)
    requests = [
        GenerationRequest(each.episode_id, each.token_ids * 4, each.seed)
        for each in kit.requests(tokenizer, 12)
    ]
    greedy = SamplingParams(temperature=0.0, max_tokens=24, stop=kit.STOP)
    sampled = SamplingParams(temperature=0.7, max_tokens=24, stop=kit.STOP)
    engine: Any = make_engine(server.config, model, tokenizer, max_context=1024)
    try:
        for version, policy in enumerate((model, new, model), start=1):
            engine.sync_weights(policy, version)
            ours = engine.generate(requests, greedy)
            theirs = HfEngine(policy, tokenizer).generate(requests, greedy)
            assert [each.token_ids for each in ours] == [each.token_ids for each in theirs]
            assert [each.text for each in ours] == [each.text for each in theirs]
            assert [each.finish_reason for each in ours] == [each.finish_reason for each in theirs]
        together = engine.generate(requests, sampled)
        alone = [engine.generate([request], sampled)[0] for request in requests[:3]]
        assert [each.token_ids for each in alone] == [each.token_ids for each in together[:3]]
        contexts = [request.token_ids for request in requests]
        mine, recomputed = kit.recomputed(model, contexts, together, 0.7)
        assert np.abs(mine - recomputed).max() < 1e-3
        with pytest.raises(EngineError, match="must have 1 to 1023 tokens"):
            engine.generate([replace(requests[0], token_ids=(1,) * 1024)], greedy)

        engine.submit(requests, sampled)
        engine.release(["e3"])
        found: dict[str, Any] = {}
        while engine.num_running:
            found.update(engine.step())
        assert found["e5"].token_ids == together[5].token_ids
        assert "e3" not in found

        with pytest.raises(EngineError, match="--max-model-len 4096"):
            VllmServerEngine(model, tokenizer, server.config, max_context=4096)
        with pytest.raises(EngineError, match="--logprobs-mode raw_logprobs"):
            VllmServerEngine(model, tokenizer, server.config, top_p=0.9)

        engine.sync_weights(new, 4)
        expected = [each.token_ids for each in engine.generate(requests, sampled)]
        server.kill()
        with pytest.raises(EngineError, match=r"does not answer|attempts"):
            engine.generate(requests, sampled)
        server.start()
        server.wait()
        engine._client.wait_until_ready(300)
        again = [each.token_ids for each in engine.generate(requests, sampled)]
        assert engine.counters.num_rebuilds == 1
        assert again == expected, "a server that was started again has its first weights"
    finally:
        engine.close()


def test_no_server_is_an_error_that_says_so(loaded: tuple[Any, Any]) -> None:
    config = VllmServerEngineConfig(url="http://127.0.0.1:9", ready_timeout_s=0.1)
    with pytest.raises(EngineError, match=r"no vLLM server at http://127\.0\.0\.1:9"):
        VllmServerEngine(*loaded, config)
