"""GRPO with one thing changed, for the switches that papers and libraries differ in.

Sources: dual clip, arXiv 1912.09729; truncated importance sampling as in verl and in the study of
training-inference mismatch, arXiv 2510.26788; divergence in the loss, arXiv 2402.03300; in the
reward, as PPO has it, arXiv 2203.02155; aggregation, arXiv 2402.03300 against arXiv 2503.14476.

Made of
    grpo-dual-clip      the ratio of a negative advantage is bounded at 3
    grpo-tis            log-probabilities are computed again, tokens weigh by their ratio to the
                        engine's, at most 2
    grpo-kl             k3 divergence from the starting policy in the loss, weight 0.001
    grpo-kl-reward      k1 divergence taken off the reward of each token, weight 0.001
    grpo-sequence-mean  mean over the tokens of an episode, then over episodes, as in the first
                        paper

Published settings: Search-R1's (arXiv 2503.09516) with this one change.

Run one: ``calibadv train --baseline grpo-kl --output-dir runs/grpo-kl``. The file itself trains
grpo-dual-clip: ``python -m calibadv_baselines.grpo_variants``.
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.mismatch import TokenTis
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

_PLAIN = replace(SEARCH_R1_GRPO, optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0))
_NOT_SEARCH = "the source is not about search; here the setting is that of Search-R1"


def dual_clip(config: TrainConfig) -> TrainConfig:
    """GRPO with a bound of the ratio where the advantage is negative."""
    objective = ClippedSurrogate(dual_clip=3.0)
    return replace(find_arm("grpo").apply(config), optim=replace(config.optim, objective=objective))


def truncated_is(config: TrainConfig) -> TrainConfig:
    """GRPO whose tokens weigh by the trainer's probability over the engine's, at most 2."""
    optim = replace(config.optim, old_logprobs="recomputed", mismatch=TokenTis(cap=2.0))
    return replace(find_arm("grpo").apply(config), optim=optim)


def kl_in_loss(config: TrainConfig) -> TrainConfig:
    """GRPO with the k3 divergence in the loss."""
    optim = replace(config.optim, kl_coef=0.001, kl_estimator="k3", kl_reward_coef=0.0)
    return replace(find_arm("grpo").apply(config), optim=optim)


def kl_in_reward(config: TrainConfig) -> TrainConfig:
    """GRPO with the k1 divergence taken off the rewards."""
    optim = replace(config.optim, kl_coef=0.0, kl_reward_coef=0.001)
    return replace(find_arm("grpo").apply(config), optim=optim)


def sequence_mean(config: TrainConfig) -> TrainConfig:
    """GRPO in which every episode weighs the same, whatever its length."""
    optim = replace(config.optim, aggregation="seq-mean-token-mean", length_norm=None)
    return replace(find_arm("grpo").apply(config), optim=optim)


DUAL_CLIP = Baseline(
    name="grpo-dual-clip",
    kind="variant",
    description="GRPO with the ratio of negative advantages bounded at 3",
    source="dual-clip PPO, arXiv 1912.09729",
    departures=(_NOT_SEARCH,),
    published=dual_clip(_PLAIN),
    apply=dual_clip,
)

TRUNCATED_IS = Baseline(
    name="grpo-tis",
    kind="variant",
    description="GRPO with truncated importance sampling between engine and trainer, cap 2",
    source="verl's rollout correction; studied in arXiv 2510.26788",
    departures=(_NOT_SEARCH, "weights are not normalised over the batch"),
    published=truncated_is(_PLAIN),
    apply=truncated_is,
)

KL_IN_LOSS = Baseline(
    name="grpo-kl",
    kind="variant",
    description="GRPO with a k3 divergence in the loss, weight 0.001",
    source="DeepSeekMath, arXiv 2402.03300; weight of Search-R1, arXiv 2503.09516",
    departures=("the weight is Search-R1's; DeepSeekMath has 0.04",),
    published=kl_in_loss(_PLAIN),
    apply=kl_in_loss,
)

KL_IN_REWARD = Baseline(
    name="grpo-kl-reward",
    kind="variant",
    description="GRPO with a k1 divergence taken off the rewards, weight 0.001",
    source="InstructGPT, arXiv 2203.02155; weight of Search-R1's PPO, arXiv 2503.09516",
    departures=("the source has PPO; a group's rewards are compared after the divergence",),
    published=kl_in_reward(_PLAIN),
    apply=kl_in_reward,
)

SEQUENCE_MEAN = Baseline(
    name="grpo-sequence-mean",
    kind="variant",
    description="GRPO with a mean over each episode's tokens first, as in its first paper",
    source="DeepSeekMath, arXiv 2402.03300",
    departures=(_NOT_SEARCH,),
    published=sequence_mean(_PLAIN),
    apply=sequence_mean,
)

BASELINE = DUAL_CLIP
"""The one that this file trains when it is run."""

if __name__ == "__main__":
    train_baseline(BASELINE)
