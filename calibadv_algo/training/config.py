"""What a training run is made of, as frozen dataclasses; no torch is imported here.

The published settings are constants at the end of the file. Each of them is a whole
`TrainConfig`: vary it with `dataclasses.replace`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mass_matched import MassMatchedGrpo
from calibadv_algo.advantages.registry import PublishedAdvantage, PublishedValueAdvantage
from calibadv_algo.advantages.template import TemplateBalanced
from calibadv_algo.credit.base import (
    AnswerMatchCredit,
    GoldCredit,
    InvertedCredit,
    NoCredit,
    RandomCredit,
    SilverCredit,
)
from calibadv_algo.credit.judges import JudgeCredit
from calibadv_algo.credit.relevance import RelevanceCredit
from calibadv_algo.lora import Lora
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.mismatch import Mismatch, NoCorrection
from calibadv_algo.losses.objectives import Cispo, ClippedSurrogate, Gspo
from calibadv_algo.losses.variants import BalancedSurrogate, GeometricMean, KlCov, Sapo
from calibadv_algo.rollout.engines.config import EngineConfig, HfEngineConfig
from calibadv_algo.rollout.tree_config import Collection, EpisodeGroups, TreeSearch
from calibadv_algo.shaping.base import RewardShaping
from calibadv_algo.shaping.filters import GroupFilter, LossMask

Advantage = (
    Grpo
    | CalibAdv
    | SoftPenalty
    | Rebalance
    | MassMatchedGrpo
    | TemplateBalanced
    | PublishedAdvantage
    | PublishedValueAdvantage
)
"""Advantage estimators that a run can be configured with."""

CreditRule = (
    SilverCredit
    | GoldCredit
    | AnswerMatchCredit
    | RandomCredit
    | InvertedCredit
    | JudgeCredit
    | RelevanceCredit
    | NoCredit
)
"""Judges of turns that a run can be configured with."""

Objective = (
    ClippedSurrogate | Gspo | Cispo | Llds | Sapo | GeometricMean | KlCov | BalancedSurrogate
)
"""Policy objectives that a run can be configured with."""

Aggregation = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
"""How per-token losses become a number; see `calibadv_algo.losses.formulas.aggregate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Which environment, and how it is set up."""

    env_id: str = "calibadv_env:DeepSearch-v0"
    """Registered id of the environment, with the module that registers it."""
    dataset: str = "atlas"
    """Name of a dataset, several joined by +, or a path; for the id DeepSearch-v0 alone."""
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
    reward: Literal["f1", "em", "cover_em", "step_search"] = "f1"
    """Score that a final answer earns; step_search is F1, with facts about each search."""
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
    collection: Collection = field(default_factory=EpisodeGroups)
    """Whether the episodes of a group are played one by one or grow on trees."""
    driver: Literal["lockstep", "async"] = "lockstep"
    """Whether episodes take turns together or each at its own pace; the episodes are the same."""
    overlap: Literal["none", "one-step"] = "none"
    """Whether the next batch is collected while the policy learns from this one (one step off
    policy)."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(
            self, "num_questions", "group_size", "max_tokens", "max_context", "num_slots"
        )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive in training, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        trees = self.collection
        if isinstance(trees, TreeSearch) and self.group_size != trees.group_size:
            raise ValueError(
                f"group_size must be that of the trees ({trees.group_size}), got {self.group_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    """The critic: a copy of the policy with a value head, where the advantage needs values."""

    lr: float = 3e-4
    """Peak learning rate of AdamW; the other settings are the policy's."""
    warmup_fraction: float = 0.0
    """Share of the updates in which the learning rate rises from 0."""
    value_clip: float = 0.5
    """How far a value may move in an update before its loss is clipped."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(self, "lr", "value_clip")
        _require_fraction(self, "warmup_fraction")


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
    objective: Objective = field(default_factory=ClippedSurrogate)
    """The surrogate that makes a loss of advantages, and its clip."""
    aggregation: Aggregation = "token-mean"
    """How token losses become one number, over the whole minibatch."""
    length_norm: int | None = None
    """Tokens that an episode counts for, whatever it has; for seq-mean-token-sum-norm alone."""
    kl_coef: float = 0.0
    """Weight in the loss of the divergence from the starting policy."""
    kl_estimator: Literal["k1", "abs", "k2", "k3", "k1+", "k3+"] = "k3"
    """Estimator of that divergence."""
    kl_reward_coef: float = 0.0
    """Weight of that divergence (k1) in the rewards; 0 here and above keeps no copy."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    """Where the ratio's denominator comes from: the engine, or the trainer before the update."""
    mismatch: Mismatch = field(default_factory=NoCorrection)
    """How the loss is weighed where engine and trainer differ; needs recomputed log-probs."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic of advantages that need values; others have none."""
    micro_batch_tokens: int = 2048
    """Tokens of one forward and backward pass; changes memory and speed alone (KlCov excepted)."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the computation; weights and optimiser keep theirs, and fp16 scales the losses."""
    gradient_checkpointing: bool = False
    """Whether to spend time to save memory in the backward pass."""
    parallel: Literal["replicated", "sharded"] = "replicated"
    """How several processes hold the policy: a copy each, or a share of every weight (FSDP2)."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require_positive(
            self, "num_updates", "lr", "eps", "num_minibatches", "num_epochs", "grad_clip"
        )
        _require_positive(self, "micro_batch_tokens")
        _require_positive(self, "length_norm")
        _require_not_negative(self, "weight_decay", "kl_coef", "kl_reward_coef", "entropy_coef")
        _require_fraction(self, "warmup_fraction", "final_lr_fraction")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if (self.length_norm is None) == (self.aggregation == "seq-mean-token-sum-norm"):
            raise ValueError(
                "length_norm must be given for seq-mean-token-sum-norm and for nothing else, got "
                f"{self.length_norm} with {self.aggregation}"
            )
        if self.old_logprobs == "sampled" and not isinstance(self.mismatch, NoCorrection):
            raise ValueError(
                "mismatch must be NoCorrection unless old_logprobs is recomputed: the sampled ones "
                f"do not differ from themselves; got {type(self.mismatch).__name__}"
            )

    @property
    def has_reference(self) -> bool:
        """Whether a frozen copy of the starting policy is needed."""
        return self.kl_coef > 0 or self.kl_reward_coef > 0


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
    filters: Annotated[tuple[GroupFilter, ...], tyro.conf.Suppress] = ()
    """What is left out before anything is compared, in order; baselines set it."""
    shaping: Annotated[tuple[RewardShaping, ...], tyro.conf.Suppress] = ()
    """What changes the rewards that are learnt from, in order; baselines set it."""
    loss_masks: Annotated[tuple[LossMask, ...], tyro.conf.Suppress] = ()
    """What is compared and not trained on; baselines set it."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimiser."""
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    engine: EngineConfig = field(default_factory=HfEngineConfig)
    """What samples."""
    lora: Lora | None = None
    """Adapters that learn in place of all weights; None means that all learn."""
    prompt_style: Literal["raw", "chat"] = "raw"
    """Whether the policy continues the first observation, or gets it as a user's message in its
    tokenizer's chat template."""
    checkpoint_every: int = 10
    """Updates between checkpoints; 0 means only at the end."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay."""
    save_trajectories: bool = True
    """Whether to write every training trajectory as a line of JSON."""
    tensorboard: bool = False
    """Whether to write TensorBoard files too."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Trackers that get the metrics too; each needs its extra."""
    quiet: bool = False
    """Whether to leave out the progress display (child processes)."""

    def __post_init__(self) -> None:
        """Checks ranges and the combination of advantage and credit."""
        _require_not_negative(self, "seed", "checkpoint_every")
        _require_positive(self, "keep_checkpoints")
        needs_correctness = isinstance(
            self.advantage, CalibAdv | SoftPenalty | MassMatchedGrpo
        ) or getattr(self.advantage, "needs_correctness", False)
        if isinstance(self.credit, NoCredit) and needs_correctness:
            raise ValueError(
                f"credit must judge turns for the advantage {type(self.advantage).__name__}, "
                "got NoCredit"
            )

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the environment's ``info`` must hold for what the run is made of."""
        return frozenset().union(*(part.required_info_keys for part in self.judges))

    @property
    def judges(self) -> tuple[GroupFilter | RewardShaping | LossMask | CreditRule | Advantage, ...]:
        """Everything that looks at the facts of an episode."""
        return (*self.filters, *self.shaping, *self.loss_masks, self.credit, self.advantage)


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

    Where files go and how progress is shown does not count, nor how often checkpoints are made,
    nor how the work is divided. Of the engine its kind counts: each draws tokens in its own way.
    """
    values = config_to_dict(config)
    values["engine"] = values["engine"]["type"]
    for part, name in (("rollout", "driver"), ("optim", "parallel")):
        del values[part][name]
    for name in ("output_dir", "checkpoint_every", "keep_checkpoints", "quiet", "tensorboard"):
        del values[name]
    for name in ("save_trajectories", "trackers"):
        del values[name]
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_positive(config: object, *names: str) -> None:
    """Raises ValueError for a field that is 0 or less; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


def _require_fraction(config: object, *names: str) -> None:
    """Raises ValueError for a field that is not between 0 and 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


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

# The papers train on merged sets; docs/benchmarks.md says how to get their files. Serve the corpus
# at this address, or name another retriever by --env.retriever.
_PAPER_ENV: Final = EnvConfig(
    dataset="hotpotqa+2wikimultihopqa",
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
    objective=ClippedSurrogate(clip_low=0.2, clip_high=0.2),
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

CALIBADV_LLAMA32_3B: Final = replace(CALIBADV_QWEN25_3B, model="meta-llama/Llama-3.2-3B-Instruct")
"""CalibAdv on Llama-3.2-3B-Instruct."""

SEARCH_R1_GRPO: Final = TrainConfig(
    model="Qwen/Qwen2.5-3B",
    advantage=Grpo(),
    credit=NoCredit(),
    env=replace(
        _PAPER_ENV,
        dataset="nq+hotpotqa",
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
