"""Studies: several comparisons that together answer a question, each in a folder of its own.

``FALSIFY`` asks what was asked of the paper in review: are the step labels right, which part of
the method does the work, and what happens when the labels are random or wrong?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from calibadv_algo.experiments.compare import COMPARE_PRESETS, CompareConfig
from calibadv_algo.experiments.design import Design
from calibadv_algo.training.presets import ATLAS_TINY

PartKind = Literal["main", "labels", "coefficient", "collapse"]
"""Question of a part; it decides how its section of the page looks."""

LAMBDAS: Final = MappingProxyType(
    {
        0.5: "calibadv-lambda-0.5",
        0.75: "calibadv-lambda-0.75",
        1.0: "calibadv",
        1.5: "calibadv-lambda-1.5",
        2.0: "calibadv-lambda-2",
    }
)
"""Arm by rebalancing coefficient; 1 is the published one and is run with the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """One comparison of a study.

    Attributes:
        name: Name of its folder.
        kind: What it is about.
        label: A few words for tables: the condition that its runs share.
        config: The comparison; its output folder is set by the study.
    """

    name: str
    kind: PartKind
    label: str
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


def _long_parts(rates: Iterable[float], seeds: tuple[int, ...]) -> Iterable[StudyPart]:
    """GRPO and CalibAdv for six times as many updates: the paper's collapse comes at update 58."""
    for lr in rates:
        optim = replace(ATLAS_TINY.optim, lr=lr, num_updates=150)
        yield StudyPart(
            name=f"long-lr{lr:g}",
            kind="collapse",
            label=f"lr {lr:g}, 150 updates",
            config=CompareConfig(
                arms=("grpo", "calibadv"),
                seeds=seeds,
                train=replace(ATLAS_TINY, optim=optim),
                design=Design(
                    hypotheses=("GRPO collapses and CalibAdv does not.",),
                    contrasts=("calibadv - grpo",),
                ),
            ),
        )


FALSIFY: Final = Study(
    name="falsify",
    parts=(
        StudyPart(
            name="main",
            kind="main",
            label="lr 0.0003, planned",
            config=COMPARE_PRESETS["falsify"],
        ),
        StudyPart(
            name="labels",
            kind="labels",
            label="lr 0.0003, 1 epoch",
            config=CompareConfig(
                arms=(
                    "grpo",
                    "calibadv",
                    "soft-penalty",
                    "rebalance",
                    "think-tag",
                    "soft-penalty-rebalance",
                    "calibadv-gold",
                    "calibadv-answer-match",
                    "calibadv-random",
                    "calibadv-inverted",
                    "grpo-equal-mass",
                ),
                seeds=tuple(range(10)),
            ),
        ),
        *_long_parts((3e-4, 6e-4, 1e-3), seeds=(0, 1, 2, 3, 4)),
        StudyPart(
            name="lambda",
            kind="coefficient",
            label="lr 0.0003, 1 epoch",
            config=CompareConfig(
                arms=tuple(arm for arm in LAMBDAS.values() if arm != "calibadv"),
                seeds=(0, 1, 2, 3, 4),
            ),
        ),
    ),
)
"""The experiment on CalibAdv's claims, on the atlas; second edition, planned before it runs."""
