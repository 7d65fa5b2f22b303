"""Published scores on the seven benchmarks, with where they were read and what they measure.

They stand beside an evaluation so that a reader sees the scale of things, not as opponents:
metric, corpus, retriever, prompt and choice of questions differ from row to row. Every row says
what is known of its setting; :data:`CAVEATS` says what holds for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

Metric = Literal["em", "f1", "cover_em"]
"""The score that a figure is an average of, by our names."""

BENCHMARKS: Final = (
    "NQ",
    "TriviaQA",
    "PopQA",
    "HotpotQA",
    "2WikiMultihopQA",
    "MuSiQue",
    "Bamboogle",
)
"""The seven, in the order in which papers print them."""

MULTI_HOP: Final = BENCHMARKS[3:]
"""Those that take several searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """Scores of one system.

    Attributes:
        system: Name of the system, with its model.
        metric: What the scores are.
        scores: Benchmark -> mean score, 0 to 1.
        average: The average that is printed beside them, None if there is none.
        setting: What is known of how they were measured.
        source: Where they were read.
    """

    system: str
    metric: Metric
    scores: Mapping[str, float]
    average: float | None
    setting: str
    source: str

    def __post_init__(self) -> None:
        """Refuses names and numbers that cannot be."""
        unknown = sorted(set(self.scores) - set(BENCHMARKS))
        if unknown:
            raise ValueError(f"scores must be of {', '.join(BENCHMARKS)}; got {unknown}")
        for value in (*self.scores.values(), self.average or 0.0):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"scores must be in [0, 1], got {value} for {self.system}")


def _read() -> tuple[PublishedRow, ...]:
    text = resources.files("calibadv_algo.experiments.suite").joinpath("published.json")
    return tuple(PublishedRow(**row) for row in json.loads(text.read_text(encoding="utf-8")))


PUBLISHED: Final = _read()
"""Published scores, as far as their metric is one of ours; the table is published.json."""

CAVEATS: Final[tuple[str, ...]] = (
    "The published rows were not measured here, and they are not comparable with each other "
    "either: training questions, corpus, retriever, number of passages, prompt, number of "
    "searches and choice of questions differ.",
    "Models are of the Qwen2.5 family unless the row says Llama.",
    "arXiv 2605.27881 finds that wiki-18 lacks what 37 % of sampled multi-hop questions need, and "
    "that mending it moves exact match by 2 to 6 points, more than one algorithm differs from "
    "another. Compare coverage before scores.",
    "F1 is that of SQuAD and of CalibAdv's reward, with partial credit between yes or no and a "
    "longer answer. The scripts of HotpotQA and 2WikiMultihopQA and FlashRAG's F1 give 0 there; "
    "the row of official F1 follows them.",
    "Cover EM counts an answer that contains an accepted one, so it is at least EM; a long answer "
    "gains by it.",
)
"""Reasons why nothing is simply comparable with :data:`PUBLISHED`."""


def published_rows(metric: Metric, benchmarks: frozenset[str]) -> tuple[PublishedRow, ...]:
    """The rows of a metric that say something about some benchmarks, in order of :data:`PUBLISHED`.

    Names are as in :data:`BENCHMARKS`; others are ignored. Rows that print an average alone are
    there if all seven are asked for.
    """
    is_whole = benchmarks >= frozenset(BENCHMARKS)
    return tuple(
        row
        for row in PUBLISHED
        if row.metric == metric and (benchmarks & frozenset(row.scores) or is_whole)
    )
