"""`calibadv plan`: memory and time of a large run, computed before anything is rented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.console import Console

from calibadv_algo.experiments.planning.devices import DEVICES
from calibadv_algo.experiments.planning.plan import Plan as RunPlan
from calibadv_algo.experiments.planning.plan import make_plan
from calibadv_algo.experiments.planning.published import CASES, Case
from calibadv_algo.experiments.planning.shapes import find_shape
from calibadv_algo.experiments.planning.workload import Workload
from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.common.files import write_text

GpuName = Literal["h100", "h200", "a100", "l40s", "l20", "rtx4090", "rtx3090"]

_PHASES: Final = {
    "prefill": "prompts and passages read",
    "decode": "sampling, engines full",
    "tail": "the longest episodes alone, their searches",
    "old_logprobs": "log-probabilities before the update",
    "ref_logprobs": "reference model",
    "train": "forward and backward",
    "gathers": "waiting for sharded weights",
    "optimizer": "optimiser",
    "sync": "weights to the engines",
    "moves": "sleep, wake, states moved",
    "host": "rewards, packing, logging",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Checked):
    """Compute what a run needs: memory of trainer and engine, seconds of an update as a range.

    Nothing is loaded, downloaded or measured.
    """

    model: str | None = None
    """A folder with a config.json, or a published model's name, such as Qwen2.5-3B."""
    gpus: Annotated[int, POSITIVE] = 8
    """All accelerators."""
    gpu: GpuName = "h100"
    """Kind of accelerator."""
    gpus_per_machine: Annotated[int, POSITIVE] = 8
    """Accelerators of one machine; others are reached through 400 Gb/s each."""
    updates: Annotated[int, POSITIVE] = 205
    """Updates of the run."""
    work: Annotated[Workload, tyro.conf.arg(name="")] = field(default_factory=Workload)
    """One update."""
    json: Path | None = None
    """File for the plan as JSON."""
    published: bool = False
    """Hold the formulas against updates that others measured, in place of a plan."""

    def run(self) -> int:
        """Prints Markdown."""
        console = Console(highlight=False)
        if self.published:
            lines = list(published_table())
            if self.model is not None or self.json is not None:
                raise ValueError("published stands alone: leave out --model and --json")
        else:
            plan = self._plan()
            lines = list(plan_lines(plan, self.updates))
            if self.json is not None:
                text = json.dumps(_record(plan, self.updates), indent=1)
                write_text(self.json, text + "\n")
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
        return 0

    def _plan(self) -> RunPlan:
        if self.model is None:
            raise ValueError("model must be given: --model NAME, or a folder with a config.json")
        return make_plan(
            find_shape(self.model),
            DEVICES[self.gpu],
            self.work,
            num_devices=self.gpus,
            devices_per_machine=self.gpus_per_machine,
        )


def plan_lines(plan: RunPlan, num_updates: int) -> Iterator[str]:
    """A plan as Markdown."""
    device, layout, work = plan.layout.device, plan.layout, plan.work
    yield f"### {plan.model.name} on {layout.num_devices} × {device.name}"
    yield ""
    yield "| Memory of a trainer rank | GiB |"
    yield "| --- | ---: |"
    for part in fields(plan.memory):
        yield f"| {part.name} | {getattr(plan.memory, part.name):.1f} |"
    micro = f"micro-batches of {layout.micro_batch_tokens:,} tokens"
    yield f"| total, {micro} | {plan.memory.total:.1f} |"
    yield f"| of | {device.memory_gib:.1f} |"
    yield ""
    holds = layout.cache_tokens / work.tokens_per_episode
    stays = (
        "beside the trainer's states" if layout.fits_together else "while the trainer's are away"
    )
    yield (
        f"An engine of {layout.tensor_parallel} ({stays}) holds {holds:,.0f} episodes of "
        f"{work.tokens_per_episode:,.0f} tokens; it gets "
        f"{work.num_episodes / layout.num_engines:,.0f}."
    )
    yield ""
    yield "| Phase of an update | Seconds |"
    yield "| --- | ---: |"
    for name, meaning in _PHASES.items():
        yield f"| {meaning} | {_range(getattr(plan.fast, name), getattr(plan.slow, name))} |"
    yield f"| **total** | **{_range(plan.fast.total, plan.slow.total)}** |"
    yield f"| one step off-policy | {_range(*plan.overlapped)} |"
    yield ""
    low, high = plan.tokens_per_device
    hours = [num_updates * each.total / 3600 for each in (plan.fast, plan.slow)]
    yield (
        f"{low:,.0f} to {high:,.0f} tokens a second and GPU over the whole update; {num_updates} "
        f"updates: {_range(*hours)} hours."
    )


def published_table() -> Iterator[str]:
    """Measured updates beside the formulas, as Markdown."""
    yield "| measured by | model | on | seconds | on paper | source |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    for case in CASES:
        low, high = case.seconds
        seconds = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        device = f"{case.num_devices} × {DEVICES[case.device].name}"
        remark = f"; {case.remark}" if case.remark else ""
        yield (
            f"| {case.system} | {case.model} | {device} | {seconds} | "
            f"{_range(*case.planned())}{_outside(case)} | {case.source}{remark} |"
        )


def _outside(case: Case) -> str:
    """Says so where a measured update lies outside its range on paper."""
    fast, slow = case.planned()
    return "" if fast <= case.seconds[0] and case.seconds[1] <= slow else " (outside)"


def _range(low: float, high: float) -> str:
    if high < 0.05:
        return "0"
    return f"{_short(low)} to {_short(high)}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _record(plan: RunPlan, num_updates: int) -> dict[str, Any]:
    """A plan for JSON."""
    return {
        "model": asdict(plan.model) | {"num_parameters": plan.model.num_parameters},
        "workload": asdict(plan.work),
        "layout": asdict(plan.layout),
        "trainer_memory_gib": asdict(plan.memory) | {"total": plan.memory.total},
        "seconds": {
            "fast": asdict(plan.fast) | {"total": plan.fast.total},
            "slow": asdict(plan.slow) | {"total": plan.slow.total},
            "overlapped": list(plan.overlapped),
        },
        "tokens_per_second_and_gpu": list(plan.tokens_per_device),
        "hours": [num_updates * each.total / 3600 for each in (plan.fast, plan.slow)],
    }
