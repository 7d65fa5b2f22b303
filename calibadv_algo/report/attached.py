"""The table of the credit measurement that a comparison's page links to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.truth.log import PAGE_FILE, RESULT_FILE
from calibadv_algo.report.reading import ReportError
from calibadv_algo.report.tables import Table, format_interval

CREDIT_FOLDER: Final = "credit"
"""Folder of a comparison with the measurement that `calibadv compare --credit` made."""

CREDIT_LINK: Final = f"{CREDIT_FOLDER}/{PAGE_FILE}"
"""Address of its page, seen from the comparison's."""


def credit_table(comparison_dir: Path) -> Table | None:
    """Estimators against the measured advantages of every policy; None where nothing was measured.

    Raises:
        ReportError: if the results cannot be read.
    """
    path = comparison_dir / CREDIT_FOLDER / RESULT_FILE
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        boards = [each["standings"]["searches"] for each in results]
        names = list(dict.fromkeys(name for board in boards for name in board))
        rows = tuple((name, *(_cell(board, name) for board in boards)) for name in names)
        facts = results[0]["facts"]
        header = ("Estimator", *(str(each["label"]) for each in results))
        note = (
            f"Correlation with the measured advantages of searches, with 95 % intervals by "
            f"{facts['clusters']}: {facts['questions']} questions × {facts['group_size']} "
            f"episodes × {facts['continuations'] // max(1, facts['states'])} continuations of "
            "each policy."
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReportError(
            f"{path} cannot be read ({error}); delete {path.parent}, and compare again"
        ) from error
    return Table(title="Which advantages are right", header=header, rows=rows, note=note)


def _cell(board: dict[str, Any], name: str) -> str:
    """A correlation with its interval, a dash where there is none."""
    if name not in board:
        return format_interval(None)
    score = board[name]["scores"]["correlation"]
    numbers = [float("nan") if score[end] is None else float(score[end]) for end in _ENDS]
    return format_interval(Interval(estimate=numbers[0], low=numbers[1], high=numbers[2]))


_ENDS: Final = ("estimate", "low", "high")
