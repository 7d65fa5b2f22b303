"""FP16 against the mismatch of engine and trainer: one precision for both, no correction.

Source: "Defeating the Training-Inference Mismatch via FP16", arXiv 2510.26788, and its code.

Made of
    precision   fp16 in the trainer, with losses scaled up before the backward pass; weights and
                optimiser keep theirs. The engine samples in fp16 too
                (``--engine vllm --engine.dtype fp16``)
    advantage   `Grpo(normalization="none")`, as in the paper's runs (Dr. GRPO)
    loss        clipped surrogate, 0.2 on both sides; the sum over an episode's tokens divided by a
                constant; no KL, no importance weights

Published settings: 64 questions x 8 responses in four steps, learning rate 1e-6. The environment
is that of Search-R1, because the paper's task is mathematics.

Run it: ``python -m calibadv_baselines.fp16 --output-dir runs/fp16``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """Dr. GRPO in fp16 on any settings."""
    longest = (config.env.max_turns + 1) * config.rollout.max_tokens
    return replace(
        find_arm("grpo").apply(config),
        advantage=Grpo(normalization="none"),
        optim=replace(
            config.optim,
            dtype="fp16",
            aggregation="seq-mean-token-sum-norm",
            length_norm=longest,
            kl_coef=0.0,
        ),
    )


BASELINE = Baseline(
    name="fp16",
    kind="variant",
    description="Dr. GRPO computed in fp16, so that engine and trainer agree",
    source="Defeating the Training-Inference Mismatch via FP16, arXiv 2510.26788",
    departures=(
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "the engine's precision is a setting of its own and has to be named too",
        "tokens are kept as sampled, so that precision is the only source of a mismatch",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=Grpo(normalization="none"),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=64, group_size=8, top_p=1.0),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            lr=1e-6,
            warmup_fraction=0.0,
            num_minibatches=4,
            dtype="fp16",
            aggregation="seq-mean-token-sum-norm",
            length_norm=5 * 500,
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
