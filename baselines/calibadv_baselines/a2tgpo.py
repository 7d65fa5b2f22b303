"""A2TGPO: gains in belief compared turn by turn, and a clip that follows them.

Source: "Agentic Turn-Group Policy Optimization with Adaptive Turn-level Clipping",
arXiv 2605.06200, and its code.

Made of
    belief      the policy's belief in the accepted answer before every turn (`AnswerBelief`)
    advantage   `A2Tgpo`: 0.3 times the rescaled sum of the compared gains, beside the compared
                outcome
    loss        `TurnClipped`: one ratio a turn, whose clip is up to 30 % wider or narrower by the
                turn's gain; no KL
    reward      exact match in the published run

Published settings: 64 questions x 16 episodes, eight steps an update, Qwen3-4B, clip 0.003 and
0.004.

Run it: ``python -m calibadv_baselines.a2tgpo --output-dir runs/a2tgpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.information_gain import A2Tgpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.beliefs import belief_of
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.turn_clipped import TurnClipped
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """A2TGPO on any settings whose tasks name accepted answers."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=A2Tgpo(belief=belief_of(config.model)),
        optim=replace(
            config.optim, objective=TurnClipped(clip_low=3e-3, clip_high=4e-3), kl_coef=0.0
        ),
    )


BASELINE = Baseline(
    name="a2tgpo",
    kind="published",
    description="belief gains compared turn by turn, with a clip that follows them",
    source="A2TGPO, arXiv 2605.06200",
    departures=(
        "the first search has a gain too, against the bare question, as in the paper; the code "
        "begins with the second",
        "turns are known; the code takes runs of equal advantages for them",
        "the text after which the answer's likelihood is taken is ours",
        "the code trains on its own mixture of questions; here they are those of Search-R1",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen3-4B",
        advantage=A2Tgpo(),
        rollout=replace(
            SEARCH_R1_GRPO.rollout,
            num_questions=64,
            group_size=16,
            max_tokens=2048,
            max_context=8192,
        ),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            objective=TurnClipped(clip_low=3e-3, clip_high=4e-3),
            num_minibatches=8,
            kl_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
