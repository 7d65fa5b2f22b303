"""Sending a policy's weights to vLLM: what is sent, and through which backend."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from calibadv_algo.errors import EngineError
from calibadv_algo.lora import peft_model

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.vllm.backend import PolicySource

BACKEND: Final = "calibadv"
"""Name of our transfer backend in vLLM's registry."""

EXTENSION: Final = "calibadv_algo.rollout.engines.vllm.backend.WorkerExtension"
"""What vLLM's workers import, so that they know the backend."""

PREFIX: Final = "calibadv-vllm-"
"""How names of scratch files begin; the machine and the process follow."""

CHUNK_BYTES: Final = 2**30
"""Most bytes of one message, but for a single larger tensor."""

WRAPPERS: Final = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""Parts of names that torch's wrappers add."""

Weight = tuple[str, Tensor, Callable[[], Tensor]]
"""A name, a tensor of the right shape and type, and what gives its values."""


class WeightSender:
    """Sends weights to one engine, and sets everything up when the first are sent."""

    def __init__(self, client: Any, dtype: torch.dtype, make_info: Callable[[], Any]) -> None:
        """Takes one side each.

        Args:
            client: The engine, as vLLM's ``VLLMWeightSyncClient``.
            dtype: Type in which weights are sent.
            make_info: Makes the ``TrainerInitInfo`` that names the backend.
        """
        self._client, self._dtype, self._make_info = client, dtype, make_info
        self._source: PolicySource | None = None
        self._engine: Any = None

    def send(self, model: torch.nn.Module) -> None:
        """Sends all weights of a model; any error means that the engine is lost."""
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        from calibadv_algo.rollout.engines.vllm.backend import PolicySource

        if self._source is None:
            self._source = PolicySource(model, self._dtype)
        self._source.model = model
        if self._engine is None:
            self._engine = WeightTransferTrainerFactory.trainer_init(
                self._make_info(), client=self._client, source=self._source
            )
        self._engine.send_weights()

    def close(self) -> None:
        """Gives up connections."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None


class EngineClient:
    """A vLLM engine of this process or its workers, as vLLM's ``VLLMWeightSyncClient``."""

    def __init__(self, engine: Any) -> None:
        """Takes vLLM's ``LLMEngine``."""
        self._engine = engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connects the workers."""
        self._call("init_weight_transfer_engine", init_info=init_info)

    def start_weight_update(self) -> None:
        """Begins an update."""
        self._call("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Sends a part of the weights."""
        self._call("update_weights", update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Ends an update."""
        self._call("finish_weight_update")
        if weight_version is not None:
            self._engine.set_weight_version(weight_version)

    def _call(self, method: str, **kwargs: Any) -> None:
        self._engine.collective_rpc(method, kwargs=kwargs)


def init_info(
    backend: str,
    *,
    folder: str | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
    num_workers: int = 1,
    rank: int = 0,
) -> Any:
    """What the trainer's side of a backend has to know.

    Args:
        backend: ``memory``, ``file``, ``ipc`` or ``nccl``.
        folder: For ``file``.
        address: This machine as the workers see it; for ``nccl``.
        port: A free port of this machine; for ``nccl``.
        num_workers: GPUs of the engine; for ``nccl``.
        rank: Rank of this process among those that share the engine; 0 sends. Where every rank
            of a trainer has an engine of its own, each sends to its own.
    """
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=num_workers + 1, rank=rank
        )
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(packed=True, rank=0)
    from calibadv_algo.rollout.engines.vllm.backend import LocalTrainerInitInfo

    return LocalTrainerInitInfo(folder=folder if backend == "file" else None, rank=0)


def vllm_backend(transfer: str) -> str:
    """Name in vLLM's registry of the backend behind a setting of ours."""
    return transfer if transfer in ("ipc", "nccl") else BACKEND


def send_weights(
    client: Any,
    weights: Iterator[tuple[str, Tensor]],
    folder: str | None,
    version: str | None = None,
) -> None:
    """Drives a whole update of our backend.

    Args:
        client: The engine, as vLLM's ``VLLMWeightSyncClient``; None on a rank that only takes
            part in gathering the weights.
        weights: Names and tensors.
        folder: Where files go that the workers read; None sends tensors by reference.
        version: Name of these weights.
    """
    if client is not None:
        client.start_weight_update()
    for chunk in _chunks(weights):
        if client is None:
            continue
        if folder is None:
            client.update_weights({"weights": chunk})
            continue
        file = Path(folder) / f"{own_prefix()}{secrets.token_hex(8)}.safetensors"
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in chunk}, file)
            client.update_weights({"path": str(file)})
        finally:
            file.unlink(missing_ok=True)
    if client is not None:
        client.finish_weight_update(version)


