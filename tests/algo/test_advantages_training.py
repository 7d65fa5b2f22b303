"""Every published estimator and surrogate trains a tiny policy through the real loop."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.information_gain import A2Tgpo, Igpo
from calibadv_algo.advantages.remax import ReMax
from calibadv_algo.advantages.rloo import Rloo
from calibadv_algo.advantages.template import TemplateBalanced
from calibadv_algo.advantages.tree_grpo import TreeGrpo
from calibadv_algo.advantages.vine import Vine
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.losses.balanced import BalancedSurrogate
from calibadv_algo.losses.covariance import KlCov
from calibadv_algo.losses.gmpo import GeometricMean
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.off_policy import OffPolicyMasked
from calibadv_algo.losses.sapo import Sapo
from calibadv_algo.training.parts import find_parts
from calibadv_algo.types import Group


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()

# Trees, measured values, beliefs and greedy returns have players and tests of their own; what needs
# facts of a search environment is trained on the atlas (test_baselines.py).
ELSEWHERE = (TreeGrpo, TemplateBalanced, Vine, Igpo, A2Tgpo, ReMax)
ESTIMATORS = [
    kind()
    for kind in find_parts(AdvantageEstimator).values()
    if kind not in ELSEWHERE and not kind().required_info_keys
] + [TemplateBalanced(token_ids=(3,), from_update=1)]


class FirstLetters(CreditRule):
    """Calls every first turn half right."""

    def __call__(self, group: Group) -> np.ndarray:
        scores = np.full((len(group), group.max_turns), np.nan)
        for row, trajectory in enumerate(group.trajectories):
            if len(trajectory.turns) > 1:
                scores[row, 0] = 0.5 if row % 2 else 1e-6
        return scores


def train(folder: Path, num_updates: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """Trains on the letters and returns the metrics of every update; weights must move."""
    optim = {"num_updates": num_updates, "lr": 1e-2, **changes.pop("optim", {})}
    config = letters.make_config(folder, optim=letters.OptimConfig(**optim), **changes)
    trainer = letters.make_trainer(config)
    parameters = list(trainer.learner.policy.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    trainer.train()
    moved = sum(
        float((a - b).detach().abs().sum()) for a, b in zip(before, parameters, strict=True)
    )
    assert moved > 0
    assert all(bool(torch.isfinite(parameter).all()) for parameter in parameters)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_every_estimator_makes_updates(tmp_path: Path, estimator: Any) -> None:
    rows = train(tmp_path, advantage=estimator, credit=FirstLetters())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    "objective",
    [
        Llds(),
        Llds(norm="paper", gate="response", answer="paper"),
        Sapo(),
        GeometricMean(),
        KlCov(percent=20.0),
        BalancedSurrogate(),
        OffPolicyMasked(delta=0.0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_surrogate_makes_updates(tmp_path: Path, objective: Any) -> None:
    train(tmp_path, optim={"objective": objective, "num_epochs": 2})


def test_rloo_learns_the_letters(tmp_path: Path) -> None:
    rows = train(tmp_path, num_updates=40, advantage=Rloo())
    rewards = [row["reward_mean"] for row in rows if "reward_mean" in row]
    assert sum(rewards[-3:]) / 3 > 0.7
    assert rewards[0] < 0.45
