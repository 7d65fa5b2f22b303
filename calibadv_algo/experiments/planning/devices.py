"""Accelerators by name, and how much of them a run of reinforcement learning reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from calibadv_algo.experiments.planning.shapes import ModelShape

GIB: Final = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator, by its maker's data sheet.

    Attributes:
        name: Its name.
        memory_gib: Memory.
        flops: Peak of dense bf16 with sums in fp32, operations a second.
        bandwidth: Memory bandwidth, bytes a second.
        link: Bandwidth to the others of its machine in one direction, bytes a second.
        host_link: Bandwidth to the machine's own memory, bytes a second.
    """

    name: str
    memory_gib: float
    flops: float
    bandwidth: float
    link: float
    host_link: float


_PCIE_4: Final = 32e9
_PCIE_5: Final = 64e9
DEVICES: Final[Mapping[str, Device]] = {
    "h100": Device(
        name="H100 SXM",
        memory_gib=74.5,
        flops=989e12,
        bandwidth=3.35e12,
        link=450e9,
        host_link=_PCIE_5,
    ),
    "h200": Device(
        name="H200 SXM",
        memory_gib=131.0,
        flops=989e12,
        bandwidth=4.8e12,
        link=450e9,
        host_link=_PCIE_5,
    ),
    "a100": Device(
        name="A100 80GB SXM",
        memory_gib=74.5,
        flops=312e12,
        bandwidth=2.04e12,
        link=300e9,
        host_link=_PCIE_4,
    ),
    "l40s": Device(
        name="L40S",
        memory_gib=44.7,
        flops=362e12,
        bandwidth=0.864e12,
        link=_PCIE_4,
        host_link=_PCIE_4,
    ),
    "l20": Device(
        name="L20",
        memory_gib=44.7,
        flops=119.5e12,
        bandwidth=0.864e12,
        link=_PCIE_4,
        host_link=_PCIE_4,
    ),
    "rtx4090": Device(
        name="RTX 4090",
        memory_gib=22.3,
        flops=165e12,
        bandwidth=1.01e12,
        link=_PCIE_4,
        host_link=_PCIE_4,
    ),
    "rtx3090": Device(
        name="RTX 3090",
        memory_gib=22.3,
        flops=71e12,
        bandwidth=0.936e12,
        link=_PCIE_4,
        host_link=_PCIE_4,
    ),
}
"""Accelerators by the name that the command takes; two cards of 24 GB among them."""

NETWORK: Final = 50e9
"""Bytes a second of one accelerator to other machines: an adapter of 400 Gb/s each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One end of the range between a run that goes well and one that does not.

    Attributes:
        train_mfu: Share of the peak in training: a forward and a backward pass of the model's own
            operations; what recomputation adds is not counted, as in published figures.
        forward_mfu: Share of the peak when log-probabilities are computed.
        prefill: Share of the peak when prompts and passages are read.
        bandwidth: Share of the memory's bandwidth when tokens are sampled, and in the optimiser.
        step_overhead_s: Seconds of an engine's step beside its reading and computing.
        link: Share of the bandwidths between accelerators and to the machine's memory.
        hiding: Share of the computation behind which gathers of weights can hide.
        tail: Sampled tokens of the longest episode, over their mean.
        always_moves: True if the trainer's states leave the accelerator even where they fit.
        pause_s: Seconds in which an engine goes to sleep, wakes and builds its cache.
        host: Share of the other phases for rewards, packing, logging and what waits for them.
    """

    train_mfu: float
    forward_mfu: float
    prefill: float
    bandwidth: float
    step_overhead_s: float
    link: float
    hiding: float
    tail: float
    always_moves: bool
    pause_s: float
    host: float


SMALL_MODEL: Final = 5e9
"""Weights below which a large card's published share of its peak is about half."""
LARGE_CARD: Final = 500e12
"""Peak from which a card counts as large."""


def paces(model: ModelShape, device: Device) -> tuple[Pace, Pace]:
    """The fast and the slow end for a model on a device.

    The share of the peak in training is what EasyR1 publishes: on H100s 19.2 % at best and 11.2 %
    (32B) or 6.3 % (3B) at worst, 26.5 % on the L20, whose peak is an eighth; NeMo RL's 32B implies
    21 %. Log-probabilities need no recomputation, hence 4/3 of it; at worst they took as long as
    the update itself (verl issue 7203), hence half. The other figures are assumptions:
    `published.CASES` holds the sums against runs that others measured.
    """
    if device.flops >= LARGE_CARD:
        fast_mfu, slow_mfu = 0.21, 0.063 if model.num_parameters < SMALL_MODEL else 0.112
    else:
        fast_mfu, slow_mfu = 0.265, 0.112
    fast = Pace(
        train_mfu=fast_mfu,
        forward_mfu=fast_mfu * 4 / 3,
        prefill=0.5,
        bandwidth=0.6,
        step_overhead_s=0.002,
        link=0.6,
        hiding=1.0,
        tail=2.0,
        always_moves=False,
        pause_s=1.0,
        host=0.02,
    )
    slow = Pace(
        train_mfu=slow_mfu,
        forward_mfu=slow_mfu / 2,
        prefill=0.2,
        bandwidth=0.3,
        step_overhead_s=0.010,
        link=0.3,
        hiding=0.25,
        tail=4.0,
        always_moves=True,
        pause_s=10.0,
        host=0.05,
    )
    return fast, slow
