"""What a training run is made of, as frozen dataclasses; no torch is imported here.

The published settings are constants at the end of the file. Each of them is a whole
`TrainConfig`: vary it with `dataclasses.replace`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mass_matched import MassMatchedGrpo
from calibadv_algo.credit import (
    AnswerMatchCredit,
    GoldCredit,
    InvertedCredit,
    NoCredit,
    RandomCredit,
    SilverCredit,
)

Advantage = Grpo | CalibAdv | SoftPenalty | Rebalance | MassMatchedGrpo
"""Advantage estimators that a run can be configured with."""

CreditRule = (
    SilverCredit | GoldCredit | AnswerMatchCredit | RandomCredit | InvertedCredit | NoCredit
)
"""Judges of turns that a run can be configured with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Which environment, and how it is set up."""

    env_id: str = "calibadv_env:DeepSearch-v0"
    """Registered id of the environment, with the module that registers it."""
    dataset: str = "atlas"
    """Name of a registered dataset, or a folder's path; for the id DeepSearch-v0 alone."""
    split: str = "train"
    """Split whose tasks are trained on."""
    retriever: str = "bm25"
    """Name of a retriever, path of an index, or address of a search server."""
    top_k: int = 3
    """Passages that a search returns."""
    max_turns: int = 4
    """Searches that an episode allows; one last turn for the answer follows."""
    prompt: str | None = None
    """Named prompt, or a template that holds {question}; None means the dataset's own."""
    reward: Literal["f1", "em", "cover_em"] = "f1"
    """Score that a final answer earns."""
    format_gate: bool = True
    """Whether an ill-formed episode earns 0."""
    invalid_action: Literal["end", "continue"] = "end"
    """What a malformed action does to the episode."""
    prepend_think: bool = False
    """Whether every observation ends with the opening think tag (the third part of CalibAdv)."""
    max_observation_chars: int | None = None
    """Where the body of an observation is cut; None means the environment's default."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(self, "top_k", "max_turns", "max_observation_chars")

    def kwargs(self, split: str | None = None) -> dict[str, Any]:
        """Keyword arguments for ``gymnasium.make``, for another split on request.

        An id of a single dataset, such as ``DeepSearch-HotpotQA-v0``, keeps its own.
        """
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        del given["env_id"]
        if not self.env_id.endswith("DeepSearch-v0"):
            del given["dataset"]
        given["split"] = split or self.split
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How episodes are sampled."""

    num_questions: int = 16
    """Questions of one update."""
    group_size: int = 8
    """Episodes of each question."""
    temperature: float = 1.0
    """Sampling temperature; the loss uses the same."""
    top_p: float = 1.0
    """Nucleus mass; less than 1 makes sampled and recomputed log-probabilities differ."""
    max_tokens: int = 40
    """Most tokens of one turn."""
    max_context: int = 1024
    """Most tokens of an episode, prompt and observations included."""
    num_slots: int = 64
    """Environments that run side by side."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(
            self, "num_questions", "group_size", "max_tokens", "max_context", "num_slots"
        )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive in training, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The loss and the optimiser."""

    num_updates: int = 30
    """Updates of the run: each collects episodes once."""
    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of AdamW's two averages."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up."""
    warmup_fraction: float = 0.0
    """Share of the updates in which the learning rate rises from 0."""
    final_lr_fraction: float = 0.0
    """Learning rate at the end, relative to the peak (linear and cosine)."""
    num_minibatches: int = 2
    """Optimiser steps for each pass over the episodes of an update."""
    num_epochs: int = 1
    """Passes over the episodes of an update."""
    clip_low: float = 0.2
    """How far below 1 the probability ratio may go."""
    clip_high: float = 0.2
    """How far above 1 the probability ratio may go (clip-higher: more than clip_low)."""
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "token-mean"
    """How token losses become one number, over the whole minibatch."""
    kl_coef: float = 0.0
    """Weight of the divergence from the starting policy; 0 keeps no copy of it."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that divergence."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    """Where the ratio's denominator comes from: the engine, or the trainer before the update."""
    micro_batch_tokens: int = 2048
    """Tokens of one forward and backward pass; changes memory and speed alone."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the computation; weights and optimiser stay in the model's own."""
    gradient_checkpointing: bool = False
    """Whether to spend time to save memory in the backward pass."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(
            self, "num_updates", "lr", "eps", "num_minibatches", "num_epochs", "grad_clip"
        )
        _require_positive(self, "micro_batch_tokens")
        _require_not_negative(self, "weight_decay", "clip_high", "kl_coef", "entropy_coef")
        for name in ("warmup_fraction", "final_lr_fraction", "clip_low"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluation on held-out tasks, greedy."""

    every: int = 5
    """Updates between evaluations; 0 means never. Update 0 and the last are always evaluated."""
    episodes: int = 200
    """Tasks of each evaluation, the first ones of a fixed shuffle of the split."""
    split: str = "dev"
    """Split that is evaluated."""
    max_tokens: int | None = None
    """Most tokens of one turn; None means as in training."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_not_negative(self, "every")
        _require_positive(self, "episodes", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole training run."""

    model: str = "atlas-tiny"
    """The starting policy: a path, a hub name, or the name of the policy that is shipped."""
    output_dir: Path = Path("runs/train")
    """Folder of everything that the run writes."""
    seed: int = 0
    """Seed of the question order, the sampling and the minibatches."""
    advantage: Advantage = field(default_factory=CalibAdv)
    """How rewards and correctness become advantages."""
    credit: CreditRule = field(default_factory=SilverCredit)
    """Which turns count as correct."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimiser."""
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    checkpoint_every: int = 10
    """Updates between checkpoints; 0 means only at the end."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay."""
    save_trajectories: bool = True
    """Whether to write every training trajectory as a line of JSON."""
    tensorboard: bool = False
    """Whether to write TensorBoard files too."""
    quiet: bool = False
    """Whether to leave out the progress display (child processes)."""

    def __post_init__(self) -> None:
        """Checks ranges and the combination of advantage and credit."""
        _require_not_negative(self, "seed", "checkpoint_every")
        _require_positive(self, "keep_checkpoints")
        if isinstance(self.credit, NoCredit) and isinstance(
            self.advantage, CalibAdv | SoftPenalty | MassMatchedGrpo
        ):
            raise ValueError(
                f"credit must judge turns for the advantage {type(self.advantage).__name__}, "
                "got NoCredit"
            )

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the environment's ``info`` must hold for credit and advantage."""
        return self.credit.required_info_keys | self.advantage.required_info_keys


