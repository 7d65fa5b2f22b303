"""Settings of the engines; no engine, neither torch nor vLLM, is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.http import require_http

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HfEngineConfig(Checked):
    """The trainer's own model samples, its keys and values kept between turns."""

    max_prefill_tokens: Annotated[int, POSITIVE] | None = None
    """Most context tokens of one forward pass; None means 1024 on a CPU, 16384 elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmEngineConfig(Checked):
    """A vLLM engine of this process: its own copy of the weights, sent after every update."""

    workers: Literal["in-process", "separate"] = "in-process"
    """Place of computation: this process, or processes of vLLM's own."""
    dtype: Precision = "auto"
    """Type of weights and computation; auto means bf16 on a GPU and fp32 on a CPU."""
    max_model_len: Annotated[int, POSITIVE] | None = None
    """Longest context in tokens; None means that of the rollouts."""
    max_num_seqs: Annotated[int, POSITIVE] | None = None
    """Most episodes in one batch; None means the number of slots."""
    max_batched_tokens: Annotated[int, POSITIVE] | None = None
    """Most tokens of one forward pass; None means max_model_len, and 8192 if that is less."""
    kv_cache_bytes: Annotated[int, POSITIVE] | None = None
    """Memory for keys and values; None means all slots at full length on a CPU, up to 4 GiB,
    and what gpu_memory_utilization leaves on a GPU."""
    gpu_memory_utilization: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Share of the GPU's memory that vLLM may take, weights included."""
    tensor_parallel_size: Annotated[int, POSITIVE] = 1
    """GPUs that one copy of the model is spread over."""
    block_size: Annotated[int, POSITIVE] | None = None
    """Tokens of one block of the prefix cache; None means 32 on a CPU and vLLM's own on a GPU."""
    execution: Literal["auto", "eager", "graphs"] = "auto"
    """Mode of execution: eager, or compiled into graphs; auto means graphs on a GPU alone."""
    transfer: Literal["auto", "memory", "file", "ipc", "nccl"] = "auto"
    """How weights get to vLLM. memory: by reference, in process; file: through transfer_dir;
    ipc: one GPU for both; nccl: separate GPUs. auto: memory in process, else file on a CPU and
    ipc on a GPU."""
    transfer_dir: str = "/dev/shm"
    """Folder that this process and the workers see, best in memory."""
    lora: Literal["merged", "adapter"] = "merged"
    """Form in which a LoRA policy is sent: as full weights, or its adapter alone."""
    sleep: Literal["never", "keep-weights", "drop-weights"] = "never"
    """Memory that leaves the GPU while the trainer works: none, or the cache (weights moved to the
    host), or the cache and the weights. No effect on a CPU."""
    max_rebuilds: Annotated[int, NOT_NEGATIVE] = 2
    """How often in a row a failed engine is built anew before the run ends."""

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        Checked.__post_init__(self)
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
class VllmServerEngineConfig(Checked):
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
    master_port: Annotated[int, Interval(ge=1, le=65535)] = 29600
    """Free port of this machine; for nccl."""
    dtype: Precision = "auto"
    """Type in which weights are sent; auto means bf16 from a GPU and fp32 from a CPU."""
    max_connections: Annotated[int, POSITIVE] = 64
    """Most requests at one time."""
    timeout_s: Annotated[float, POSITIVE] = 600.0
    """Longest wait for one answer."""
    ready_timeout_s: Annotated[float, POSITIVE] = 300.0
    """Longest wait for the server to come up."""
    max_retries: Annotated[int, NOT_NEGATIVE] = 3
    """Repetitions of a request that got no answer, or one of the kind 5xx."""
    backoff_s: Annotated[float, NOT_NEGATIVE] = 0.5
    """Wait before the first repetition; doubled for each further one."""

    def __post_init__(self) -> None:
        """Checks ranges and the address."""
        Checked.__post_init__(self)
        require_http(url=self.url)


EngineConfig = HfEngineConfig | VllmEngineConfig | VllmServerEngineConfig
"""Engines that a run can be configured with."""
