"""A weight-transfer backend of vLLM for machines without NCCL: by reference, or through a file.

vLLM's own backends need CUDA. This one speaks the same API on any device, so a training run on a
CPU goes through the same calls as one on a GPU. vLLM imports this module, in the process of each
worker, because the engine names :class:`WorkerExtension`; the import registers the backend. In the
trainer's process it is imported once an engine is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (  # noqa: TID253 (only vLLM's users come here)
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (  # noqa: TID253
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (  # noqa: TID253
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload.layerwise import (  # noqa: TID253
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)

from calibadv_algo.rollout.engines.vllm.versions import is_finished_last
from calibadv_algo.rollout.engines.vllm.weights import (
    BACKEND,
    named_weights,
    send_weights,
    whole_weights,
)


class WorkerExtension:
    """Named by engines so that their workers import this module."""


@dataclass
class LocalInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing has to be agreed on."""


@dataclass
class LocalUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Weights by reference, or the file that holds them.

    Attributes:
        weights: Names and tensors.
        path: A safetensors file that the worker can read.
    """

    weights: list[tuple[str, Tensor]] | None = None
    path: str | None = None


class LocalWeightTransferEngine(WeightTransferEngine[LocalInitInfo, LocalUpdateInfo]):  # type: ignore[misc]
    """The worker's side: loads what it is given and insists that nothing was left out."""

    init_info_cls = LocalInitInfo
    update_info_cls = LocalUpdateInfo

    def init_transfer_engine(self, init_info: LocalInitInfo) -> None:
        """Does nothing."""

    def start_weight_update(self) -> None:
        """Makes the model ready to be loaded again."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: LocalUpdateInfo) -> None:
        """Loads some of the weights, named as in the Hugging Face model."""
        weights = update_info.weights
        if weights is None:
            weights = list(_read(Path(str(update_info.path))))
        self.model.load_weights(weights)

    def finish_weight_update(self) -> None:
        """Puts the weights to use.

        An output layer that is tied to the embedding is not loaded by itself. On a CPU vLLM keeps
        it in packed form, and its own reloading leaves that at the old values; so it is packed
        again here.

        Raises:
            RuntimeError: if weights were not sent: they would keep their old values unnoticed.
        """
        heads = self._tied_heads()
        missing = [name for name in self._incomplete() if name not in heads]
        if missing:
            raise RuntimeError(f"weights were not sent: {missing}")
        finalize_layerwise_reload(self.model, self.model_config)
        for head in heads.values():
            head.quant_method.process_weights_after_loading(head)

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Has no use: the trainer's side is :class:`LocalTrainerEngine` (vLLM 0.26 demands it)."""
        raise NotImplementedError

    def _incomplete(self) -> list[str]:
        """Layers that still wait for some of their weights.

        Embeddings are padded to a round number of tokens, so theirs are never complete.
        """
        names = []
        for name, layer in self.model.named_modules():
            info = get_layerwise_info(layer)
            is_padded = isinstance(layer, VocabParallelEmbedding) and info.load_numel > 0
            if not info.can_load() or is_padded or is_finished_last(layer):
                continue
            if any(True for _ in layer.parameters(recurse=False)):
                names.append(name)
        return names

    def _tied_heads(self) -> dict[str, Any]:
        """Output layers that share the embedding's weights, by name."""
        config = self.model_config.hf_config.get_text_config()
        if not getattr(config, "tie_word_embeddings", False):
            return {}
        modules = self.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, ParallelLMHead)}

    def shutdown(self) -> None:
        """Does nothing."""


@dataclass
class LocalTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc]
    """Settings of the trainer's side.

    Attributes:
        folder: Where files go that the workers read; None sends tensors by reference.
    """

    backend: ClassVar[str] = BACKEND

    folder: str | None = None


class LocalTrainerEngine(TrainerWeightTransferEngine):  # type: ignore[misc]
    """The trainer's side."""

    init_info_cls = LocalTrainerInitInfo
    folder: str | None = None

    @classmethod
    def trainer_init(
        cls,
        init_info: LocalTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
        config: Any = None,
    ) -> Self:
        """Connects a source of weights with the engine behind a client.

        Args:
            init_info: Settings of this side.
            client: The engine.
            source: The weights.
            config: vLLM's settings of the backend, which version 0.26 hands on.
        """
        if source is None:
            raise ValueError("source must be given, got None")
        given = {} if config is None else {"config": config}
        engine = cls(**given, client=client, source=source, is_sender=init_info.is_sender)
        engine.folder = init_info.folder
        if engine.is_sender:
            client.init_weight_transfer_engine({})
        return engine

    def send_weights(self) -> None:
        """Sends everything; every rank of the trainer calls this, the first one sends."""
        assert self.source is not None
        send_weights(self.client if self.is_sender else None, iter(self.source), self.folder)


class PolicySource(WeightSource):  # type: ignore[misc]
    """A policy's weights under Hugging Face names, LoRA merged, in the type that is sent.

    Attributes:
        model: The policy; may be replaced between updates.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        """Serves the weights of ``model`` in the type ``dtype``."""
        self.model = model
        self._dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        """Names, types and shapes, in the order of iteration."""
        return [
            ParamMeta(name, self._type(tensor), tuple(tensor.shape))
            for name, tensor, _ in named_weights(self.model)
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors; a collective if the model is sharded."""
        return whole_weights(self.model, self._dtype)

    def _type(self, tensor: Tensor) -> torch.dtype:
        return self._dtype if tensor.is_floating_point() else tensor.dtype


def register() -> None:
    """Makes the backend known to vLLM in this process; again does nothing."""
    registry: Any = WeightTransferEngineFactory._registry
    if BACKEND not in registry:
        WeightTransferEngineFactory.register_engine(BACKEND, LocalWeightTransferEngine)
        WeightTransferTrainerFactory.register_engine(BACKEND, LocalTrainerEngine)


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            yield name, file.get_tensor(name)


register()
