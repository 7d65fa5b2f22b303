"""Seconds of the phases of one update, at one pace."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from calibadv_algo.experiments.planning.devices import Device, Pace
from calibadv_algo.experiments.planning.shapes import BF16, ModelShape
from calibadv_algo.experiments.planning.workload import Workload

_ADAMW_BYTES: Final = 28
"""fp32 weight, gradient and two averages are read, all but the gradient are written."""
_STATE_BYTES: Final = 12
"""fp32 weight and two averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who works where; trainer and engines take turns on all accelerators.

    Attributes:
        device: The accelerator.
        num_devices: All of them.
        link: Bandwidth of the slowest link between two of them, bytes a second.
        tensor_parallel: Accelerators of one engine.
        cache_tokens: Tokens that one engine can hold.
        micro_batch_tokens: Tokens of a forward and backward pass on a rank.
        fits_together: True if the trainer's states can stay while engines work.
    """

    device: Device
    num_devices: int
    link: float
    tensor_parallel: int
    cache_tokens: int
    micro_batch_tokens: int
    fits_together: bool

    @property
    def num_engines(self) -> int:
        """Engines that work at a time."""
        return self.num_devices // self.tensor_parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTimes:
    """Seconds of the phases of one update.

    Attributes:
        prefill: Prompts and observations are read, each token once (prefix cache).
        decode: Tokens are sampled while the engines are full.
        tail: The longest episodes go on alone, with their searches.
        old_logprobs: Log-probabilities before the update.
        ref_logprobs: Those of the reference model.
        train: Forward and backward passes.
        gathers: Sharded weights and gradients that computation waits for.
        optimizer: Steps of AdamW.
        sync: Weights go to the engines.
        moves: Trainer's states leave and return, engines sleep and wake.
        host: Rewards, packing, logging.
    """

    prefill: float
    decode: float
    tail: float
    old_logprobs: float
    ref_logprobs: float
    train: float
    gathers: float
    optimizer: float
    sync: float
    moves: float
    host: float

    @property
    def total(self) -> float:
        """Sum, in seconds."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    @property
    def rollout(self) -> float:
        """Seconds of sampling: what can run beside the update of the batch before."""
        return self.prefill + self.decode + self.tail

    @property
    def waiting(self) -> float:
        """Seconds in which accelerators idle, though there is work: tail, moves and host."""
        return self.tail + self.moves + self.host


def update_times(model: ModelShape, layout: Layout, work: Workload, pace: Pace) -> UpdateTimes:
    """Counts the seconds of one update.

    Args:
        model: The model.
        layout: Where it runs.
        work: The update.
        pace: Shares of the peaks that are reached.

    Returns:
        The seconds.

    Raises:
        ValueError: if not one episode fits into an engine's cache.
    """
    flops = layout.device.flops * layout.num_devices
    forward = model.forward_flops(0.5 * work.tokens_per_episode)
    passes = forward * work.num_tokens / flops
    old = passes / pace.forward_mfu if work.old_logprobs else 0.0
    reference = passes / pace.forward_mfu if work.reference else 0.0
    train = 3 * passes / pace.train_mfu
    observed = work.searches * work.observation_tokens
    read_once = work.num_episodes * (work.prompt_tokens / work.group_size + observed)
    shard = model.num_parameters / layout.num_devices
    memory_rate = layout.device.bandwidth * pace.bandwidth
    phases = {
        "prefill": forward * read_once / (flops * pace.prefill),
        "decode": decode_s(model, layout, work, pace),
        "tail": _tail(model, layout, work, pace),
        "old_logprobs": old,
        "ref_logprobs": reference,
        "train": train,
        "gathers": _gathers(model, layout, work, pace, computing=old + reference + train),
        "optimizer": work.minibatches * _ADAMW_BYTES * shard / memory_rate,
        "sync": BF16 * model.num_parameters / (layout.link * pace.link),
        "moves": _moves(layout, pace, shard),
    }
    return UpdateTimes(**phases, host=pace.host * sum(phases.values()))


def decode_s(model: ModelShape, layout: Layout, work: Workload, pace: Pace) -> float:
    """Seconds of sampling with full engines.

    A step of an engine reads its weights once and the keys and values of every episode that it
    runs, or computes with every weight for each, whichever takes longer; and its own overhead.
    """
    length = work.tokens_per_episode
    fitting = int(layout.cache_tokens // length)
    if fitting < 1:
        raise ValueError(
            f"an engine must hold an episode of {length:.0f} tokens, but its cache has room for "
            f"{layout.cache_tokens}: plan with more devices, or shorter episodes"
        )
    batch = min(fitting, max(1.0, work.num_episodes / layout.num_engines))
    read = BF16 * model.num_parameters + batch * 0.5 * length * model.kv_bytes_per_token
    rate = layout.tensor_parallel * layout.device.bandwidth * pace.bandwidth
    peak = layout.tensor_parallel * layout.device.flops * pace.prefill
    step = max(read / rate, batch * model.forward_flops(0.5 * length) / peak)
    sampled = work.num_episodes * work.sampled_per_episode
    steps = sampled / min(work.num_episodes, layout.num_engines * batch)
    return steps * (step + pace.step_overhead_s)


def _tail(model: ModelShape, layout: Layout, work: Workload, pace: Pace) -> float:
    """Seconds in which the longest episode is still sampled after the mean one has ended."""
    rate = layout.tensor_parallel * layout.device.bandwidth * pace.bandwidth
    lone_step = BF16 * model.num_parameters / rate + pace.step_overhead_s
    late = max(0.0, work.longest_sampled(pace.tail) - work.sampled_per_episode)
    return late * lone_step + work.max_searches * work.search_s


def _gathers(
    model: ModelShape, layout: Layout, work: Workload, pace: Pace, *, computing: float
) -> float:
    """Seconds in which computation waits for sharded weights or gradients.

    Every pass over a micro-batch gathers all weights in bf16; a backward pass gathers them again
    and scatters the gradients.
    """
    if layout.num_devices == 1:
        return 0.0
    micro_batches = work.num_tokens / layout.num_devices / layout.micro_batch_tokens
    passes = 3 + work.old_logprobs + work.reference
    moved = micro_batches * passes * BF16 * model.num_parameters
    seconds = moved / (layout.link * pace.link)
    return max(0.0, seconds - pace.hiding * computing)


def _moves(layout: Layout, pace: Pace, shard: float) -> float:
    """Seconds in which states leave the accelerator and return, and engines sleep and wake."""
    if layout.fits_together and not pace.always_moves:
        return pace.pause_s
    return pace.pause_s + 2 * _STATE_BYTES * shard / (layout.device.host_link * pace.link)
