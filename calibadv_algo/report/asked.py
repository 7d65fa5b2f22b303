"""What a comparison's runs asked: kinds of questions, and groups that had something to teach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from calibadv_algo.report.reading import Comparison, Run

MIX_PREFIX: Final = "question_share_"
"""Beginning of the metrics that say what share of the questions was of a kind."""

SIGNAL: Final = "groups_with_signal_share"
"""Metric: share of an update's groups that have an advantage other than 0."""

_QUARTER: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Mean of a metric over the runs of an arm: all updates, the first and the last quarter."""

    mean: float
    first: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the runs of an arm asked.

    Attributes:
        arm: Name of the arm.
        signal: Share of the groups that had a signal; None where that was not recorded.
        mix: Share of the questions by kind; {} where all questions are alike.
    """

    arm: str
    signal: Course | None
    mix: Mapping[str, Course]


def what_was_asked(comparison: Comparison) -> tuple[Asked, ...]:
    """One entry an arm."""
    entries = []
    for arm in comparison.arms:
        runs = [comparison.run(arm, seed) for seed in comparison.seeds]
        keys = sorted({key for run in runs for line in run.metrics for key in line})
        kinds = [key for key in keys if key.startswith(MIX_PREFIX)]
        signal = _course(runs, SIGNAL) if SIGNAL in keys else None
        entries.append(
            Asked(
                arm=arm,
                signal=signal,
                mix={kind_of_question(key): _course(runs, key, missing=0.0) for key in kinds},
            )
        )
    return tuple(entries)


def kind_of_question(key: str) -> str:
    """What the metric of a share of questions counts: a pool, or a number of hops."""
    name = key.removeprefix(MIX_PREFIX)
    hops = name.removeprefix("hops_")
    return f"{name} pool" if hops == name else f"{hops} hop{'' if hops == '1' else 's'}"


def _course(runs: Sequence[Run], key: str, *, missing: float = math.nan) -> Course:
    values = [[_number(line.get(key, missing)) for line in run.metrics] for run in runs]
    parts = [math.ceil(len(line) * _QUARTER) for line in values]
    return Course(
        mean=_mean([v for line in values for v in line]),
        first=_mean([v for line, n in zip(values, parts, strict=True) for v in line[:n]]),
        last=_mean([v for line, n in zip(values, parts, strict=True) for v in line[-n:]]),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
