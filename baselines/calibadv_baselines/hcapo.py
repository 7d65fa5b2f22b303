"""HCAPO: the policy, told how the episode ended, says which of its turns that makes likely.

Source: "Hindsight Credit Assignment for Long-Horizon LLM Agents", arXiv 2603.08754, as the public
transcription in RainyFields/Agentic-RL-CA gives its equations, algorithm and settings.

Made of
    hindsight   before each update the policy scores every turn again, with the episode's answer
                told behind the prompt (`Hindsight`)
    advantage   `Hcapo`: GRPO's, and returns weighted by that likelihood, compared in the group
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001
    penalty     0.01 off for an invalid action
    reward      1 for an exact match

Published settings: those of search, 256 questions x 5 episodes, minibatches of 512, 4 turns,
discount 0.95. The clip is not given in the paper, which names GiGPO's settings: those are here.

Run it: ``python -m calibadv_baselines.hcapo --output-dir runs/hcapo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.hcapo import Hcapo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.turns import MalformedPenalty
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """HCAPO on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=Hcapo())


BASELINE = Baseline(
    name="hcapo",
    kind="published",
    description="GRPO plus returns weighted by the likelihood of turns in hindsight",
    source="HCAPO, arXiv 2603.08754",
    departures=(
        "the outcome is told in our words, behind the prompt, and is the episode's final answer",
        "three minibatches of 1,280 episodes, where the paper has two and a half of 512",
        "put on other settings, invalid actions cost nothing",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B-Instruct",
        advantage=Hcapo(),
        shaping=(MalformedPenalty(penalty=-0.01),),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=256, top_p=1.0, max_tokens=512),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_minibatches=3,
            num_updates=200,
            warmup_fraction=0.1,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
