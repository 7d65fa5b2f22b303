"""Starting vLLM in a trainer's process: imports, environment, arguments, and cleaning up."""

from __future__ import annotations

import gc
import multiprocessing.connection
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from calibadv_algo.rollout.engines.vllm.weights import EXTENSION, unwrap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.config import Precision, VllmEngineConfig

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_BATCHED_TOKENS: Final = 8192
MAX_CPU_CACHE_BYTES: Final = 4 * 2**30
MIN_CPU_CACHE_BYTES: Final = 64 * 2**20
CPU_BLOCK_SIZE: Final = 32

LAUNCHER_VARIABLES: Final = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Environment variables of processes that train together, set by torchrun and accelerate."""


def import_vllm() -> None:
    """Imports vLLM, with nothing reported to anybody.

    Raises:
        ImportError: naming the extra.
    """
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the vLLM engine needs vLLM: pip install 'calibadv[vllm]' on a GPU machine, "
            f"docs/vllm.md for a CPU ({error})"
        ) from error


def is_cpu() -> bool:
    """Tells if the vLLM that is installed computes on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def check_process(config: VllmEngineConfig) -> None:
    """Refuses what vLLM cannot do in a process of a distributed trainer.

    Raises:
        ValueError: if vLLM would take the trainer's process group for its own.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return
    if config.workers == "in-process" and distributed.get_world_size() > 1:
        raise ValueError(
            "workers must be separate if several processes train together, got in-process"
        )


def adapter_rank(model: torch.nn.Module) -> int:
    """Largest rank of a peft model's adapters as vLLM allows it, 16 without adapters."""
    configs = getattr(unwrap(model), "peft_config", None) or {}
    rank = max((int(config.r) for config in configs.values()), default=16)
    return next(allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank)


def engine_dtype(precision: Precision) -> torch.dtype:
    """The type behind a setting; ``auto`` is bf16 on a GPU and fp32 on a CPU."""
    name = precision if precision != "auto" else ("fp32" if is_cpu() else "bf16")
    return DTYPES[name]


def engine_arguments(
    config: VllmEngineConfig, model: Any, folder: Path, max_context: int, max_slots: int
) -> dict[str, Any]:
    """Arguments of vLLM's engine.

    Args:
        config: The settings.
        model: The Hugging Face model, for its shape.
        folder: Where its shape and its tokenizer are written.
        max_context: Longest context in tokens.
        max_slots: Most episodes at one time, if the settings do not say.
    """
    on_cpu, dtype = is_cpu(), engine_dtype(config.dtype)
    num_seqs = config.max_num_seqs or max_slots
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "load_format": "dummy",
        "generation_config": "vllm",
        "max_model_len": max_context,
        "max_num_seqs": num_seqs,
        "max_num_batched_tokens": config.max_batched_tokens or max(max_context, MIN_BATCHED_TOKENS),
        "enable_prefix_caching": True,
        "enforce_eager": config.execution == "eager" or (config.execution == "auto" and on_cpu),
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "kv_cache_memory_bytes": config.kv_cache_bytes,
        "block_size": config.block_size,
        "worker_extension_cls": EXTENSION,
        "enable_sleep_mode": config.sleep != "never" and not on_cpu,
        "disable_log_stats": True,
    }
    if on_cpu:
        arguments |= cpu_arguments(config, cache_bytes(model, max_context * num_seqs, dtype))
    return {key: value for key, value in arguments.items() if value is not None}


def cpu_arguments(config: VllmEngineConfig, wanted_bytes: int) -> dict[str, Any]:
    """Arguments that differ on a CPU.

    vLLM's chunked prefill cannot take back a random number of a CPU generator, and so fails with
    seeds of single requests; and its default cache would fill the machine.

    Args:
        config: The settings.
        wanted_bytes: What all episodes need at full length.
    """
    return {
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": config.kv_cache_bytes
        or min(max(wanted_bytes, MIN_CPU_CACHE_BYTES), MAX_CPU_CACHE_BYTES),
        "block_size": config.block_size or CPU_BLOCK_SIZE,
    }


def write_shape(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes what describes a model, without its weights."""
    model_config = type(model.config).from_dict(model.config.to_dict())
    model_config.architectures = [type(model).__name__]
    model_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cache_bytes(model: Any, num_tokens: int, dtype: torch.dtype) -> int:
    """Memory for the keys and values of some tokens."""
    config = model.config.get_text_config()
    num_heads = int(config.num_attention_heads)
    num_kv_heads = int(getattr(config, "num_key_value_heads", None) or num_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // num_heads)
    return 2 * int(config.num_hidden_layers) * num_kv_heads * head_dim * dtype.itemsize * num_tokens


def scratch_dir(config: VllmEngineConfig) -> Path:
    """Where small files go: the transfer folder if it is there, else the system's."""
    wanted = Path(config.transfer_dir)
    return wanted if wanted.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def environment(config: VllmEngineConfig) -> Iterator[None]:
    """Sets what vLLM reads from the environment while an engine starts.

    What a launcher of several trainers has set is hidden from workers: they are no part of it.
    """
    is_separate = config.workers == "separate"
    values: dict[str, str | None] = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if is_separate else "0",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    }
    if is_separate:
        values |= dict.fromkeys(LAUNCHER_VARIABLES)
    if config.chosen_transfer(is_cpu()) == "ipc":
        values["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        if config.tensor_parallel_size == 1:
            values["CUDA_VISIBLE_DEVICES"] = own_device()
    before = {name: os.environ.get(name) for name in values}
    set_environment(values)
    try:
        yield
    finally:
        set_environment(before)


def set_environment(values: dict[str, str | None]) -> None:
    """Sets environment variables; None unsets one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def own_device() -> str:
    """This process's GPU, as ``CUDA_VISIBLE_DEVICES`` names it."""
    index = torch.cuda.current_device()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[index] if visible else str(index)


def mend_kernel_scan() -> None:
    """Lets vLLM start in a process that has loaded llvmlite, as bm25s and numba do.

    On a CPU vLLM looks for its kernels in the objects of all modules and expects every
    ``__dict__`` to be a dict; that of llvmlite's functions is another function. Version 0.26 does
    not look.
    """
    try:
        from vllm.triton_utils import dispatcher
    except ImportError:
        return

    def plain_vars(value: Any) -> dict[str, Any]:
        found = vars(value)
        return found if isinstance(found, dict) else {}

    dispatcher.vars = plain_vars


def watch_workers(engine: Any) -> None:
    """Lets calls fail once vLLM's process has died; vLLM itself would wait for it forever.

    Args:
        engine: vLLM's ``LLMEngine`` with a process of its own.
    """
    core = engine.engine_core
    sentinels = [process.sentinel for process in core.resources.engine_manager.processes]

    def wait() -> None:
        multiprocessing.connection.wait(sentinels)
        core.resources.engine_dead = True
        error = RuntimeError("the process of vLLM has ended")
        for future in list(core.utility_results.values()):
            if not future.done():
                future.set_exception(error)
        core.outputs_queue.put_nowait(error)

    threading.Thread(target=wait, name="calibadv-vllm-watch", daemon=True).start()


def clean_up() -> None:
    """Frees what vLLM keeps in this process, so that another engine can start in it."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()
