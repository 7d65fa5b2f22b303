"""The plan of a run: what fits where, and how long an update takes between two ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from calibadv_algo.experiments.planning.devices import GIB, NETWORK, Device, paces
from calibadv_algo.experiments.planning.memory import (
    MIN_EPISODES,
    TrainerMemory,
    engine_cache_tokens,
    largest_micro_batch,
    trainer_memory,
)
from calibadv_algo.experiments.planning.shapes import ModelShape
from calibadv_algo.experiments.planning.times import Layout, UpdateTimes, decode_s, update_times
from calibadv_algo.experiments.planning.workload import Workload

_MAX_DEVICES: Final = 4096
_ENGINE_SIZES: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run on paper.

    Attributes:
        model: The model.
        work: One update.
        layout: Where it runs.
        memory: One rank of the trainer.
        fast: Seconds of an update that goes well.
        slow: Seconds of one that does not.
    """

    model: ModelShape
    work: Workload
    layout: Layout
    memory: TrainerMemory
    fast: UpdateTimes
    slow: UpdateTimes

    @property
    def tokens_per_device(self) -> tuple[float, float]:
        """Tokens a second and accelerator over a whole update, slow and fast end."""
        per_device = self.work.num_tokens / self.layout.num_devices
        return per_device / self.slow.total, per_device / self.fast.total

    @property
    def overlapped(self) -> tuple[float, float]:
        """Seconds of an update one step off-policy: what need not be waited for is left out."""
        return self.fast.total - self.fast.waiting, self.slow.total - self.slow.waiting


def make_plan(
    model: ModelShape,
    device: Device,
    work: Workload,
    *,
    num_devices: int,
    devices_per_machine: int = 8,
) -> Plan:
    """Plans a run in which trainer and engines take turns on all accelerators.

    Args:
        model: The model.
        device: The accelerator.
        work: One update.
        num_devices: All accelerators.
        devices_per_machine: Those that one machine holds.

    Raises:
        ValueError: if the trainer or an engine does not fit; it says from how many on they do.
    """
    layout = _layout(model, device, work, num_devices, devices_per_machine)
    if layout is None:
        raise ValueError(_too_few(model, device, work, num_devices, devices_per_machine))
    memory = trainer_memory(
        model,
        num_devices=num_devices,
        micro_batch_tokens=layout.micro_batch_tokens,
        has_reference=work.reference,
    )
    fast, slow = (update_times(model, layout, work, pace) for pace in paces(model, device))
    return Plan(model=model, work=work, layout=layout, memory=memory, fast=fast, slow=slow)


def _layout(
    model: ModelShape, device: Device, work: Workload, num_devices: int, per_machine: int
) -> Layout | None:
    """Micro-batch and engines that fit; None if nothing does."""
    micro_batch = largest_micro_batch(
        model, device, num_devices=num_devices, has_reference=work.reference
    )
    if micro_batch is None:
        return None
    states = trainer_memory(
        model,
        num_devices=num_devices,
        micro_batch_tokens=micro_batch,
        has_reference=work.reference,
    ).states
    needed = MIN_EPISODES * work.tokens_per_episode
    fast, _ = paces(model, device)
    for resident in (states, 0.0):
        layouts = [
            Layout(
                device=device,
                num_devices=num_devices,
                link=device.link if num_devices <= per_machine else min(device.link, NETWORK),
                tensor_parallel=size,
                cache_tokens=cache,
                micro_batch_tokens=micro_batch,
                fits_together=resident > 0,
            )
            for size in _ENGINE_SIZES
            if size <= per_machine and num_devices % size == 0
            for cache in [
                engine_cache_tokens(model, device, tensor_parallel=size, resident_gib=resident)
            ]
            if cache >= needed
        ]
        for layout in layouts:
            if layout.cache_tokens * layout.num_engines >= work.num_tokens:
                return layout  # the fewest accelerators an engine: more cost reductions
        if layouts:
            return min(layouts, key=lambda layout: decode_s(model, layout, work, fast))
    return None


def _too_few(
    model: ModelShape, device: Device, work: Workload, num_devices: int, per_machine: int
) -> str:
    enough = num_devices
    while enough < _MAX_DEVICES and not _layout(model, device, work, enough, per_machine):
        enough *= 2
    states = model.num_parameters * 16 / num_devices / GIB
    advice = (
        f"it fits from {enough} on"
        if enough < _MAX_DEVICES
        else "it fits on no number of them; adapters (--lora) would"
    )
    return (
        f"{model.name} does not fit on {num_devices} x {device.name} ({device.memory_gib:.0f} GiB "
        f"each): weights, gradients and optimiser alone take {states:.0f} GiB a device; {advice}"
    )
