"""What is kept of a measurement beside the page: its numbers to five digits, without the groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.ground_truth.study import PARTS
from calibadv_env.common.files import write_text

Record = Mapping[str, Any]

SPEED: Final = "speed"
"""Name of the record of times."""

_DIGITS: Final = 5
"""More than the page shows, so that nothing is rounded twice in another direction."""

_KEPT: Final = ("reference", "facts", "num_turns", "num_clusters", "reliability", "worth")
_SOMETIMES: Final = ("values", "gradient", "gradient_ceiling")
_KINDS: Final = ("search 1", "search 2", "searches wrong by gold")
"""Kinds of turns whose correlations the page speaks of."""


def record_of(result: Record, name: str, command: str) -> dict[str, Any]:
    """The part of a `credit.json` that the page and its readers need.

    Args:
        result: The only entry of the file.
        name: Of the measurement.
        command: That made it.
    """
    kept = {key: result[key] for key in _KEPT}
    kept |= {key: result[key] for key in _SOMETIMES if result.get(key)}
    # The number of estimators decides how wide joint intervals are, whichever of them are kept.
    kept["left_out"] = result["left_out"]
    kept["by_kind"] = {
        kind: {
            each: scores[each]
            for each in ("grpo", "calibadv/silver", "calibadv/gold")
            if each in scores
        }
        for kind, scores in result["by_kind"].items()
        if kind in _KINDS
    }
    kept["answers"] = {
        estimator: one["scores"]["correlation"]
        for estimator, one in result["standings"]["answers"].items()
    }
    kept["searches"] = {
        estimator: {
            "scores": one["scores"],
            "against": {
                metric: one["against"][metric]
                for metric in ("correlation", "wrong_mass")
                if metric in one["against"]
            },
        }
        for estimator, one in result["standings"]["searches"].items()
    }
    return {"name": name, "command": command, **_rounded(kept)}


def write_record(record: Record, folder: Path) -> Path:
    """Writes a record beside the page."""
    path = folder / f"{record['name']}.json"
    write_text(path, json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    return path


def read_records(folder: Path) -> dict[str, Record]:
    """All records of a folder by name.

    Raises:
        FileNotFoundError: if one is missing.
    """
    names = (*(part.name for part in PARTS), SPEED)
    return {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
