"""The routes of a vLLM server that training needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from calibadv_algo.errors import EngineError
from calibadv_env.common.http import (
    CallError,
    HttpClient,
    HttpSettings,
    UnusableReplyError,
    describe,
)

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.config import VllmServerEngineConfig

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts that a server reports about itself.

    Attributes:
        model: Name of the model that it serves.
        max_context: Longest context in tokens.
        logprobs_mode: Which log-probabilities it reports.
        backend: Its weight-transfer backend, None if it has none.
        num_workers: GPUs, or processes on a CPU, that compute.
    """

    model: str
    max_context: int
    logprobs_mode: str
    backend: str | None
    num_workers: int


class ServerClient:
    """The routes of a server; also vLLM's ``VLLMWeightSyncClient``."""

    def __init__(self, config: VllmServerEngineConfig) -> None:
        """Connects to nothing yet.

        Raises:
            ImportError: naming the extra, if httpx is missing.
        """
        self._url = config.url.rstrip("/")
        self._turns = HttpClient(
            HttpSettings(
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                backoff_s=config.backoff_s,
                max_backoff_s=20.0,
                max_concurrency=config.max_connections,
            )
        )
        # A client of its own, so that no call of it waits behind turns. Updates of weights are
        # not idempotent, so none is sent twice.
        self._control = HttpClient(
            HttpSettings(timeout_s=config.timeout_s, max_retries=0, max_concurrency=2)
        )

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asks for one turn, again after failures that may pass.

        Raises:
            EngineError: if the server refused it or did not answer.
        """
        try:
            return self._turns.post_json(f"{self._url}/v1/completions", body, {}, first_choice)
        except CallError as error:
            raise EngineError(f"no turn from vLLM: {error}") from error.__cause__

    def facts(self) -> ServerFacts:
        """Asks what is served.

        Raises:
            EngineError: if the server does not answer, or not as vLLM does.
        """
        model = self._get("/v1/models", lambda reply: str(reply["data"][0]["id"]))
        num_workers = self._get("/get_world_size", lambda reply: int(reply["world_size"]))

        def read(reply: Any) -> ServerFacts:
            config = reply["vllm_config"]
            return ServerFacts(
                model=model,
                max_context=int(config["model_config"]["max_model_len"]),
                logprobs_mode=str(config["model_config"]["logprobs_mode"]),
                backend=(config.get("weight_transfer_config") or {}).get("backend"),
                num_workers=num_workers,
            )

        return self._get("/server_info?config_format=json", read)

    def weight_version(self) -> str:
        """Asks which weights are loaded.

        Raises:
            EngineError: if the server does not answer.
        """
        return self._get("/weight_info", lambda reply: str(reply["weight_version"]))

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a server that is starting.

        Raises:
            EngineError: if it does not come up in time.
        """
        deadline = time.monotonic() + timeout_s
        last = "no answer"
        while time.monotonic() < deadline:
            try:
                self._control.get(f"{self._url}/health", timeout_s=5.0)
                return
            except CallError as error:
                last = str(error)
            time.sleep(min(0.5, timeout_s))
        raise EngineError(f"no vLLM server at {self._url} within {timeout_s:g} s: {last}")

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connects the workers."""
        self._post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Begins an update."""
        self._post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        """Sends a part of the weights, or says where it is."""
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Ends an update."""
        named = {} if weight_version is None else {"weight_version": weight_version}
        self._post("/finish_weight_update", named)

    def set_weight_version(self, version: str) -> None:
        """Names the weights."""
        self._post("/update_weight_version", {"new_version": version})

    def reset_prefix_cache(self) -> None:
        """Drops what was computed under old weights."""
        self._post("/reset_prefix_cache", {})

    def close(self) -> None:
        """Closes connections."""
        self._turns.close()
        self._control.close()

    def _get(self, path: str, read: Callable[[Any], Result]) -> Result:
        try:
            return read(json.loads(self._control.get(f"{self._url}{path}")))
        except CallError as error:
            if error.status == 404:
                raise EngineError(
                    f"{self._url} has no route {path.partition('?')[0]}: the server must be vLLM "
                    "0.27 or later and started with VLLM_SERVER_DEV_MODE=1"
                ) from error
            raise EngineError(f"the vLLM server does not answer: {error}") from error.__cause__
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            message = f"{self._url}{path}: the answer is not vLLM's: {describe(error)}"
            raise EngineError(message) from error

    def _post(self, path: str, record: dict[str, Any]) -> None:
        """Sends a command; nobody reads what the server says to it."""
        body, headers = json.dumps(record).encode("ascii"), {"content-type": "application/json"}
        try:
            self._control.post(f"{self._url}{path}", body, headers, lambda _: None)
        except CallError as error:
            raise EngineError(str(error)) from error.__cause__


def first_choice(reply: Any) -> dict[str, Any]:
    """The turn in an answer.

    Raises:
        UnusableReplyError: if it holds none.
    """
    try:
        choice = dict(reply["choices"][0])
        if not isinstance(choice["token_ids"], list) or choice["logprobs"] is None:
            raise UnusableReplyError("no token ids or no log-probs in the answer")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnusableReplyError(f"no turn in the answer: {describe(error)}") from error
    return choice
