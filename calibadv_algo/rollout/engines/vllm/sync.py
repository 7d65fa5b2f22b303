"""Senders of weights to vLLM engines, and the choice of the transfer backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from calibadv_algo.rollout.engines.vllm.versions import make_trainer_engine, stamp_weights
from calibadv_algo.rollout.engines.vllm.weights import BACKEND

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.vllm.backend import PolicySource


class WeightSender:
    """Sends weights to one engine, and sets everything up when the first are sent."""

    def __init__(self, client: Any, dtype: torch.dtype, make_info: Callable[[], Any]) -> None:
        """Connects nothing yet.

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
        from calibadv_algo.rollout.engines.vllm.backend import PolicySource

        if self._source is None:
            self._source = PolicySource(model, self._dtype)
        self._source.model = model
        if self._engine is None:
            self._engine = make_trainer_engine(self._make_info(), self._client, self._source)
        self._engine.send_weights()

    def close(self) -> None:
        """Closes connections."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None


class EngineClient:
    """A vLLM engine of this process or its workers, as vLLM's ``VLLMWeightSyncClient``."""

    def __init__(self, engine: Any) -> None:
        """Wraps vLLM's ``LLMEngine``."""
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
            stamp_weights(self._engine, weight_version)

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
    """Settings of the trainer's side of a backend.

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
