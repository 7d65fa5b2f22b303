"""Memory, tokens a second and time of an update of two large runs, by arithmetic.

Nothing is run and nothing is measured. The formulas count bytes and floating-point operations; how
much of a device's peak is reached is an assumption that the caller states. Prints the Markdown of
docs/scaling.md for the paper's batch.

    python benchmarks/training_cost.py
"""

from __future__ import annotations

from dataclasses import dataclass

_FP32 = 4
_BF16 = 2
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only transformer with grouped-query attention.

    Attributes:
        name: Its name.
        num_parameters: All of them.
        num_layers: Blocks.
        hidden_size: Width of the residual stream.
        num_kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        vocab_size: Rows of the output matrix.
    """

    name: str
    num_parameters: float
    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in bf16."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * _BF16


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator, and how much of it is reached.

    Attributes:
        name: Its name.
        memory_gib: Memory.
        flops: Peak of dense bf16, operations a second.
        bandwidth: Memory bandwidth, bytes a second.
        link: Bandwidth to other devices of the run in one direction, bytes a second.
        train_utilization: Share of ``flops`` in forward and backward passes.
        prefill_utilization: Share of ``flops`` when prompts are read.
        decode_utilization: Share of ``bandwidth`` when tokens are sampled.
        link_utilization: Share of ``link``.
    """

    name: str
    memory_gib: float
    flops: float
    bandwidth: float
    link: float
    train_utilization: float = 0.35
    prefill_utilization: float = 0.5
    decode_utilization: float = 0.5
    link_utilization: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One update.

    Attributes:
        num_episodes: Episodes that are collected.
        num_searches: Searches of an episode.
        prompt_tokens: Tokens of a prompt; a group shares them.
        group_size: Episodes of a question.
        observation_tokens: Tokens that a search brings.
        action_tokens: Sampled tokens of a turn.
        search_s: Seconds that a batched search takes.
        has_old_logprobs: True if the trainer recomputes log-probabilities before the update.
    """

    num_episodes: int
    num_searches: float
    prompt_tokens: int
    group_size: int
    observation_tokens: int
    action_tokens: int
    search_s: float
    has_old_logprobs: bool = True

    @property
    def num_turns(self) -> float:
        """Turns of an episode: its searches and the answer."""
        return self.num_searches + 1

    @property
    def tokens_per_episode(self) -> float:
        """Length of an episode, all tokens."""
        return (
            self.prompt_tokens
            + self.num_searches * self.observation_tokens
            + self.num_turns * self.action_tokens
        )

    @property
    def sampled_tokens(self) -> float:
        """Tokens sampled in an update."""
        return self.num_episodes * self.num_turns * self.action_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerMemory:
    """Memory of one rank of a fully sharded trainer, in GiB.

    Attributes:
        weights: Its shard of the fp32 weights.
        gradients: Its shard of the fp32 gradients.
        optimizer: Its shard of AdamW's two fp32 averages.
        gathered: Two blocks and the output matrix in bf16, gathered from all ranks.
        activations: Inputs of all blocks in bf16, and one block's inside, for a micro-batch.
        logits: fp32 logits and their gradient of a chunk of tokens.
    """

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Sum, in GiB."""
        shards = self.weights + self.gradients + self.optimizer
        return shards + self.gathered + self.activations + self.logits


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTimes:
    """Seconds of the phases of one update.

    Attributes:
        prefill: Prompts and observations are read, each token once (prefix cache).
        decode: Tokens are sampled.
        search: Nothing is done but waiting for searches, in lock-step.
        old_logprobs: Log-probabilities before the update.
        train: Forward, recomputed forward, and backward passes.
        sync: Weights go to the engines.
    """

    prefill: float
    decode: float
    search: float
    old_logprobs: float
    train: float
    sync: float

    @property
    def total(self) -> float:
        """Sum, in seconds."""
        rollout = self.prefill + self.decode + self.search
        return rollout + self.old_logprobs + self.train + self.sync


def trainer_memory(
    model: ModelShape, *, num_devices: int, micro_batch_tokens: int, logit_chunk_tokens: int
) -> TrainerMemory:
    """Counts the memory of one rank under full sharding with activation checkpointing.

    Args:
        model: The model.
        num_devices: Ranks among which weights, gradients and optimiser are split.
        micro_batch_tokens: Tokens of one forward and backward pass on a rank.
        logit_chunk_tokens: Tokens whose logits are held at once.

    Returns:
        The memory. Inside a block 34 bytes a token and hidden unit are held (Korthikanti et al.,
        arXiv 2205.05198, table 2, without the attention matrix, which flash attention avoids).
    """
    shard = model.num_parameters / num_devices / GIB
    output_matrix = model.vocab_size * model.hidden_size
    block = (model.num_parameters - 2 * output_matrix) / model.num_layers
    inputs = micro_batch_tokens * model.hidden_size * _BF16 * model.num_layers
    inside = 34 * micro_batch_tokens * model.hidden_size
    return TrainerMemory(
        weights=_FP32 * shard,
        gradients=_FP32 * shard,
        optimizer=2 * _FP32 * shard,
        gathered=_BF16 * (2 * block + output_matrix) / GIB,
        activations=(inputs + inside) / GIB,
        logits=2 * _FP32 * logit_chunk_tokens * model.vocab_size / GIB,
    )


