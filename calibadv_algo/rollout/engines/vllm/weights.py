"""A policy's weights as they are sent to vLLM: names, whole tensors, messages, scratch files."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from calibadv_algo.errors import EngineError
from calibadv_algo.lora import peft_model

BACKEND: Final = "calibadv"
"""Name of our transfer backend in vLLM's registry."""


EXTENSION: Final = "calibadv_algo.rollout.engines.vllm.backend.WorkerExtension"
"""Class that vLLM's workers import, so that they know the backend."""


PREFIX: Final = "calibadv-vllm-"
"""How names of scratch files begin; the machine and the process follow."""


CHUNK_BYTES: Final = 2**30
"""Most bytes of one message, but for a single larger tensor."""


WRAPPERS: Final = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""Parts of names that torch's wrappers add."""


Weight = tuple[str, Tensor, Callable[[], Tensor]]
"""A name, a tensor of the right shape and type, and what gives its values."""


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
        """Wraps a peft model."""
        super().__init__()
        self.__dict__["_peft"] = model

    def named_parameters(self, *_args: Any, **_kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Names and weights, those of adapters left out."""
        for name, parameter in self.__dict__["_peft"].get_base_model().named_parameters():
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), parameter
