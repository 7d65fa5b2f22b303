"""Which engine samples, and its settings; neither torch nor vLLM is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.base import GenerationEngine

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _require_positive(config: object, *names: str) -> None:
    """Raises ValueError for a field that is 0 or less; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HfEngineConfig:
    """The trainer's own model samples, its keys and values kept between turns."""

    max_prefill_tokens: int | None = None
    """Most context tokens of one forward pass; None means 1024 on a CPU, 16384 elsewhere."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(self, "max_prefill_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmEngineConfig:
    """A vLLM engine of this process: its own copy of the weights, sent after every update."""

    workers: Literal["in-process", "separate"] = "in-process"
    """Whether vLLM computes in this process or in processes of its own."""
    dtype: Precision = "auto"
    """Type of weights and computation; auto means bf16 on a GPU and fp32 on a CPU."""
    max_model_len: int | None = None
    """Longest context in tokens; None means that of the rollouts."""
    max_num_seqs: int | None = None
    """Most episodes in one batch; None means the number of slots."""
    max_batched_tokens: int | None = None
    """Most tokens of one forward pass; None means max_model_len, and 8192 if that is less."""
    kv_cache_bytes: int | None = None
    """Memory for keys and values; None means all slots at full length on a CPU, up to 4 GiB,
    and what gpu_memory_utilization leaves on a GPU."""
    gpu_memory_utilization: float = 0.5
    """Share of the GPU's memory that vLLM may take, weights included."""
    tensor_parallel_size: int = 1
    """GPUs that one copy of the model is spread over."""
    block_size: int | None = None
    """Tokens of one block of the prefix cache; None means 32 on a CPU and vLLM's own on a GPU."""
    execution: Literal["auto", "eager", "graphs"] = "auto"
    """Whether the model is compiled into graphs; auto means on a GPU alone."""
    transfer: Literal["auto", "memory", "file", "ipc", "nccl"] = "auto"
    """How weights get to vLLM. memory: by reference, in process; file: through transfer_dir;
    ipc: one GPU for both; nccl: separate GPUs. auto: memory in process, else file on a CPU and
    ipc on a GPU."""
    transfer_dir: str = "/dev/shm"
    """Folder that this process and the workers see, best in memory."""
    lora: Literal["merged", "adapter"] = "merged"
    """Whether a LoRA policy is sent as full weights or as its adapter alone."""
    sleep: Literal["never", "keep-weights", "drop-weights"] = "never"
    """What leaves the GPU while the trainer works: nothing, or the cache (weights moved to the
    host), or the cache and the weights. No effect on a CPU."""
    max_rebuilds: int = 2
    """How often in a row a failed engine is built anew before the run ends."""

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        _require_positive(
            self, "max_model_len", "max_num_seqs", "max_batched_tokens", "kv_cache_bytes"
        )
        _require_positive(self, "tensor_parallel_size", "block_size")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}"
            )
        if self.max_rebuilds < 0:
            raise ValueError(f"max_rebuilds must not be negative, got {self.max_rebuilds}")
        if self.transfer == "memory" and self.workers == "separate":
            raise ValueError("transfer must not be memory if workers is separate, got memory")
        if self.tensor_parallel_size > 1 and self.workers == "in-process":
            raise ValueError(
                "workers must be separate if tensor_parallel_size is above 1, got in-process"
            )
        if self.lora == "adapter" and self.sleep == "drop-weights":
            raise ValueError(
                "lora must be merged if sleep is drop-weights: the weights below the adapter "
                "are sent once only; got adapter"
            )

    def chosen_transfer(self, on_cpu: bool) -> Literal["memory", "file", "ipc", "nccl"]:
        """How weights get to vLLM, ``auto`` resolved."""
        if self.transfer != "auto":
            return self.transfer
        if self.workers == "in-process":
            return "memory"
        return "file" if on_cpu else "ipc"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServerEngineConfig:
    """A vLLM server that runs elsewhere, reached over HTTP (docs/vllm.md says how to start it)."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    model: str | None = None
    """Name under which the server has the model; None means its only one."""
    transfer: Literal["file", "nccl"] = "file"
    """How weights get there. file: through transfer_dir, on the same machine or a shared disk;
    nccl: from this process's GPU to the server's."""
    transfer_dir: str = "/dev/shm"
    """Folder that this process and the server see under the same name."""
    master_address: str = "127.0.0.1"
    """Address of this machine as the server sees it; for nccl."""
    master_port: int = 29600
    """Free port of this machine; for nccl."""
    dtype: Precision = "auto"
    """Type in which weights are sent; auto means bf16 from a GPU and fp32 from a CPU."""
    max_connections: int = 64
    """Most requests at one time."""
    timeout_s: float = 600.0
    """Longest wait for one answer."""
    ready_timeout_s: float = 300.0
    """Longest wait for the server to come up."""
    max_retries: int = 3
    """Repetitions of a request that got no answer, or one of the kind 5xx."""
    backoff_s: float = 0.5
    """Wait before the first repetition; doubled for each further one."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {self.url!r}")
        _require_positive(self, "max_connections", "timeout_s", "ready_timeout_s")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, got {self.max_retries}")
        if self.backoff_s < 0:
            raise ValueError(f"backoff_s must not be negative, got {self.backoff_s}")
        if not 0 < self.master_port < 65536:
            raise ValueError(f"master_port must be in [1, 65535], got {self.master_port}")


