"""Memory of trainer and engine on one accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from calibadv_algo.experiments.planning.devices import GIB, Device
from calibadv_algo.experiments.planning.shapes import BF16, ModelShape

_FP32: Final = 4
USABLE: Final = 0.9
"""Share of the memory that can be planned with; the rest is the driver's and fragments."""
MICRO_BATCHES: Final = (16384, 8192, 4096, 2048, 1024)
"""Tokens of a forward and backward pass, the largest that fits is taken."""
LOGIT_CHUNK: Final = 1024
"""Tokens whose logits are held at once."""
MIN_EPISODES: Final = 16
"""Episodes that an engine has to hold at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerMemory:
    """Memory of one rank of a fully sharded trainer, in GiB.

    Attributes:
        weights: Its shard of the fp32 weights.
        gradients: Its shard of the fp32 gradients.
        optimizer: Its shard of AdamW's two fp32 averages.
        reference: Its shard of a frozen copy in bf16, where there is a reference model.
        gathered: Two blocks and the output matrix in bf16, gathered from all ranks.
        activations: Inputs of all blocks in bf16, and one block's inside, for a micro-batch.
        logits: fp32 logits and their gradient of a chunk of tokens.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    gathered: float
    activations: float
    logits: float

    @property
    def states(self) -> float:
        """What stays between updates, in GiB; gradients are made anew."""
        return self.weights + self.optimizer + self.reference

    @property
    def total(self) -> float:
        """Sum, in GiB."""
        passing = self.gradients + self.gathered + self.activations + self.logits
        return self.states + passing


def trainer_memory(
    model: ModelShape, *, num_devices: int, micro_batch_tokens: int, has_reference: bool = False
) -> TrainerMemory:
    """Counts the memory of one rank under full sharding with activation checkpointing.

    Args:
        model: The model.
        num_devices: Ranks among which weights, gradients and optimiser are split.
        micro_batch_tokens: Tokens of one forward and backward pass on a rank.
        has_reference: True if a frozen copy stands beside.

    Returns:
        The memory. Inside a block 34 bytes a token and hidden unit are held (Korthikanti et al.,
        arXiv 2205.05198, table 2, without the attention matrix, which flash attention avoids).
    """
    shard = model.num_parameters / num_devices / GIB
    inputs = micro_batch_tokens * model.hidden_size * BF16 * model.num_layers
    inside = 34 * micro_batch_tokens * model.hidden_size
    gathered = BF16 * (2 * model.block_parameters + model.output_parameters) / GIB
    chunk = min(LOGIT_CHUNK, micro_batch_tokens)
    return TrainerMemory(
        weights=_FP32 * shard,
        gradients=_FP32 * shard,
        optimizer=2 * _FP32 * shard,
        reference=BF16 * shard if has_reference else 0.0,
        gathered=gathered,
        activations=(inputs + inside) / GIB,
        logits=2 * _FP32 * chunk * model.vocab_size / GIB,
    )


def largest_micro_batch(
    model: ModelShape, device: Device, *, num_devices: int, has_reference: bool
) -> int | None:
    """The largest micro-batch whose trainer fits, the engine being asleep; None if none does."""
    for tokens in MICRO_BATCHES:
        memory = trainer_memory(
            model,
            num_devices=num_devices,
            micro_batch_tokens=tokens,
            has_reference=has_reference,
        )
        if memory.total <= USABLE * device.memory_gib:
            return tokens
    return None


def engine_cache_tokens(
    model: ModelShape, device: Device, *, tensor_parallel: int, resident_gib: float
) -> int:
    """Tokens whose keys and values fit beside the weights of one engine.

    Args:
        model: The model, in bf16.
        device: The accelerator.
        tensor_parallel: Accelerators of one engine.
        resident_gib: What the trainer leaves on each of them meanwhile.

    Returns:
        Tokens, 0 if not even the weights fit.
    """
    free = tensor_parallel * (USABLE * device.memory_gib - resident_gib) * GIB
    return max(0, int((free - BF16 * model.num_parameters) / model.kv_bytes_per_token))