def config_to_dict(config: object) -> Any:
    """A config as plain JSON values; the type of a chosen variant stands under ``type``."""
    if is_dataclass(config) and not isinstance(config, type):
        values = {item.name: config_to_dict(getattr(config, item.name)) for item in fields(config)}
        return {"type": type(config).__name__, **values}
    if isinstance(config, tuple | list):
        return [config_to_dict(item) for item in config]
    if isinstance(config, frozenset | set):
        return sorted(config_to_dict(item) for item in config)
    if isinstance(config, Path):
        return str(config)
    return config


def config_hash(config: TrainConfig) -> str:
    """Names what determines a run's numbers; equal for configs that may resume each other.

    Where files go and how progress is shown does not count, nor how often checkpoints are made.
    """
    values = config_to_dict(config)
    for name in ("output_dir", "checkpoint_every", "keep_checkpoints", "quiet", "tensorboard"):
        del values[name]
    del values["save_trajectories"]
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_positive(config: object, *names: str) -> None:
    """Raises ValueError for a field that is 0 or less; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


def _require_not_negative(config: object, *names: str) -> None:
    """Raises ValueError for a field that is less than 0."""
    for name in names:
        value = getattr(config, name)
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")


ATLAS_TINY: Final = TrainConfig(
    env=EnvConfig(prompt="question", max_turns=5),
    optim=OptimConfig(num_updates=25, micro_batch_tokens=1200),
    evaluation=EvalConfig(every=5, episodes=300),
)
"""The shipped tiny policy on the atlas, on two CPU cores."""

# The papers train on merged sets: register one under this name (docs/datasets.md), and serve the
# corpus at this address, or name others by --env.dataset and --env.retriever.
_PAPER_ENV: Final = EnvConfig(
    dataset="hotpotqa-2wiki",
    prompt="search_r1",
    max_turns=4,
    top_k=3,
    retriever="http://127.0.0.1:8000",
)

_PAPER_ROLLOUT: Final = RolloutConfig(
    num_questions=512, group_size=5, top_p=0.95, max_tokens=1024, max_context=16384, num_slots=512
)

_PAPER_OPTIM: Final = OptimConfig(
    num_updates=410,
    lr=5e-7,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    schedule="cosine",
    num_minibatches=10,
    clip_low=0.2,
    clip_high=0.2,
    old_logprobs="recomputed",
    micro_batch_tokens=16384,
    dtype="bf16",
    gradient_checkpointing=True,
)

CALIBADV_QWEN25_3B: Final = TrainConfig(
    model="Qwen/Qwen2.5-3B",
    advantage=CalibAdv(),
    env=replace(_PAPER_ENV, prepend_think=True),
    rollout=_PAPER_ROLLOUT,
    optim=_PAPER_OPTIM,
    evaluation=EvalConfig(every=10, episodes=500),
)
"""CalibAdv on Qwen2.5-3B."""

CALIBADV_QWEN25_7B: Final = replace(CALIBADV_QWEN25_3B, model="Qwen/Qwen2.5-7B")
"""CalibAdv on Qwen2.5-7B."""

CALIBADV_LLAMA32_3B: Final = replace(CALIBADV_QWEN25_3B, model="meta-llama/Llama-3.2-3B")
"""CalibAdv on Llama-3.2-3B."""

SEARCH_R1_GRPO: Final = TrainConfig(
    model="Qwen/Qwen2.5-3B",
    advantage=Grpo(),
    credit=NoCredit(),
    env=replace(
        _PAPER_ENV,
        dataset="nq-hotpotqa",
        reward="em",
        format_gate=False,
        invalid_action="continue",
    ),
    rollout=replace(_PAPER_ROLLOUT, max_tokens=500, max_context=4096),
    optim=replace(
        _PAPER_OPTIM,
        num_updates=1005,
        lr=1e-6,
        schedule="constant",
        warmup_fraction=0.285,
        kl_coef=0.001,
        entropy_coef=0.001,
    ),
    evaluation=EvalConfig(every=50, episodes=500),
)
"""GRPO as in Search-R1: exact match, k3 divergence, long warm-up."""

PRESETS: Final[dict[str, TrainConfig]] = {
    "atlas-tiny": ATLAS_TINY,
    "calibadv-qwen2.5-3b": CALIBADV_QWEN25_3B,
    "calibadv-qwen2.5-7b": CALIBADV_QWEN25_7B,
    "calibadv-llama3.2-3b": CALIBADV_LLAMA32_3B,
    "search-r1-grpo": SEARCH_R1_GRPO,
}
"""Named settings, for command lines."""
