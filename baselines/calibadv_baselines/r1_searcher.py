"""R1-Searcher: its own markers, a reward in two stages, REINFORCE++ with the group as baseline.

Source: arXiv 2503.05592 and its code.

Made of
    shaping     `R1SearcherReward`: in the first stage plus or minus 1 for the answer and half a
                point each for retrieval and format, in the second F1 minus a penalty for the format
    advantage   `ReinforcePlusPlusBaseline`: reward - group mean, whitened over the sampled tokens
    loss        clipped surrogate, 0.2 on both sides, mean over an episode's tokens first; no KL
    prompt      ``r1_searcher``, which brings its markers for queries and documents; passages are
                masked because the environment wrote them, not by a search for markers

Published settings, of the runs on Qwen2.5-7B: 64 questions x 16 episodes in four steps, rate 2e-6,
penalty 2, answers of at most 10 words, 512 tokens a turn, 8 searches, second stage alone. The
Llama runs have the first stage, penalty 1, no limit on answers and a divergence of 1e-4.

Run it: ``python -m calibadv_baselines.r1_searcher --output-dir runs/r1-searcher``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.reinforce import ReinforcePlusPlusBaseline
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.r1_searcher import R1SearcherReward
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

ADVANTAGE = ReinforcePlusPlusBaseline(ddof=0)


def apply(config: TrainConfig) -> TrainConfig:
    """R1-Searcher on any settings; a tenth of the updates is the first stage."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=ADVANTAGE,
        shaping=(R1SearcherReward(stage_one_updates=config.optim.num_updates // 10),),
        env=replace(config.env, format_gate=False, invalid_action="end"),
        optim=replace(config.optim, aggregation="seq-mean-token-mean", kl_coef=0.0),
    )


BASELINE = Baseline(
    name="r1-searcher",
    kind="published",
    description="two-stage reward with a format penalty, REINFORCE++ with the group as baseline",
    source="R1-Searcher, arXiv 2503.05592",
    departures=(
        "put on other settings, the prompt stays: where it teaches search tags, these are "
        "counted in place of the markers",
        "the two stages follow each other in one run, a tenth of the updates first",
        "markup is counted in what the policy wrote; passages are masked by construction",
        "a ninth generation is not added: the last turn after eight searches is for the answer",
        "1e-8 is added to the variance of the whitening",
        "the rate is constant; the code's cosine is laid out for 10,000 passes over the data, "
        "so that it hardly falls",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B",
        advantage=ADVANTAGE,
        shaping=(R1SearcherReward(penalty=2.0, max_answer_words=10),),
        env=replace(
            SEARCH_R1_GRPO.env,
            dataset="hotpotqa+2wikimultihopqa",
            prompt="r1_searcher",
            reward="f1",
            invalid_action="end",
            max_turns=8,
        ),
        rollout=replace(
            SEARCH_R1_GRPO.rollout,
            num_questions=64,
            group_size=16,
            max_tokens=512,
            max_context=16384,
        ),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            lr=2e-6,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            warmup_fraction=0.0,
            num_minibatches=4,
            aggregation="seq-mean-token-mean",
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
