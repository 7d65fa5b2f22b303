"""Agreement of labels of searches with gold ones, counted over recorded groups."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.base import SCORED_BAD, CreditRule
from calibadv_algo.credit.labels import AnswerMatchCredit, GoldCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.report.groups import iterate_groups
from calibadv_algo.types import Group

LABELS: Final[Mapping[str, CreditRule]] = {
    "silver": SilverCredit(),
    "answer match": AnswerMatchCredit(),
}
"""The labels that are compared with gold ones."""

LABEL_ARMS: Final = ("grpo", "calibadv")
"""Arms whose recorded searches the labels are checked on."""

AGREEMENT_FILE: Final = "agreement.json"
"""File in a run's folder with what was counted in its trajectories."""

UPDATES_A_PERIOD: Final = 5
"""Updates that are counted together."""

GOOD, BAD, NONE = range(3)


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a search belongs.

    Attributes:
        update: Number of updates behind the policy that made it, of its period the first.
        hops: Reasoning steps of its question, 0 when unknown.
        place: How many searches its trajectory had made with it, from 1.
        is_punished: True if GRPO's advantage of its trajectory is negative.
    """

    update: int
    hops: int
    place: int
    is_punished: bool


@dataclass(slots=True)
class Agreement:
    """Searches counted by gold label and by another label.

    Attributes:
        counts: By cell a matrix: rows are gold good and gold bad, columns the other label's
            good, bad and none.
    """

    counts: dict[Cell, Float[np.ndarray, "2 3"]] = field(default_factory=dict)

    def add(self, group: Group, labels: CreditRule) -> None:
        """Counts the searches of a group; those without a gold label are passed over."""
        gold, other = GoldCredit()(group), labels(group)
        advantages = Grpo()(group, other)
        for row, trajectory in enumerate(group.trajectories):
            place = 0
            for column in range(len(trajectory.turns)):
                if math.isnan(gold[row, column]):
                    continue
                place += 1
                cell = Cell(
                    trajectory.policy_version // UPDATES_A_PERIOD * UPDATES_A_PERIOD,
                    int(trajectory.reset_info.get("hops", 0)),
                    place,
                    bool(advantages[row, column] < 0),
                )
                matrix = self.counts.setdefault(cell, np.zeros((2, 3)))
                matrix[_kind(gold[row, column]), _kind(other[row, column])] += 1

    def join(self, entries: list[list[Any]]) -> None:
        """Adds what :meth:`as_list` of another one gave."""
        for update, hops, place, is_punished, *counts in entries:
            cell = Cell(update, hops, place, bool(is_punished))
            matrix = self.counts.setdefault(cell, np.zeros((2, 3)))
            matrix += np.array(counts, dtype=np.float64).reshape(2, 3)

    def as_list(self) -> list[list[Any]]:
        """Cells and counts as plain JSON values, in order."""
        return [
            [*(int(value) for value in astuple(cell)), *(int(n) for n in matrix.ravel())]
            for cell, matrix in sorted(self.counts.items(), key=lambda item: astuple(item[0]))
        ]

    def total(self, chosen: Callable[[Cell], bool] = lambda cell: True) -> Quality:
        """Sums the cells that are chosen."""
        matrices = [matrix for cell, matrix in self.counts.items() if chosen(cell)]
        return Quality(np.sum(matrices, axis=0) if matrices else np.zeros((2, 3)))


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of a matrix of counts; each is NaN where it has nothing to refer to.

    Attributes:
        counts: As in :class:`Agreement`.
    """

    counts: Float[np.ndarray, "2 3"]

    @property
    def num_searches(self) -> int:
        """Searches with a gold label."""
        return int(self.counts.sum())

    @property
    def base_rate(self) -> float:
        """Share of the searches that are good by gold labels."""
        return _share(self.counts[GOOD].sum(), self.counts.sum())

    @property
    def scored(self) -> float:
        """Share of the searches that have the other label at all."""
        return _share(self.counts[:, :NONE].sum(), self.counts.sum())

    @property
    def agreement(self) -> float:
        """Share of the searches with both labels whose labels agree."""
        return _share(self.counts[GOOD, GOOD] + self.counts[BAD, BAD], self.counts[:, :NONE].sum())

    @property
    def precision(self) -> float:
        """Share of those called good that are good by gold labels."""
        return _share(self.counts[GOOD, GOOD], self.counts[:, GOOD].sum())

    @property
    def recall(self) -> float:
        """Share of the good ones that are called good; those without a label are missed."""
        return _share(self.counts[GOOD, GOOD], self.counts[GOOD].sum())

    def as_dict(self) -> dict[str, float]:
        """The shares and the number of searches, by name."""
        names = ("num_searches", "base_rate", "scored", "agreement", "precision", "recall")
        return {name: getattr(self, name) for name in names}


def _kind(correctness: float) -> int:
    if math.isnan(correctness):
        return NONE
    return GOOD if correctness > SCORED_BAD else BAD


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def count_run(directory: Path) -> dict[str, list[list[Any]]]:
    """Counts of a run's searches by label, {} if it recorded no trajectories.

    What was counted before is read from ``agreement.json``, where there is one.
    """
    counted_before = directory / AGREEMENT_FILE
    if counted_before.is_file():
        found: dict[str, list[list[Any]]] = json.loads(counted_before.read_text(encoding="utf-8"))
        return found
    paths = sorted((directory / "trajectories").glob("*"))
    counted = {name: Agreement() for name in LABELS}
    for path in paths:
        for group in iterate_groups(path):
            for name, credit in LABELS.items():
                counted[name].add(group, credit)
    return {name: each.as_list() for name, each in counted.items()} if paths else {}
