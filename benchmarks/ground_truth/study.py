"""What is trained and measured for docs/credit, each as the command that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LABELS: Final = tuple(
    f"calibadv/{label}" for label in ("gold", "silver", "answer-match", "random", "inverted")
)
"""CalibAdv by its labels, in the order that theory predicts."""

TEN: Final = (
    *LABELS,
    "query-group/relevance",
    "critic-search/gold",
    "turn-baseline",
    "rloo",
    "mt-grpo",
)
"""Estimators that all policies and worlds are measured with, named before the measurements."""

NEWER: Final = (
    "sibling-td",
    "labelled-sibling-td/silver",
    "labelled-sibling-td/answer-match",
    *("igpo", "a2tgpo", "stamp", "gagpo", "gdpo", "hgpo", "gigpo", "cw-grpo/silver"),
    *("rloo", "turn-baseline", "calibadv/silver", "calibadv/gold", "mt-grpo"),
    *("query-group/relevance", "critic-search/gold"),
)
"""Our own estimators, newer ones, and some to compare with."""

CRITICS: Final = (
    *("ppo-gae", "bi-level-gae", "rloo", "mt-grpo", "calibadv/silver", "calibadv/gold"),
)

_BY_ENTITY: Final = ("--cluster", "gold_entities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training run whose policies are measured.

    Attributes:
        name: Of its folder.
        flags: Of `calibadv train`, but for the folder.
        keeps_policy: If true, its policy is the shipped one, which takes the place of a copy.
    """

    name: str
    flags: tuple[str, ...]
    keeps_policy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A measurement, or another look at one.

    Attributes:
        name: Of its folder and of the file that is kept.
        flags: Of `calibadv credit`, but for estimators and folder; empty for another look.
        estimators: Held against the truth; empty for all of the library.
        training: The run that the policy is of; "" for the shipped one.
        update: Its checkpoint.
        log_of: Measurement whose episodes and continuations it goes on with.
    """

    name: str
    flags: tuple[str, ...] = ()
    estimators: tuple[str, ...] = TEN
    training: str = ""
    update: int = 0
    log_of: str = ""

    def policy(self, runs: str = "runs") -> str:
        """The policy as the command names it."""
        if not self.training:
            return "atlas-tiny"
        return f"{runs}/{self.training}/checkpoints/update_{self.update:06d}/policy"

    def arguments(self, runs: str = "runs") -> list[str]:
        """Arguments of `calibadv credit`, but for the folder."""
        named = [word for each in self.estimators for word in ("--estimators", each)]
        return [self.policy(runs), *self.flags, *named]


TRAININGS: Final = (
    Training(name="grpo", flags=("--arm", "grpo", "--checkpoint-every", "13")),
    Training(name="calibadv", flags=("--arm", "calibadv", "--checkpoint-every", "13")),
    Training(
        name="critic",
        flags=(
            *("--arm", "grpo", "--advantage", "ppo-gae", "--optim.lr", "1e-30"),
            *("--optim.critic.lr", "3e-4", "--optim.num-updates", "10"),
            *("--evaluation.every", "0", "--checkpoint-every", "10"),
        ),
        keeps_policy=True,
    ),
    *(
        Training(
            name=name,
            flags=(
                *("--baseline", name, "--optim.num-updates", "8"),
                *("--evaluation.every", "0", "--checkpoint-every", "8"),
            ),
        )
        for name in ("search-r1-ppo", "mt-ppo")
    ),
)

_48: Final = ("--questions", "48", *_BY_ENTITY)
_DEV_QUESTIONS: Final = ("--env.split", "dev", "--questions", "144")
_DEV: Final = (*_DEV_QUESTIONS, *_BY_ENTITY)
_SEARCH_R1: Final = ("--env.reward", "em", "--env.no-format-gate")

PARTS: Final = (
    Part(name="warm", flags=("--gradient",), estimators=()),
    Part(name="warm-labels", estimators=LABELS, log_of="warm"),
    Part(name="warm-120", flags=("--questions", "120", *_BY_ENTITY), log_of="warm"),
    Part(name="dev", flags=_DEV),
    Part(name="dev-countries", flags=_DEV_QUESTIONS, log_of="dev"),
    Part(name="dev-newer", flags=_DEV, estimators=NEWER, log_of="dev"),
    *(
        Part(
            name=f"dev-against-{label}",
            flags=(*_DEV, "--reference", f"calibadv/{label}"),
            estimators=(*LABELS, *NEWER[:3], "query-group/relevance"),
            log_of="dev",
        )
        for label in ("gold", "silver", "inverted")
    ),
    *(
        Part(name=f"{run}-{update}", flags=_48, training=run, update=update)
        for run in ("grpo", "calibadv")
        for update in (13, 25)
    ),
    Part(name="weak", flags=("--env.top-k", "1", *_48)),
    Part(
        name="noisy",
        flags=("--env.dataset", "atlas-noisy", "--questions", "64"),
    ),
    Part(
        name="critic",
        flags=_DEV,
        estimators=CRITICS,
        training="critic",
        update=10,
        log_of="dev",
    ),
    Part(
        name="search-r1-ppo",
        flags=(*_SEARCH_R1, "--env.invalid-action", "continue", "--questions", "32", *_BY_ENTITY),
        estimators=CRITICS,
        training="search-r1-ppo",
        update=8,
    ),
    Part(
        name="mt-ppo",
        flags=("--env.no-format-gate", "--questions", "24", *_BY_ENTITY),
        estimators=("mt-ppo", *CRITICS),
        training="mt-ppo",
        update=8,
    ),
)
