"""Generation engine over vLLM, in this process or in worker processes of its own.

The engine starts without weights and gets all it ever has through :meth:`VllmEngine.sync_weights`,
so what samples is what the trainer holds, and a failed engine can be built anew at any time.
:class:`~calibadv_algo.rollout.engines.vllm.rebuilding.RebuildingEngine` does that and repeats
what failed: contexts and seeds are in the requests, so a repeated turn has the same tokens.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from calibadv_algo.rollout.engines.hf.engine import context_limit
from calibadv_algo.rollout.engines.vllm.setup import (
    adapter_rank,
    check_process,
    clean_up,
    engine_arguments,
    engine_dtype,
    environment,
    import_vllm,
    is_cpu,
    mend_kernel_scan,
    scratch_dir,
    watch_workers,
    write_shape,
)
from calibadv_algo.rollout.engines.vllm.sync import (
    EngineClient,
    WeightSender,
    init_info,
    vllm_backend,
)
from calibadv_algo.rollout.engines.vllm.turns import (
    TurnReader,
    VllmCounters,
    check_reported,
    check_sampling,
    check_tokens,
    reports_raw_logprobs,
)
from calibadv_algo.rollout.engines.vllm.versions import check_settings, stamp_weights, stamps
from calibadv_algo.rollout.engines.vllm.weights import (
    BareModel,
    base_model,
    own_prefix,
    remove_leftovers,
    unwrap,
)
from calibadv_env.common.http import describe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.config import VllmEngineConfig


class VllmEngine(StreamingEngine):
    """A vLLM engine of this process, or of worker processes that it starts.

    Attributes:
        version: Version of the weights, -1 before the first.
        counters: What was done so far.
        max_context: Longest context in tokens, the turn included.
        is_dead: Whether it failed; then it must be built anew.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: VllmEngineConfig,
        *,
        max_slots: int = 128,
        max_context: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        """Starts vLLM for models of this shape; the weights follow by ``sync_weights``.

        Args:
            model: The policy; its settings are used here, not its weights.
            tokenizer: Its tokenizer.
            config: Settings of the engine.
            max_slots: Most episodes at one time, if the settings do not say.
            max_context: Longest context, if the settings do not say; then the model's own.
            temperature: Of the sampling to come.
            top_p: Of the sampling to come.

        Raises:
            ValueError: if a setting does not fit the model or what vLLM can report.
            ImportError: if vLLM is not installed.
            EngineError: if vLLM does not start.
        """
        check_sampling(temperature, top_p)
        import_vllm()
        base = base_model(model)
        self._vocab_size = int(base.config.get_text_config().vocab_size)
        limit = context_limit(base)
        self.max_context = config.max_model_len or max_context or limit
        if not 2 <= self.max_context <= limit:
            raise ValueError(f"max_model_len must be in [2, {limit}], got {self.max_context}")
        check_process(config)
        check_settings(config.chosen_transfer(is_cpu()), config.lora)
        self.version = -1
        self.counters = VllmCounters()
        self.is_dead, self._config = False, config
        self._is_raw = reports_raw_logprobs(temperature, top_p)
        self._turns = TurnReader(base, tokenizer)
        self._running: dict[str, GenerationRequest] = {}
        self._request_ids: dict[str, str] = {}
        self._params: SamplingParams | None = None
        self._numbers = itertools.count()
        self._lora: Any = None
        self._is_base_sent = self._is_asleep = False
        scratch = scratch_dir(config)
        remove_leftovers(scratch)
        self._folder = Path(tempfile.mkdtemp(prefix=own_prefix(), dir=scratch))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            write_shape(base, tokenizer, self._folder)
            self._engine = self._boot(model, max_slots)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        client = EngineClient(self._engine)
        self._sender = WeightSender(client, engine_dtype(config.dtype), self._transfer_info)

    @property
    def num_running(self) -> int:
        """Turns that were submitted and not returned yet."""
        return len(self._running)

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Queues turns; they join the running batch at the next step.

        Raises:
            EngineError: if a context is empty or too long, an episode already runs a turn, or
                running turns have other params: then nothing of the call was queued. Also if
                vLLM failed: then ``is_dead`` is true.
        """
        self._check(requests, params)
        self._wake()
        from vllm import TokensPrompt

        self._params = params
        for request in requests:
            name = str(next(self._numbers))
            ours = self._sampling(request, params)
            prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
            with self._fatal("could not take a request"):
                self._engine.add_request(name, prompt, ours, lora_request=self._lora)
            self._running[name] = request
            self._request_ids[request.episode_id] = name

    def step(self) -> list[tuple[str, Generation]]:
        """Advances every running turn; returns those that ended, by episode.

        Raises:
            EngineError: if vLLM failed; then nothing runs any more.
        """
        if not self._running:
            return []
        ended = []
        with self._fatal("failed"):
            outputs = [output for output in self._engine.step() if output.finished]
            for output in outputs:
                request = self._running.pop(output.request_id, None)
                if request is not None:
                    del self._request_ids[request.episode_id]
                    ended.append((request.episode_id, self._generation(output)))
        return ended

    def release(self, episode_ids: Sequence[str]) -> None:
        """Aborts running turns of these episodes; cached prefixes leave by themselves."""
        names = [self._request_ids.pop(each) for each in episode_ids if each in self._request_ids]
        for name in names:
            del self._running[name]
        if names and not self.is_dead:
            with self._fatal("could not give up turns"):
                self._engine.abort_request(names)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Sends weights to vLLM and drops what it cached under the old ones.

        Args:
            model: The policy, in whatever wrapper; every rank of a sharded one calls this.
            version: Number of updates behind these weights; every turn is checked against it.

        Raises:
            EngineError: if turns are running, or the transfer failed. vLLM cannot undo half of
                one, so ``is_dead`` is then true.
        """
        check_idle(self.num_running)
        self._check_alive()
        with self._fatal(f"did not take over the weights of version {version}"):
            self._wake("weights")
            if self._config.lora == "adapter" and getattr(unwrap(model), "peft_config", None):
                self._send_adapter(unwrap(model), version)
            else:
                self._sender.send(model)
            self._wake()
            stamp_weights(self._engine, version)
            if not self._engine.reset_prefix_cache():
                raise EngineError("the prefix cache could not be reset")
        self.version = version
        self.counters.num_syncs += 1

    def sleep(self) -> None:
        """Makes room on the GPU, as the settings say; the next call of anything else wakes it."""
        if self._config.sleep == "never" or is_cpu() or self._is_asleep or self.is_dead:
            return
        with self._fatal("did not go to sleep"):
            self._engine.sleep(level=1 if self._config.sleep == "keep-weights" else 2)
        self._is_asleep = True

    def close(self) -> None:
        """Ends vLLM and its processes; may be called again."""
        self.is_dead = True
        engine, self._engine = self._engine, None
        self._running.clear()
        self._request_ids.clear()
        if engine is not None:
            try:
                self._sender.close()
                engine.engine_core.shutdown()
            finally:
                del engine
                shutil.rmtree(self._folder, ignore_errors=True)
                if self._config.workers == "in-process":
                    clean_up()

    def _boot(self, model: PreTrainedModel, max_slots: int) -> Any:
        """Starts the engine on the files of the folder."""
        config, base = self._config, base_model(model)
        arguments = engine_arguments(config, base, self._folder, self.max_context, max_slots)
        arguments["logprobs_mode"] = "raw_logprobs" if self._is_raw else "processed_logprobs"
        if config.lora == "adapter":
            rank = adapter_rank(model)
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        engine = self._start(arguments)
        if config.workers == "separate":
            watch_workers(engine)
        return engine

    def _start(self, arguments: dict[str, Any]) -> Any:
        from vllm import EngineArgs
        from vllm.config import WeightTransferConfig
        from vllm.v1.engine.llm_engine import LLMEngine

        import calibadv_algo.rollout.engines.vllm.backend  # noqa: F401 (registers the backend)

        if is_cpu():
            mend_kernel_scan()
        backend = WeightTransferConfig(backend=vllm_backend(self._config.chosen_transfer(is_cpu())))
        with environment(self._config), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            try:
                return LLMEngine.from_engine_args(
                    EngineArgs(**arguments, weight_transfer_config=backend)
                )
            except Exception as error:
                raise EngineError(f"vLLM did not start: {describe(error)}") from error

    def _transfer_info(self) -> Any:
        from vllm.utils.network_utils import get_open_port

        return init_info(
            self._config.chosen_transfer(is_cpu()),
            folder=self._config.transfer_dir,
            port=get_open_port(),
            num_workers=self._config.tensor_parallel_size,
        )

    def _send_adapter(self, model: Any, version: int) -> None:
        """Sends the weights below the adapter once, and the adapter each time."""
        from vllm.lora.request import LoRARequest

        if not self._is_base_sent:
            with model.disable_adapter():
                self._sender.send(BareModel(model))
            self._is_base_sent = True
        folder = self._folder / f"adapter-{version}"
        model.save_pretrained(folder)
        old, name = self._lora, f"policy-{version}"
        self._lora = LoRARequest(name, self.counters.num_syncs + 1, str(folder))
        self._engine.add_lora(self._lora)
        if old is not None:
            self._engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path, ignore_errors=True)

    def _sampling(self, request: GenerationRequest, params: SamplingParams) -> Any:
        """One turn's params for vLLM."""
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self.max_context - len(request.token_ids)
        return VllmSamplingParams(
            temperature=params.temperature,
            top_p=params.top_p if params.temperature > 0 else 1.0,
            seed=request.seed if params.temperature > 0 else None,
            max_tokens=min(params.max_tokens, room),
            stop=list(params.stop),
            stop_token_ids=list(self._turns.eos_ids),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _generation(self, output: Any) -> Generation:
        """Reads a finished turn."""
        turn = output.outputs[0]
        others = stamps(turn) - {str(self.version)}
        if others:
            raise EngineError(f"sampled from weights {sorted(others)}, not {self.version}")
        token_ids = tuple(turn.token_ids)
        logprobs = tuple(
            float(found[token].logprob)
            for token, found in zip(token_ids, turn.logprobs, strict=True)
        )
        self.counters.num_sampled += len(token_ids)
        self.counters.num_prompt += len(output.prompt_token_ids)
        self.counters.num_reused += output.num_cached_tokens or 0
        stop = self._params.stop if self._params else ()
        text, reason = self._turns.read(token_ids, stop, turn.text, turn.finish_reason)
        return Generation(token_ids, logprobs, text, reason)

    def _check(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        self._check_alive()
        if self.version < 0:
            raise EngineError("the engine has no weights yet, sync_weights must come first")
        check_submission(requests, params, self._request_ids, self._params, self.max_context)
        check_reported(self._is_raw, params)
        check_tokens(requests, self._vocab_size)

    def _check_alive(self) -> None:
        if self.is_dead:
            raise EngineError("the engine has failed and must be built anew")

    def _wake(self, *tags: str) -> None:
        """Wakes what sleeps: all of it, or the parts that are named."""
        if self._is_asleep:
            self._engine.wake_up(tags=list(tags) or None)
            self._is_asleep = bool(tags)

    @contextmanager
    def _fatal(self, what: str) -> Iterator[None]:
        """Turns whatever vLLM raises into an EngineError, and remembers that it is lost."""
        try:
            yield
        except Exception as error:
            self.is_dead = True
            self._running.clear()
            self._request_ids.clear()
            raise EngineError(f"vLLM {what}: {describe(error)}") from error
