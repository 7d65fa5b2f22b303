"""TRIAGE: every search gets a small reward for the role that it had.

Source: "TRIAGE: Role-Typed Credit Assignment for Agentic Reinforcement Learning", arXiv 2606.32017;
its abstract, and rewards, sum and whitening as a public reimplementation states them.

Made of
    credit      `RoleCredit`: decisive progress, useful exploration, no progress or regression
    advantage   `Triage`: GRPO's, plus 1, 0.5, -0.1 or -0.5 times a weight, brought to deviation 1
                over the batch
    loss        clipped surrogate, 0.2 on both sides, token mean
    reward      that of the settings it is put on

Published settings: not known; Search-R1's (arXiv 2503.09516) stand here, with a judge at
``http://127.0.0.1:8001/v1``. Put on other settings, roles are read off gold passages and repeated
queries, so that no server is needed.

Run it: ``python -m calibadv_baselines.triage --output-dir runs/triage``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.triage import Triage
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.judges import LlmJudge
from calibadv_algo.credit.roles import LlmRoles, RoleCredit
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """TRIAGE on any settings whose tasks name gold passages, with roles by facts."""
    return replace(find_arm("grpo").apply(config), advantage=Triage(), credit=RoleCredit())


BASELINE = Baseline(
    name="triage",
    kind="published",
    description="GRPO plus a fixed reward for the role of every search",
    source="TRIAGE, arXiv 2606.32017",
    departures=(
        "the weight of the roles and the judge's instruction are ours: neither could be found",
        "rewards, sum and whitening are those of a public reimplementation, not of the text",
        "put on other settings, roles are read off gold and new passages and repeated queries",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=Triage(),
        credit=RoleCredit(judge=LlmRoles(server=LlmJudge(base_url="http://127.0.0.1:8001/v1"))),
        optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
