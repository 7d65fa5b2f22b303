"""The result of a comparison in sentences: scores first, then each difference with its interval."""

from __future__ import annotations

import math

from calibadv_algo.experiments.verdicts import Verdict
from calibadv_algo.report.rows import Row
from calibadv_algo.report.summary import SplitSummary, Summary


def result_sentences(summary: Summary) -> list[str]:
    """One sentence with the scores, and one for each difference; [] where nothing was evaluated.

    The first split is meant: that of the final scores.
    """
    if not summary.splits:
        return []
    split = summary.splits[0]
    levels = [row for row in split.rows if row.kind == "arm"]
    if not levels:
        return []
    scores = ", ".join(f"{row.name} {_number(row.scores['f1'].estimate)}" for row in levels)
    first = f"F1 on {_questions(split)} of {split.split}, {_seeds(summary)}: {scores}."
    differences = [row for row in split.rows if row.kind == "difference"]
    judged = {
        **summary.judgement.verdicts,
        **{name: each.verdict for name, each in summary.judgement.controls.items()},
    }
    return [
        first,
        *(_difference(row, judged.get(row.name), summary.metric) for row in differences),
    ]


def _questions(split: SplitSummary) -> str:
    return f"{split.num_questions} question{'' if split.num_questions == 1 else 's'}"


def _seeds(summary: Summary) -> str:
    count = len(summary.seeds)
    return f"{count} seed{'' if count == 1 else 's'}"


def _difference(row: Row, verdict: Verdict | None, metric: str) -> str:
    """The difference with its interval, and the word of its verdict if it is judged."""
    f1 = row.scores["f1" if verdict is None else metric]
    text = f"{row.name} is {_signed(f1.estimate)}"
    if math.isnan(f1.low) or math.isnan(f1.high):
        return f"{text}, without an interval."
    holds = "holds" if f1.low <= 0 <= f1.high else "excludes"
    end = f"which {holds} 0" if verdict is None else verdict.word
    return f"{text} [{_signed(f1.low)}, {_signed(f1.high)}], {end}."


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