def engine_cache_tokens(
    model: ModelShape, device: Device, *, tensor_parallel: int, memory_share: float
) -> int:
    """Tokens whose keys and values fit beside the weights of one engine.

    Args:
        model: The model, in bf16.
        device: The accelerator.
        tensor_parallel: Devices of one engine.
        memory_share: Share of the memory that the engine may use.

    Returns:
        Tokens, 0 if not even the weights fit.
    """
    memory = tensor_parallel * device.memory_gib * GIB * memory_share
    return max(0, int((memory - _BF16 * model.num_parameters) / model.kv_bytes_per_token))


def update_times(
    model: ModelShape,
    device: Device,
    workload: Workload,
    *,
    num_devices: int,
    tensor_parallel: int,
    cache_tokens: int,
) -> UpdateTimes:
    """Counts the seconds of one update in which trainer and engines take turns on all devices.

    A decoding step of an engine reads its weights once and the keys and values of every episode
    that it runs; or it computes ``2 N`` operations a token, whichever takes longer. Training
    takes ``8 N`` operations a token: forward, recomputed forward, and a backward pass of two.

    Args:
        model: The model.
        device: The accelerator.
        workload: The update.
        num_devices: All accelerators.
        tensor_parallel: Devices of one engine.
        cache_tokens: Tokens that one engine can hold: more episodes than fit come in waves.

    Returns:
        The seconds.

    Raises:
        ValueError: if not one episode fits into the cache.
    """
    engines = num_devices // tensor_parallel
    length = workload.tokens_per_episode
    fitting = int(cache_tokens // length)
    if fitting < 1:
        raise ValueError(f"cache_tokens must hold an episode of {length:.0f}, got {cache_tokens}")
    batch = min(fitting, workload.num_episodes / engines)
    flops = device.flops * num_devices
    read_bytes = _BF16 * model.num_parameters + batch * 0.5 * length * model.kv_bytes_per_token
    step_s = max(
        read_bytes / (tensor_parallel * device.bandwidth * device.decode_utilization),
        2
        * model.num_parameters
        * batch
        / (tensor_parallel * device.flops * device.prefill_utilization),
    )
    read_once = workload.num_episodes * (
        workload.prompt_tokens / workload.group_size
        + workload.num_searches * workload.observation_tokens
    )
    all_tokens = workload.num_episodes * length
    forward = 2 * model.num_parameters * all_tokens / (flops * device.train_utilization)
    waves = max(1.0, workload.num_episodes / engines / batch)
    return UpdateTimes(
        prefill=2 * model.num_parameters * read_once / (flops * device.prefill_utilization),
        decode=workload.sampled_tokens / engines / batch * step_s,
        search=waves * workload.num_searches * workload.search_s,
        old_logprobs=forward if workload.has_old_logprobs else 0.0,
        train=4 * forward,
        sync=_BF16 * model.num_parameters / (device.link * device.link_utilization),
    )


QWEN25_7B = ModelShape(
    name="Qwen2.5-7B",
    num_parameters=7.62e9,
    num_layers=28,
    hidden_size=3584,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
)
"""Shape from the model's published configuration."""

QWEN25_32B = ModelShape(
    name="Qwen2.5-32B",
    num_parameters=32.8e9,
    num_layers=64,
    hidden_size=5120,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=152064,
)
"""Shape from the model's published configuration."""

H100 = Device(name="H100 SXM", memory_gib=74.5, flops=989e12, bandwidth=3.35e12, link=450e9)
"""NVIDIA's data sheet: 80 GB, dense bf16, HBM3, NVLink in one direction."""

H100_ACROSS_MACHINES = Device(
    name="H100 SXM, 400 Gb/s each", memory_gib=74.5, flops=989e12, bandwidth=3.35e12, link=50e9
)
"""H100s that talk over one 400 Gb/s adapter each."""

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


@dataclass(frozen=True, slots=True)
class Plan:
    """A model, its devices, and the length of the run."""

    model: ModelShape
    device: Device
    num_devices: int
    tensor_parallel: int
    num_updates: int


PLANS = (
    Plan(QWEN25_7B, H100, num_devices=8, tensor_parallel=1, num_updates=205),
    Plan(QWEN25_32B, H100_ACROSS_MACHINES, num_devices=32, tensor_parallel=4, num_updates=205),
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
