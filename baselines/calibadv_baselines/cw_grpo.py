"""CW-GRPO: the searches of good episodes share the advantage by what they contributed.

Source: "Enhancing LLM-based Search Agents via Contribution Weighted Group Relative Policy
Optimization", arXiv 2604.14267, and its code.

Made of
    credit      `JudgeCredit`: a language model calls every search good or bad
    advantage   `CwGrpo`: GRPO's z-score; in episodes above the group's mean each search gets it
                times its share in the verdicts, so that bad searches get nothing
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001

Published settings: 32 questions x 4 episodes, four steps an update, 200 updates, Qwen3-8B, ten
searches at most, 8,192 tokens; the judge is a server at ``http://127.0.0.1:8001/v1``. Put on other
settings, a script judges by gold passages, so that no server is needed.

Run it: ``python -m calibadv_baselines.cw_grpo --output-dir runs/cw-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.cw_grpo import CwGrpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.judges import JudgeCredit, LlmJudge, ScriptedJudge
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """CW-GRPO on any settings whose tasks name gold passages, with a scripted judge."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=CwGrpo(),
        credit=JudgeCredit(judge=ScriptedJudge(rule="gold")),
    )


BASELINE = Baseline(
    name="cw-grpo",
    kind="published",
    description="GRPO whose positive advantages go to the searches that contributed",
    source="CW-GRPO, arXiv 2604.14267",
    departures=(
        "the judge reads the whole episode and gives one verdict a search; the original asks about "
        "every round as it stood, for the result and the thought apart, and takes the product",
        "put on other settings, a script judges: a search is good if it finds new gold evidence",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen3-8B",
        advantage=CwGrpo(),
        credit=JudgeCredit(judge=LlmJudge(base_url="http://127.0.0.1:8001/v1")),
        env=replace(SEARCH_R1_GRPO.env, max_turns=10),
        rollout=replace(
            SEARCH_R1_GRPO.rollout,
            num_questions=32,
            group_size=4,
            max_tokens=8192,
            max_context=10240,
        ),
        optim=replace(SEARCH_R1_GRPO.optim, num_updates=200, num_minibatches=4, entropy_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
