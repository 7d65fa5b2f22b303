"""IGPO: every turn is paid by what it added to the policy's belief in the accepted answer.

Source: "Information Gain-based Policy Optimization", arXiv 2510.14967, and its code.

Made of
    belief      before each update the policy says how likely it finds the accepted answer before
                every turn (`AnswerBelief`)
    advantage   `Igpo`: gains of the searches and the outcome, brought to mean 0 and deviation 1 in
                the group, then summed up to the end of the episode
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001
    reward      F1; no format gate beyond that of the settings it is put on

Published settings: 32 questions x 16 episodes, one step an update, 10 turns, 32,768 tokens.

Run it: ``python -m calibadv_baselines.igpo --output-dir runs/igpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.information_gain import Igpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.beliefs import belief_of
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """IGPO on any settings whose tasks name accepted answers."""
    return replace(find_arm("grpo").apply(config), advantage=Igpo(belief=belief_of(config.model)))


BASELINE = Baseline(
    name="igpo",
    kind="published",
    description="turns paid by the growth of the policy's belief in the answer",
    source="IGPO, arXiv 2510.14967",
    departures=(
        "the text after which the answer's likelihood is taken is ours",
        "the first published code compares returns token by token; this is the paper's form, which "
        "a later version of the code has",
        "the code pays -2 for a broken format; here the environment's rule holds",
        "the code trains on live web search; here the setting is that of Search-R1",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B-Instruct",
        advantage=Igpo(),
        env=replace(SEARCH_R1_GRPO.env, reward="f1", max_turns=10),
        rollout=replace(
            SEARCH_R1_GRPO.rollout,
            num_questions=32,
            group_size=16,
            top_p=1.0,
            max_tokens=2000,
            max_context=32768,
        ),
        optim=replace(SEARCH_R1_GRPO.optim, num_minibatches=1, warmup_fraction=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
