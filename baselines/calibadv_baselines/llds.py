"""LLDS: what the policy did well must not become less likely.

Source: arXiv 2512.04220 and its code.

Made of
    advantage   `Grpo`
    loss        `Llds`: the clipped surrogate, plus 0.2 times the drop in log-probability of the
                tokens of trajectories with an advantage of at least 0, counted in turns whose
                total has dropped (``action`` gate); token mean; k3 divergence 0.001
    reward      exact match; the format does not count

`ANSWER_MASKED` is LLDS-MA: tokens of the answer bear less of the penalty, the more so the fewer
searches there are.

Published settings: Search-R1's GRPO on Qwen2.5-3B-Instruct with learning rate 1e-6 and up to 3
searches; ten steps of the optimiser for each collection. With one the penalty is always 0.

Run it: ``python -m calibadv_baselines.llds --output-dir runs/llds``; LLDS-MA:
``calibadv train --baseline llds-ma --output-dir runs/llds-ma``.
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.llds import Llds
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """LLDS on any settings; at least four steps of the optimiser for each collection."""
    return _with(config, Llds())


def apply_answer_masked(config: TrainConfig) -> TrainConfig:
    """LLDS-MA on any settings."""
    return _with(config, Llds(answer="paper"))


def _with(config: TrainConfig, objective: Llds) -> TrainConfig:
    return replace(
        find_arm("grpo").apply(config),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
        optim=replace(
            config.optim,
            objective=objective,
            num_minibatches=max(4, config.optim.num_minibatches),
            aggregation="token-mean",
            length_norm=None,
            kl_coef=0.001,
            kl_estimator="k3",
        ),
    )


_PUBLISHED = replace(
    SEARCH_R1_GRPO,
    model="Qwen/Qwen2.5-3B-Instruct",
    env=replace(SEARCH_R1_GRPO.env, max_turns=3),
    optim=replace(SEARCH_R1_GRPO.optim, num_minibatches=10),  # 512 x 5 rows by 256
)
_DEPARTURES = (
    "turns are known from the environment; the code takes runs of the loss mask for them",
    "the penalty is averaged over all sampled tokens, as in the code; the paper averages over "
    "protected responses first (norm='paper')",
)

BASELINE = Baseline(
    name="llds",
    kind="published",
    description="GRPO with a penalty on good turns that become less likely",
    source="LLDS, arXiv 2512.04220",
    departures=_DEPARTURES,
    published=replace(_PUBLISHED, optim=replace(_PUBLISHED.optim, objective=Llds())),
    apply=apply,
)

ANSWER_MASKED = Baseline(
    name="llds-ma",
    kind="published",
    description="LLDS whose answer tokens bear less of the penalty",
    source="LLDS-MA, arXiv 2512.04220",
    departures=(
        *_DEPARTURES,
        "the answer's tokens are those of the last turn; the code looks for them in the last 50",
        "the weight is the paper's; the code's is answer='code'",
    ),
    published=replace(_PUBLISHED, optim=replace(_PUBLISHED.optim, objective=Llds(answer="paper"))),
    apply=apply_answer_masked,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