def own_prefix() -> str:
    """How names of this process's scratch files begin."""
    return f"{PREFIX}{socket.gethostname()}-{os.getpid()}-"


def remove_leftovers(folder: Path) -> None:
    """Removes scratch files of processes of this machine that were killed."""
    start = f"{PREFIX}{socket.gethostname()}-"
    for path in folder.glob(f"{glob.escape(start)}*"):
        number = path.name.removeprefix(start).partition("-")[0]
        if not number.isdigit() or Path(f"/proc/{number}").exists():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def whole_weights(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors in the type that is sent; a collective if the model is sharded."""
    with torch.no_grad():
        for name, tensor, complete in named_weights(model):
            yield name, complete().to(dtype if tensor.is_floating_point() else tensor.dtype)


def _chunks(weights: Iterator[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Puts weights together into messages of limited size."""
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += tensor.nbytes
    if chunk:
        yield chunk


def unwrap(model: torch.nn.Module) -> Any:
    """The model inside torch's and accelerate's wrappers; the peft model of one with adapters."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module  # type: ignore[assignment]
    inner = getattr(model, "_orig_mod", model)
    return peft_model(inner) or inner


def base_model(model: torch.nn.Module) -> Any:
    """The Hugging Face model inside wrappers and adapters."""
    inner = unwrap(model)
    return inner.get_base_model() if getattr(inner, "peft_config", None) else inner


def named_weights(model: torch.nn.Module) -> Iterator[Weight]:
    """The weights of a causal model under the names of its checkpoint, tied ones once.

    LoRA adapters of peft are added to the weights that they belong to. Nothing is computed or
    gathered before a weight's values are asked for.

    Raises:
        EngineError: for adapters of another kind.
    """
    inner = unwrap(model)
    if getattr(inner, "peft_config", None):
        yield from _merged_weights(inner)
        return
    for name, parameter in inner.named_parameters():
        yield _plain_name(name), parameter, lambda p=parameter: _whole(p)  # type: ignore[misc]


def _merged_weights(model: Any) -> Iterator[Weight]:
    """Weights of a peft model with its active adapters added."""
    for config in model.peft_config.values():
        if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA" or config.use_dora:
            raise EngineError(
                f"only plain LoRA adapters can be sent to vLLM, got {config.peft_type}"
                f"{' with DoRA' if getattr(config, 'use_dora', False) else ''}"
            )
    base = model.get_base_model()
    modules = dict(base.named_modules())
    active = list(model.active_adapters)
    for name, parameter in base.named_parameters():
        if ".lora_" in name or ".original_module." in name:
            continue
        if ".modules_to_save." in name:
            head, _, tail = name.partition(".modules_to_save.")
            adapter, _, last = tail.partition(".")
            if adapter in active:
                yield _plain_name(f"{head}.{last}"), parameter, lambda p=parameter: _whole(p)  # type: ignore[misc]
            continue
        head, _, tail = name.partition(".base_layer.")
        layer = modules[head] if tail == "weight" else None
        full = _plain_name(f"{head}.{tail}" if tail else name)
        yield full, parameter, lambda p=parameter, m=layer: _add_adapters(p, m, active)  # type: ignore[misc]


def _add_adapters(parameter: Tensor, layer: Any, active: list[str]) -> Tensor:
    """A weight plus what the adapters of its layer add to it."""
    weight = _whole(parameter)
    for adapter in active if layer is not None else ():
        if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
            weight = weight + _whole(layer.get_delta_weight(adapter)).to(weight)
    return weight


def _whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards; a collective if it has some."""
    full = getattr(tensor, "full_tensor", None)
    return (full() if callable(full) else tensor).detach()


def _plain_name(name: str) -> str:
    for part in WRAPPERS:
        name = name.replace(part, "")
    return name


class BareModel(torch.nn.Module):
    """The model below a peft model's adapters, under its own names and without them."""

    def __init__(self, model: Any) -> None:
        """Takes a peft model."""
        super().__init__()
        self.__dict__["_peft"] = model

    def named_parameters(self, *_args: Any, **_kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Names and weights, those of adapters left out."""
        for name, parameter in self.__dict__["_peft"].get_base_model().named_parameters():
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), parameter
