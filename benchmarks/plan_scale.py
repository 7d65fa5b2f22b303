"""Plans two large runs on paper: memory, tokens a second, where the time of an update goes.

Nothing is run and nothing is measured: the arithmetic of ``benchmarks.capacity`` with the
paper's batch, printed as the Markdown of docs/scaling.md.

    python benchmarks/plan_scale.py
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.capacity import (
    H100,
    H100_ACROSS_MACHINES,
    QWEN25_7B,
    QWEN25_32B,
    Device,
    ModelShape,
    Workload,
    engine_cache_tokens,
    trainer_memory,
    update_times,
)

# 512 questions x 5 episodes, 4 searches of 3 passages; lengths are assumptions, not measurements.
PAPER = Workload(
    num_episodes=2560,
    num_searches=3.0,
    prompt_tokens=250,
    group_size=5,
    observation_tokens=450,
    action_tokens=120,
    search_s=1.0,
)
MICRO_BATCH_TOKENS = 16384
LOGIT_CHUNK_TOKENS = 2048
ENGINE_SHARE = 0.6


@dataclass(frozen=True)
class Plan:
    """A model, its devices, and the length of the run."""

    model: ModelShape
    device: Device
    num_devices: int
    tensor_parallel: int
    num_updates: int


PLANS = (
    Plan(QWEN25_7B, H100, num_devices=8, tensor_parallel=1, num_updates=410),
    Plan(QWEN25_32B, H100_ACROSS_MACHINES, num_devices=32, tensor_parallel=4, num_updates=410),
)


def show(plan: Plan) -> None:
    memory = trainer_memory(
        plan.model,
        num_devices=plan.num_devices,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        logit_chunk_tokens=LOGIT_CHUNK_TOKENS,
    )
    cache = engine_cache_tokens(
        plan.model, plan.device, tensor_parallel=plan.tensor_parallel, memory_share=ENGINE_SHARE
    )
    times = update_times(
        plan.model,
        plan.device,
        PAPER,
        num_devices=plan.num_devices,
        tensor_parallel=plan.tensor_parallel,
        cache_tokens=cache,
    )
    print(f"### {plan.model.name} on {plan.num_devices} × {plan.device.name}\n")
    print("| Memory of a trainer rank | GiB |\n| --- | ---: |")
    for name in ("weights", "gradients", "optimizer", "gathered", "activations", "logits", "total"):
        print(f"| {name} | {getattr(memory, name):.1f} |")
    print(f"| of | {plan.device.memory_gib:.1f} |\n")
    fitting = cache / PAPER.tokens_per_episode
    print(
        f"An engine of {plan.tensor_parallel} devices, allowed {ENGINE_SHARE:.0%} of their memory, "
        f"holds {cache:,} tokens of keys and values: {fitting:,.0f} episodes of "
        f"{PAPER.tokens_per_episode:.0f} tokens. It gets "
        f"{PAPER.num_episodes * plan.tensor_parallel / plan.num_devices:,.0f}.\n"
    )
    print("| Phase of an update | Seconds | Share |\n| --- | ---: | ---: |")
    for name in ("prefill", "decode", "search", "old_logprobs", "train", "sync"):
        seconds = getattr(times, name)
        print(f"| {name} | {seconds:.1f} | {seconds / times.total:.0%} |")
    print(f"| total | {times.total:.1f} | 100% |\n")
    print(
        f"Sampled tokens a second of decoding: {PAPER.sampled_tokens / times.decode:,.0f}. All "
        f"tokens a second of training: "
        f"{PAPER.num_episodes * PAPER.tokens_per_episode / times.train:,.0f}. "
        f"{plan.num_updates} updates: {plan.num_updates * times.total / 3600:.1f} hours.\n"
    )


if __name__ == "__main__":
    for each in PLANS:
        show(each)
