"""The arms of a comparison: named changes to one training configuration.

CalibAdv has three parts: the soft penalty (S), the rebalancing of the answer turns (R) and the
opening ``<think>`` tag that the environment writes (T). Arms take them alone and together, and
put other labels in the place of silver ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.flipped import FlippedSearches
from calibadv_algo.advantages.gold_turns import GoldTurns
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mass_matched import MassMatchedGrpo
from calibadv_algo.advantages.vine import Vine
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.labels import (
    AnswerMatchCredit,
    GoldCredit,
    InvertedCredit,
    NoCredit,
    RandomCredit,
)
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        description: One line for tables and help texts.
        advantage: Estimator of advantages.
        credit: Credit of turns; None keeps that of the settings.
        prepend_think: If true, the environment writes the opening ``<think>`` tag; None keeps
            what the settings say.
        vine: Continuations that measure the values of states; None where the estimator needs none.
        seed_offset: Added to the seed, for runs that differ from another arm's in nothing else.
    """

    description: str
    advantage: AdvantageEstimator
    credit: CreditRule | None = None
    prepend_think: bool | None = None
    vine: VineSampling | None = None
    seed_offset: int = 0

    def apply(self, config: TrainConfig) -> TrainConfig:
        """Puts the arm's algorithm on a run's settings."""
        env = config.env
        if self.prepend_think is not None:
            env = replace(env, prepend_think=self.prepend_think)
        credit = config.credit if self.credit is None else self.credit
        rollout = replace(config.rollout, vine=self.vine, greedy=None)
        return replace(
            config,
            advantage=self.advantage,
            credit=credit,
            env=env,
            rollout=rollout,
            seed=config.seed + self.seed_offset,
        )


def _calibadv_with(credit: CreditRule, labels: str, lam: float = 1.0) -> Arm:
    return Arm(
        description=f"CalibAdv with {labels}",
        advantage=CalibAdv(target_ratio=1 / lam),
        credit=credit,
        prepend_think=True,
    )


def _calibadv_with_lambda(value: float) -> Arm:
    return _calibadv_with(SilverCredit(), f"lambda = {value:g}", lam=value)


ARMS: Final = MappingProxyType(
    {
        "grpo": Arm(
            description="GRPO: one advantage for the whole trajectory",
            advantage=Grpo(),
            credit=NoCredit(),
            prepend_think=False,
        ),
        "calibadv": _calibadv_with(SilverCredit(), "silver labels, as published: S + R + T"),
        "soft-penalty": Arm(
            description="GRPO with the soft penalty alone: S",
            advantage=SoftPenalty(),
            credit=SilverCredit(),
            prepend_think=False,
        ),
        "rebalance": Arm(
            description="GRPO with rebalanced answers alone: R",
            advantage=Rebalance(),
            credit=NoCredit(),
            prepend_think=False,
        ),
        "think-tag": Arm(
            description="GRPO with the opening tag given alone: T",
            advantage=Grpo(),
            credit=NoCredit(),
            prepend_think=True,
        ),
        "soft-penalty-rebalance": Arm(
            description="CalibAdv without the opening tag: S + R",
            advantage=CalibAdv(),
            credit=SilverCredit(),
            prepend_think=False,
        ),
        "calibadv-gold": _calibadv_with(GoldCredit(), "gold labels"),
        "calibadv-answer-match": _calibadv_with(AnswerMatchCredit(), "answer-match labels"),
        "calibadv-random": _calibadv_with(RandomCredit(seed=0), "random labels"),
        "calibadv-inverted": _calibadv_with(
            InvertedCredit(base=SilverCredit()), "inverted silver labels"
        ),
        "grpo-equal-mass": Arm(
            description="GRPO with tag T and CalibAdv's advantage mass",
            advantage=MassMatchedGrpo(),
            credit=SilverCredit(),
            prepend_think=True,
        ),
        "calibadv-lambda-0.5": _calibadv_with_lambda(0.5),
        "calibadv-lambda-0.75": _calibadv_with_lambda(0.75),
        "calibadv-lambda-1.5": _calibadv_with_lambda(1.5),
        "calibadv-lambda-2": _calibadv_with_lambda(2.0),
        "vine": Arm(
            description="VinePPO's measured advantages: what must win",
            advantage=Vine(),
            credit=NoCredit(),
            prepend_think=False,
            vine=VineSampling(),
        ),
        "gold-turns": Arm(
            description="pay for every search that finds gold: what must win",
            advantage=GoldTurns(),
            credit=GoldCredit(),
            prepend_think=False,
        ),
        "flipped-searches": Arm(
            description="GRPO that punishes good searches: what must lose",
            advantage=FlippedSearches(),
            credit=NoCredit(),
            prepend_think=False,
        ),
        "grpo-again": Arm(
            description="GRPO with other seeds: what must not differ",
            advantage=Grpo(),
            credit=NoCredit(),
            prepend_think=False,
            seed_offset=500_000,
        ),
    }
)
"""Every arm, by name."""


def find_arm(name: str) -> Arm:
    """Looks an arm up.

    Raises:
        ValueError: if there is no such arm; the message lists those that there are.
    """
    if name not in ARMS:
        raise ValueError(f"arms must be among {', '.join(ARMS)}; got {name!r}")
    return ARMS[name]