EngineConfig = HfEngineConfig | VllmEngineConfig | VllmServerEngineConfig
"""Engines that a run can be configured with."""

ENGINES: Final[dict[str, EngineConfig]] = {
    "hf": HfEngineConfig(),
    "vllm": VllmEngineConfig(),
    "vllm-server": VllmServerEngineConfig(),
}
"""Names of the engines, for command lines."""


def find_engine(name: str) -> EngineConfig:
    """The engine of a name; ``vllm-server=URL`` names a server's address along with it.

    Raises:
        ValueError: if there is no such engine.
    """
    kind, _, url = name.partition("=")
    if kind not in ENGINES or (url and kind != "vllm-server"):
        raise ValueError(
            f"engine must be one of {', '.join(ENGINES)} or vllm-server=URL, got {name!r}"
        )
    return VllmServerEngineConfig(url=url) if url else ENGINES[kind]


def make_engine(
    config: EngineConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_slots: int = 128,
    max_context: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> GenerationEngine:
    """Builds an engine that holds the policy's weights and can sample at once.

    Args:
        config: Which one.
        model: The policy; also a peft model with LoRA adapters.
        tokenizer: Its tokenizer.
        max_slots: Most episodes at one time.
        max_context: Longest context in tokens; the model's own limit if None.
        temperature: Of the sampling to come. Greedy turns are always possible too.
        top_p: Of the sampling to come.

    Returns:
        The engine. One of vLLM's is built anew when it fails.

    Raises:
        ValueError: if the settings do not fit each other or the model.
        ImportError: naming the extra, if a package is missing.
        EngineError: if the engine does not start.
    """
    if isinstance(config, HfEngineConfig):
        from calibadv_algo.rollout.engines.hf.engine import HfEngine

        return HfEngine(
            model,
            tokenizer,
            max_slots=max_slots,
            max_context=max_context,
            max_prefill_tokens=config.max_prefill_tokens,
        )
    if isinstance(config, VllmServerEngineConfig):
        from calibadv_algo.rollout.engines.vllm.server import VllmServerEngine

        server = VllmServerEngine(
            model, tokenizer, config, max_context=max_context, temperature=temperature, top_p=top_p
        )
        server.sync_weights(model, 0)
        return server
    from calibadv_algo.rollout.engines.vllm.engine import VllmEngine
    from calibadv_algo.rollout.engines.vllm.rebuilding import RebuildingEngine

    def build() -> VllmEngine:
        return VllmEngine(
            model,
            tokenizer,
            config,
            max_slots=max_slots,
            max_context=max_context,
            temperature=temperature,
            top_p=top_p,
        )

    engine = RebuildingEngine(build, max_rebuilds=config.max_rebuilds)
    engine.sync_weights(model, 0)
    return engine
