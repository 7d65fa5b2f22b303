"""The routes of a vLLM server that training needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.http import CallSettings, JsonCaller, ReplyError
from calibadv_algo.rollout.engines.vllm.turns import describe

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.config import VllmServerEngineConfig


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself.

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
        self._timeout_s = config.timeout_s
        self._asking = JsonCaller(
            CallSettings(
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                backoff_s=config.backoff_s,
                max_concurrency=config.max_connections,
            )
        )
        self._once = JsonCaller(
            CallSettings(timeout_s=config.timeout_s, max_retries=0, max_concurrency=2)
        )
        import httpx

        self._http = httpx.Client(timeout=config.timeout_s)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asks for one turn, again after failures that may pass."""
        try:
            return self._asking.post(f"{self._url}/v1/completions", body, {}, first_choice)
        except ReplyError as error:
            raise EngineError(f"{self._url} refused a turn: {error}") from error

    def facts(self) -> ServerFacts:
        """Asks what is served."""
        models = [each["id"] for each in self._get("/v1/models")["data"]]
        config = self._get("/server_info?config_format=json")["vllm_config"]
        transfer = config.get("weight_transfer_config") or {}
        return ServerFacts(
            model=models[0],
            max_context=int(config["model_config"]["max_model_len"]),
            logprobs_mode=str(config["model_config"]["logprobs_mode"]),
            backend=transfer.get("backend"),
            num_workers=int(self._get("/get_world_size")["world_size"]),
        )

    def weight_version(self) -> str:
        """Asks which weights are loaded."""
        return str(self._get("/weight_info")["weight_version"])

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a server that is starting.

        Raises:
            EngineError: if it does not come up in time.
        """
        deadline = time.monotonic() + timeout_s
        last = "no answer"
        while time.monotonic() < deadline:
            try:
                if self._http.get(f"{self._url}/health", timeout=5.0).status_code == 200:
                    return
                last = "not healthy"
            except Exception as error:  # noqa: BLE001 (any failure means: not yet)
                last = describe(error)
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
        reply = self._http.post(f"{self._url}/reset_prefix_cache")
        if reply.status_code != 200:
            raise EngineError(f"the prefix cache could not be reset: {reply.text[:300]}")

    def close(self) -> None:
        """Closes connections."""
        self._asking.close()
        self._once.close()
        self._http.close()

    def _get(self, path: str) -> Any:
        reply = self._http.get(f"{self._url}{path}")
        if reply.status_code == 404:
            raise EngineError(
                f"{self._url} has no route {path.partition('?')[0]}: the server must be started "
                "with VLLM_SERVER_DEV_MODE=1"
            )
        reply.raise_for_status()
        return reply.json()

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._once.post(f"{self._url}{path}", body, {}, lambda reply: reply)


def first_choice(reply: Any) -> dict[str, Any]:
    """The turn in an answer.

    Raises:
        ValueError: if it holds none.
    """
    try:
        choice = dict(reply["choices"][0])
        if not isinstance(choice["token_ids"], list) or choice["logprobs"] is None:
            raise ValueError("no token ids or no log-probs in the answer")
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no turn in the answer: {describe(error)}") from error
    return choice
