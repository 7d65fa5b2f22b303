"""Generation engine over a vLLM server that runs elsewhere (docs/vllm.md says how to start one).

Turns go over the completions route, token ids both ways. Weights go through the server's own
weight-transfer routes. The server says which weights it holds: one that was started again in the
middle of a run gets them anew, and the turns that it may have sampled without them are repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationRequest,
    SamplingParams,
    StreamingEngine,
    check_idle,
    check_submission,
)
from calibadv_algo.rollout.engines.vllm.http import ServerClient, ServerFacts
from calibadv_algo.rollout.engines.vllm.setup import DTYPES
from calibadv_algo.rollout.engines.vllm.sync import WeightSender, init_info, vllm_backend
from calibadv_algo.rollout.engines.vllm.turns import (
    TurnReader,
    VllmCounters,
    check_reported,
    check_sampling,
    check_tokens,
    reports_raw_logprobs,
)
from calibadv_algo.rollout.engines.vllm.weights import (
    EXTENSION,
    base_model,
    send_weights,
    whole_weights,
)
from calibadv_env.common.http import describe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.config import VllmServerEngineConfig

POLL_S: Final = 0.02


class VllmServerEngine(StreamingEngine):
    """A vLLM server behind HTTP.

    Several processes that train together share the server: the first one sends weights.

    Attributes:
        version: Version of the weights, -1 before the first.
        counters: What was done so far; ``num_rebuilds`` counts servers that lost their weights.
        max_context: Longest context in tokens, the turn included.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: VllmServerEngineConfig,
        *,
        max_context: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        """Waits for the server and looks at how it was started.

        Args:
            model: The policy.
            tokenizer: Its tokenizer.
            config: Where the server is.
            max_context: Longest context; the server's own if None.
            temperature: Of the sampling to come.
            top_p: Of the sampling to come.

        Raises:
            ValueError: if vLLM cannot report log-probabilities for this temperature and top-p.
            EngineError: if there is no server, or it was started with other settings.
        """
        check_sampling(temperature, top_p)
        base = base_model(model)
        self.version = -1
        self.counters = VllmCounters()
        self._config = config
        self._client = ServerClient(config)
        self._client.wait_until_ready(config.ready_timeout_s)
        self._is_raw = reports_raw_logprobs(temperature, top_p)
        self._facts = self._client.facts()
        check_server(self._facts, config, self._is_raw, max_context)
        self.max_context = max_context or self._facts.max_context
        self._vocab_size = int(base.config.get_text_config().vocab_size)
        self._turns = TurnReader(base, tokenizer)
        self._running: dict[str, GenerationRequest] = {}
        self._futures: dict[Future[dict[str, Any]], str] = {}
        self._params: SamplingParams | None = None
        self._model: torch.nn.Module = model
        self._sender: WeightSender | None = None
        self._pool = ThreadPoolExecutor(config.max_connections, "calibadv-vllm-server")

    @property
    def num_running(self) -> int:
        """Turns that were submitted and not returned yet."""
        return len(self._running)

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Sends turns off.

        Raises:
            EngineError: if a context is empty or too long, an episode already runs a turn, or
                running turns have other params: then nothing of the call was sent. Also if the
                server does not answer.
        """
        if self.version < 0:
            raise EngineError("the engine has no weights yet, sync_weights must come first")
        check_submission(requests, params, self._running, self._params, self.max_context)
        check_reported(self._is_raw, params)
        check_tokens(requests, self._vocab_size)
        self._params = params
        if requests and not self._running and not self._has_weights():
            self._recover()
        for request in requests:
            self._running[request.episode_id] = request
            self._send(request)

    def step(self) -> list[tuple[str, Generation]]:
        """Waits a moment for turns to end; returns those that did, by episode.

        Raises:
            EngineError: if the server failed; then nothing runs any more.
        """
        if not self._running:
            return []
        done, _ = wait(self._futures, timeout=POLL_S, return_when=FIRST_COMPLETED)
        if not done:
            return []
        try:
            choices = [(self._futures[future], future.result()) for future in done]
            if not self._has_weights():
                self._recover()
                return []
            ended = []
            for episode_id, choice in choices:
                if episode_id in self._running:
                    ended.append((episode_id, self._generation(episode_id, choice)))
        except EngineError:
            self._forget()
            raise
        for future in done:
            del self._futures[future]
        for episode_id, _ in ended:
            del self._running[episode_id]
        return ended

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops running turns of these episodes: their answers are not read."""
        for episode_id in episode_ids:
            self._running.pop(episode_id, None)
        for future in [each for each, name in self._futures.items() if name in set(episode_ids)]:
            future.cancel()
            del self._futures[future]

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Sends weights to the server and drops what it cached under the old ones.

        A transfer that failed is begun once more if the server has been started again since.

        Raises:
            EngineError: if turns are running, or the server did not take the weights. It cannot
                undo half a transfer and must then be started again.
        """
        check_idle(self.num_running)
        self._model = model
        try:
            self._transfer(version)
        except Exception as error:
            self._sender = None
            raise EngineError(
                f"the vLLM server did not take over the weights of version {version} and must be "
                f"started again: {describe(error)}"
            ) from error
        self.version = version
        self.counters.num_syncs += 1

    def close(self) -> None:
        """Closes connections; the server goes on."""
        self._forget()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _transfer(self, version: int) -> None:
        config, is_first = self._config, get_rank() == 0
        name = config.dtype if config.dtype != "auto" else default_precision(self._model)
        dtype = DTYPES[name]
        if config.transfer == "nccl":
            if self._sender is None:
                self._sender = WeightSender(self._client, dtype, self._nccl_info)
            self._sender.send(self._model)
            if is_first:
                self._client.set_weight_version(str(version))
        else:
            weights = whole_weights(self._model, dtype)
            client = self._client if is_first else None
            if client is not None:
                client.init_weight_transfer_engine({})
            send_weights(client, weights, config.transfer_dir, str(version))
        if is_first:
            self._client.reset_prefix_cache()
        barrier()
        found = self._client.weight_version()
        if found != str(version):
            raise EngineError(f"the server says that it has weights {found!r}")

    def _nccl_info(self) -> Any:
        return init_info(
            "nccl",
            address=self._config.master_address,
            port=self._config.master_port,
            num_workers=self._facts.num_workers,
            rank=get_rank(),
        )

    def _has_weights(self) -> bool:
        """Tells if the server still has the weights that it was given."""
        return self._client.weight_version() == str(self.version)

    def _recover(self) -> None:
        """Sends the weights and all running turns anew to a server that was started again."""
        if self.counters.num_rebuilds >= self._config.max_retries:
            raise EngineError(
                f"the vLLM server lost its weights {self.counters.num_rebuilds + 1} times"
            )
        if get_world_size() > 1:
            raise EngineError("the vLLM server lost its weights")
        self.counters.num_rebuilds += 1
        running = list(self._running.values())
        self._forget()
        self.sync_weights(self._model, self.version)
        for request in running:
            self._running[request.episode_id] = request
            self._send(request)

    def _forget(self) -> None:
        for future in self._futures:
            future.cancel()
        wait([each for each in self._futures if not each.cancelled()])
        self._futures.clear()
        self._running.clear()

    def _send(self, request: GenerationRequest) -> None:
        assert self._params is not None
        body = request_body(request, self._params, self.max_context, list(self._turns.eos_ids))
        body["model"] = self._config.model or self._facts.model
        self._futures[self._pool.submit(self._client.complete, body)] = request.episode_id

    def _generation(self, episode_id: str, choice: dict[str, Any]) -> Generation:
        """Reads a turn."""
        request = self._running[episode_id]
        token_ids = tuple(int(token) for token in choice["token_ids"])
        logprobs = tuple(float(value) for value in choice["logprobs"]["token_logprobs"])
        if len(logprobs) != len(token_ids):
            raise EngineError(f"got {len(logprobs)} log-probs for {len(token_ids)} tokens")
        self.counters.num_sampled += len(token_ids)
        self.counters.num_prompt += len(request.token_ids)
        stop = self._params.stop if self._params else ()
        text, reason = self._turns.read(token_ids, stop, choice["text"], choice["finish_reason"])
        return Generation(token_ids, logprobs, text, reason)


def server_command(
    model: str, config: VllmServerEngineConfig, *, max_context: int, on_cpu: bool
) -> list[str]:
    """Command that starts a server: ``vllm serve``, in a spelling that works for CPU builds too.

    The environment variable ``VLLM_SERVER_DEV_MODE=1`` must be set: it opens the routes for
    weights, so the server belongs in a network that is trusted.

    Args:
        model: Folder or hub name of the policy.
        config: Settings of this side.
        max_context: Longest context in tokens.
        on_cpu: Whether it computes on a CPU.
    """
    backend = vllm_backend(config.transfer)
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    arguments += ["--max-model-len", str(max_context), "--generation-config", "vllm"]
    arguments += ["--logprobs-mode", "processed_logprobs", "--enable-prefix-caching"]
    arguments += ["--weight-transfer-config", f'{{"backend": "{backend}"}}']
    if config.transfer == "file":
        arguments += ["--worker-extension-cls", EXTENSION]
    if on_cpu:
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32"]
        arguments += ["--max-num-batched-tokens", str(max(8192, max_context))]
    return arguments


def request_body(
    request: GenerationRequest, params: SamplingParams, max_context: int, eos_ids: list[int]
) -> dict[str, Any]:
    """A turn as the completions route takes it."""
    return {
        "prompt": list(request.token_ids),
        "max_tokens": min(params.max_tokens, max_context - len(request.token_ids)),
        "temperature": params.temperature,
        "top_p": params.top_p if params.temperature > 0 else 1.0,
        "seed": request.seed if params.temperature > 0 else None,
        "stop": list(params.stop),
        "stop_token_ids": eos_ids,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
    }


def check_server(
    facts: ServerFacts, config: VllmServerEngineConfig, is_raw: bool, max_context: int | None
) -> None:
    """Refuses a server that was started for something else.

    Raises:
        EngineError: naming the argument that it should have had.
    """
    mode = "raw_logprobs" if is_raw else "processed_logprobs"
    backend = vllm_backend(config.transfer)
    if facts.logprobs_mode != mode:
        raise EngineError(
            f"the vLLM server must run with --logprobs-mode {mode}, got {facts.logprobs_mode}"
        )
    if facts.backend != backend:
        raise EngineError(
            f"the vLLM server must run with the weight-transfer backend {backend!r}, "
            f"got {facts.backend!r}"
        )
    if max_context is not None and facts.max_context < max_context:
        raise EngineError(
            f"the vLLM server must run with --max-model-len {max_context}, got {facts.max_context}"
        )


def default_precision(model: torch.nn.Module) -> str:
    """In what type weights are sent if nothing else is said: bf16 from a GPU."""
    return "bf16" if next(model.parameters()).device.type == "cuda" else "fp32"


def get_rank() -> int:
    """Number of this process among those that train together."""
    distributed = torch.distributed
    is_on = distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_rank()) if is_on else 0


def get_world_size() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    is_on = distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if is_on else 1


def barrier() -> None:
    """Waits for all processes that train together."""
    if get_world_size() > 1:
        torch.distributed.barrier()
