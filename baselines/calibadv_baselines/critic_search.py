"""CriticSearch: a judge that knows the answer looks back on every search.

Source: arXiv 2511.12159; the abstract and descriptions of it. No code was found.

Made of
    credit      `JudgeCredit`: a language model reads the whole episode and the accepted answers
                and calls every search good or bad
    advantage   `CriticSearch`: for searches half the verdict, compared with all verdicts of the
                group, and half GRPO's advantage; the last turn has GRPO's alone
    loss        clipped surrogate, 0.2 on both sides, token mean, no KL
    reward      that of the settings it is put on

Published settings: the judge is a server at ``http://127.0.0.1:8001/v1``; sizes and rates are
those of Search-R1 (arXiv 2503.09516). Put on other settings, a script judges by gold passages, so
that no server is needed; name a `JudgeCredit(judge=LlmJudge(...))` to ask one.

Run it: ``python -m calibadv_baselines.critic_search --output-dir runs/critic-search``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.critic_search import CriticSearch
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.judges import JudgeCredit, LlmJudge, ScriptedJudge
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """CriticSearch on any settings whose tasks name gold passages, with a scripted judge."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=CriticSearch(),
        credit=JudgeCredit(judge=ScriptedJudge(rule="gold")),
    )


BASELINE = Baseline(
    name="critic-search",
    kind="published",
    description="GRPO mixed with verdicts of a judge that knows the answer",
    source="CriticSearch, arXiv 2511.12159",
    departures=(
        "the weight of the verdicts, 0.5, and the judge's instruction are ours: neither could be "
        "found",
        "put on other settings, a script judges: a search is good if it finds new gold evidence",
        "a search without a verdict keeps GRPO's advantage",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=CriticSearch(),
        credit=JudgeCredit(judge=LlmJudge(base_url="http://127.0.0.1:8001/v1")),
        optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
