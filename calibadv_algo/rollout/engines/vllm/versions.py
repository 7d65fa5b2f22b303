"""What differs between the versions of vLLM that the engine works with; everything else is alike.

| vLLM | how weights are sent | version of the weights |
| --- | --- | --- |
| 0.26 | our backend alone: ``memory``, ``file``; adapters merged alone | not stamped on turns |
| 0.27 | vLLM's own too: ``ipc``, ``nccl``; adapters by themselves | stamped on turns |
| 0.28 to 0.33 | the same; layers say themselves that they are finished last | the same |

Tried on CPU builds: 0.26 (torch 2.11) and 0.32 (torch 2.13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calibadv_algo.rollout.engines.vllm.weights import BACKEND

if TYPE_CHECKING:
    import torch


def make_trainer_engine(info: Any, client: Any, source: Any) -> Any:
    """Connects a source of weights with an engine: the trainer's side of a transfer backend.

    Args:
        info: vLLM's ``TrainerInitInfo`` of the backend.
        client: vLLM's ``VLLMWeightSyncClient``.
        source: vLLM's ``WeightSource``.
    """
    from vllm.config import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    make = WeightTransferTrainerFactory.trainer_init
    if has_trainer_backends():
        return make(info, client=client, source=source)
    config = WeightTransferConfig(backend=BACKEND)
    return make(BACKEND, config, info, client=client, source=source)


def has_trainer_backends() -> bool:
    """Tells if vLLM has the trainer's side of its own backends, ``ipc`` and ``nccl``."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    return "ipc" in WeightTransferTrainerFactory._registry


def check_settings(transfer: str, lora: str) -> None:
    """Refuses settings that the vLLM that is installed cannot follow.

    Args:
        transfer: How weights are sent.
        lora: How a policy with adapters is sent.

    Raises:
        ValueError: naming what will do.
    """
    if has_trainer_backends():
        return
    import vllm

    needs = f"needs vLLM 0.27 or later, this is {vllm.__version__}"
    if transfer in ("ipc", "nccl"):
        raise ValueError(
            f"transfer must be memory (with workers in-process) or file: {transfer} {needs}"
        )
    if lora == "adapter":
        raise ValueError(f"lora must be merged: adapter {needs}")


def stamp_weights(engine: Any, version: int | str) -> None:
    """Tells an ``LLMEngine`` the version of its weights, which it stamps on turns from 0.27 on."""
    stamp = getattr(engine, "set_weight_version", None)
    if stamp is not None:
        stamp(str(version))


def stamps(turn: Any) -> set[str]:
    """Versions of the weights that a turn was sampled from; none where vLLM stamps nothing."""
    return {span.version for span in getattr(turn, "weight_versions", None) or ()}


def is_finished_last(layer: torch.nn.Module) -> bool:
    """Tells if a layer is one of attention, which vLLM finishes after all others."""
    from vllm.model_executor.layers import attention

    if hasattr(attention, "is_deferred_attention_layer"):
        return bool(attention.is_deferred_attention_layer(layer))
    return isinstance(layer, (attention.Attention, attention.MLAAttention))
