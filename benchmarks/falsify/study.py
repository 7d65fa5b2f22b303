"""Studies: several comparisons that together answer a question, each in a folder of its own.

``FALSIFY`` asks what was asked of the paper in review: does the method win, are the step labels
right, which part of it does the work, and what happens when the labels are random or wrong?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from calibadv_algo.experiments.compare import COMPARE_PRESETS, CompareConfig
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import ATLAS_FAIR

PartKind = Literal["main", "labels", "world", "long"]
"""Question of a part; it decides which sections of the page it appears in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """One comparison of a study.

    Attributes:
        name: Name of its folder.
        kind: What it is about.
        label: A few words for tables: the condition that its runs share.
        question: Heading of its section.
        config: The comparison; its output folder is set by the study.
    """

    name: str
    kind: PartKind
    label: str
    question: str
    config: CompareConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Comparisons that are read together.

    Attributes:
        name: Name of the module under ``benchmarks`` that runs it.
        parts: The comparisons, in the order in which they run.
    """

    name: str
    parts: tuple[StudyPart, ...]

    def __post_init__(self) -> None:
        """Refuses parts that would share a folder."""
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"parts must have distinct names and be at least one, got {names}")

    def part_config(
        self, part: StudyPart, output_dir: Path, *, num_workers: int = 0
    ) -> CompareConfig:
        """The comparison of a part, in its folder of the study's folder."""
        return replace(part.config, output_dir=output_dir / part.name, num_workers=num_workers)

    def of_kind(self, kind: PartKind) -> tuple[StudyPart, ...]:
        """The parts of a kind."""
        return tuple(part for part in self.parts if part.kind == kind)


_PLAN: Final = COMPARE_PRESETS["falsify"].design
"""Split, questions, margin and error rate that all parts share."""

LABEL_CONTRASTS: Final = (
    "soft-penalty - grpo",
    "soft-penalty-rebalance - soft-penalty",
    "calibadv - soft-penalty-rebalance",
    "rebalance - grpo",
    "think-tag - grpo",
    "calibadv - grpo-equal-mass",
    "grpo-equal-mass - think-tag",
    "calibadv-gold - calibadv",
    "calibadv-answer-match - calibadv",
    "calibadv-random - calibadv",
    "calibadv-inverted - calibadv",
)
"""Parts added one by one and alone, and labels replaced."""

HARDER_WORLDS: Final = (
    "atlas-noisy",
    "atlas-homonyms",
    "atlas-reworded",
    "atlas-long",
    "atlas-open",
)


def _labels_part() -> StudyPart:
    arms = ("grpo", "calibadv", "soft-penalty", "rebalance", "think-tag", "soft-penalty-rebalance")
    labels = ("calibadv-gold", "calibadv-answer-match", "calibadv-random", "calibadv-inverted")
    return StudyPart(
        name="labels",
        kind="labels",
        label="atlas-fair",
        question="Which part does the work, and do the labels matter?",
        config=CompareConfig(
            arms=(*arms, *labels, "grpo-equal-mass"),
            seeds=tuple(range(10)),
            train=ATLAS_FAIR,
            design=replace(
                _PLAN,
                hypotheses=(
                    "The soft penalty raises F1; so does rebalancing.",
                    "Gold labels are at least as good as silver ones, random and inverted ones "
                    "worse.",
                ),
                contrasts=LABEL_CONTRASTS,
                controls=(),
            ),
        ),
    )


def _world_train(world: str) -> TrainConfig:
    """The settings of a harder world: what its own environment id sets."""
    env = replace(ATLAS_FAIR.env, dataset=world)
    if world == "atlas-long":
        env = replace(env, max_turns=8)
    if world == "atlas-open":
        env = replace(env, reward="abstain")
    return replace(ATLAS_FAIR, env=env)


def _world_part(world: str) -> StudyPart:
    return StudyPart(
        name=world,
        kind="world",
        label=world,
        question=f"Does it win where more can go wrong: {world}?",
        config=CompareConfig(
            arms=("grpo", "calibadv"),
            seeds=tuple(range(10)),
            train=_world_train(world),
            design=replace(
                _PLAN,
                hypotheses=("CalibAdv ends with a higher F1 than GRPO where more can go wrong.",),
                contrasts=("calibadv - grpo",),
                controls=(),
            ),
        ),
    )


def _long_part(lr: float) -> StudyPart:
    """GRPO and CalibAdv for many more updates: the paper's collapse comes at update 58."""
    return StudyPart(
        name=f"long-lr{lr:g}",
        kind="long",
        label=f"lr {lr:g}, 150 updates",
        question=f"Long runs at learning rate {lr:g}",
        config=CompareConfig(
            arms=("grpo", "calibadv"),
            seeds=tuple(range(5)),
            train=replace(ATLAS_FAIR, optim=replace(ATLAS_FAIR.optim, lr=lr, num_updates=150)),
            design=replace(
                _PLAN,
                hypotheses=("GRPO collapses and CalibAdv does not, so it ends higher.",),
                contrasts=("calibadv - grpo",),
                controls=(),
            ),
        ),
    )


FALSIFY: Final = Study(
    name="falsify",
    parts=(
        StudyPart(
            name="main",
            kind="main",
            label="atlas-fair",
            question="Does CalibAdv end higher than GRPO?",
            config=COMPARE_PRESETS["falsify"],
        ),
        _labels_part(),
        *map(_world_part, HARDER_WORLDS),
        *map(_long_part, (3e-4, 6e-4, 1e-3)),
    ),
)
"""The experiment on CalibAdv's claims; second edition, planned before it runs."""
