"""Settings of the learner: loss, optimiser, critic. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from calibadv_algo.losses.base import (
    Aggregation,
    MismatchCorrection,
    NoCorrection,
    PolicyObjective,
)
from calibadv_algo.losses.kl import KlEstimator
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE, Checked

Decay = Annotated[float, Interval(ge=0, lt=1)]
"""Decay rate of a running mean."""


def _default_objective() -> PolicyObjective:
    from calibadv_algo.losses.clipped import ClippedSurrogate

    return ClippedSurrogate()


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig(Checked):
    """The critic: a copy of the policy with a value head, where the advantage needs values."""

    lr: Annotated[float | None, POSITIVE] = None
    """Peak learning rate of AdamW; None is the policy's, as are the other settings."""
    warmup_fraction: Annotated[float, FRACTION] = 0.0
    """Share of the schedule's updates in which the learning rate rises from 0."""
    value_clip: Annotated[float, POSITIVE] = 0.5
    """Largest move of a value in an update before its loss is clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig(Checked):
    """The loss and the optimiser."""

    num_updates: Annotated[int, POSITIVE] = 30
    """Updates of the run: each collects episodes once."""
    lr: Annotated[float, POSITIVE] = 3e-4
    """Peak learning rate of AdamW."""
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (
        0.9,
        0.99,
    )
    """Decay rates of AdamW's two averages."""
    eps: Annotated[float, POSITIVE] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """AdamW's decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Decay of the learning rate after the warm-up."""
    schedule_updates: Annotated[int | None, POSITIVE] = None
    """Updates that warm-up and decay are laid out for; None means those of the run."""
    warmup_fraction: Annotated[float, FRACTION] = 0.0
    """Share of the schedule's updates in which the learning rate rises from 0."""
    final_lr_fraction: Annotated[float, FRACTION] = 0.0
    """Learning rate at the schedule's end, relative to the peak (linear and cosine)."""
    num_minibatches: Annotated[int, POSITIVE] = 2
    """Optimiser steps for each pass over the episodes of an update."""
    num_epochs: Annotated[int, POSITIVE] = 1
    """Passes over the episodes of an update."""
    objective: PolicyObjective = field(default_factory=_default_objective)
    """The surrogate that makes a loss of advantages, and its clip."""
    aggregation: Aggregation = "token-mean"
    """Reduction of token losses to one number, over the whole minibatch."""
    length_norm: Annotated[int | None, POSITIVE] = None
    """Tokens that an episode counts for, whatever it has; for seq-mean-token-sum-norm alone."""
    kl_coef: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight in the loss of the divergence from the starting policy."""
    kl_estimator: KlEstimator = "k3"
    """Estimator of that divergence."""
    kl_reward_coef: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of that divergence (k1) in the rewards; 0 here and above keeps no copy."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the entropy bonus."""
    grad_clip: Annotated[float, POSITIVE] = 1.0
    """Largest norm of the gradient."""
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    """Where the ratio's denominator comes from: the engine, or the trainer before the update."""
    mismatch: MismatchCorrection = field(default_factory=NoCorrection)
    """Importance weights where engine and trainer differ; need recomputed log-probs."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic of advantages that need values; others have none."""
    micro_batch_tokens: Annotated[int, POSITIVE] = 2048
    """Tokens of one forward and backward pass; changes memory and speed alone (KlCov excepted)."""
    prefixes: Literal["separate", "shared"] = "separate"
    """Prefixes that episodes of a micro-batch begin with in common: computed for each of them, or
    once (docs/training.md); the same gradients but for rounding."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the computation; weights and optimiser keep theirs, and fp16 scales the losses."""
    gradient_checkpointing: bool = False
    """If true, time is spent to save memory in the backward pass."""
    parallel: Literal["replicated", "sharded"] = "replicated"
    """Policy on several processes: a copy each, or a share of every weight (FSDP2)."""

    def __post_init__(self) -> None:
        """Checks ranges and what goes together."""
        Checked.__post_init__(self)
        if (self.length_norm is None) == (self.aggregation == "seq-mean-token-sum-norm"):
            raise ValueError(
                "length_norm must be given for seq-mean-token-sum-norm and for nothing else, got "
                f"{self.length_norm} with {self.aggregation}"
            )
        if self.old_logprobs == "sampled" and self.mismatch.needs_recomputed:
            raise ValueError(
                "mismatch must be NoCorrection unless old_logprobs is recomputed: the sampled ones "
                f"do not differ from themselves; got {type(self.mismatch).__name__}"
            )

    @property
    def critic_lr(self) -> float:
        """Peak learning rate of the critic: its own, or else the policy's."""
        return self.lr if self.critic.lr is None else self.critic.lr

    @property
    def has_reference(self) -> bool:
        """If true, a frozen copy of the starting policy is needed."""
        return self.kl_coef > 0 or self.kl_reward_coef > 0
