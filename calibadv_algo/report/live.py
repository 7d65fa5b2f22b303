"""The page of runs that are going on: how far each is, curves, and their newest groups."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from calibadv_algo.report.assessment import assess
from calibadv_algo.report.curves import arm_colours, running_panels
from calibadv_algo.report.groups import BestGroups, GroupView, iterate_groups
from calibadv_algo.report.methods import Methods, compared_methods
from calibadv_algo.report.reading import Comparison, Run, comparison_of, read_header
from calibadv_algo.report.template import LivePage, render_template
from calibadv_algo.training.tracking import read_metrics
from calibadv_env.common.files import atomic_file

LIVE_FILE: Final = "report.html"
REFRESH_S: Final = 20.0
"""Seconds after which the page is loaded again."""

_GROUPS: Final = 12


def read_running(folder: Path) -> Comparison:
    """A comparison, or a single run as one, as far as it is: metrics alone, no evaluations."""
    if (folder / "comparison.json").is_file():
        header = read_header(folder / "comparison.json")
        seeds = tuple(int(seed) for seed in header["seeds"])
        places = [(str(arm), seed) for arm in header["arms"] for seed in seeds]
        runs = [_running(folder / "runs" / f"{arm}-seed{seed}", arm, seed) for arm, seed in places]
        return comparison_of(folder, header, seeds, tuple(runs))
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = settings["config"]
    name, seed = folder.absolute().name, int(config.get("seed", 0))
    header = {"arms": [name], "config": config}
    return comparison_of(folder, header, (seed,), (_running(folder, name, seed),))


def write_live(
    folder: Path,
    columns: Sequence[str],
    states: Sequence[Sequence[str]],
    *,
    is_over: bool = False,
    remark: str = "",
    file: Path | None = None,
) -> Path:
    """Writes the page of runs as far as they are; returns its path.

    Args:
        folder: Folder of a comparison or of a run.
        columns: Heads of the table of states; the first is the name of the run.
        states: One row a run.
        is_over: If true, the page is not loaded again.
        remark: Stands at the top once it is over.
        file: Where the page goes; None means `report.html` in the folder.
    """
    comparison = read_running(folder)
    methods, groups = _newest_groups(comparison)
    now = time.time()
    at = datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S UTC")
    text = render_template(
        "live.html",
        groups,
        running_panels(comparison),
        arm_colours(comparison.arms, comparison.baseline),
        methods.labels,
        live=None if is_over else LivePage(REFRESH_S, round(now, 1)),
        title=", ".join(comparison.arms),
        columns=columns,
        states=states,
        sentences=[remark or f"As of {at}."],
        is_over=is_over,
        refresh_s=round(REFRESH_S),
    )
    path = folder / LIVE_FILE if file is None else file
    with atomic_file(path, "wb") as stream:
        # Policies write halves of surrogate pairs, which UTF-8 cannot.
        stream.write(text.encode("utf-8", "replace"))
    return path


def _running(place: Path, arm: str, seed: int) -> Run:
    metrics = tuple(read_metrics(place / "metrics.jsonl"))
    return Run(arm=arm, seed=seed, directory=place, metrics=metrics, evals=())


def _newest_groups(comparison: Comparison) -> tuple[Methods, list[GroupView]]:
    """Groups of the newest update of each run, those with punished correct searches first."""
    newest = [
        (run, files[-1])
        for run in comparison.runs
        if (files := sorted((run.directory / "trajectories").glob("*.jsonl")))
    ]
    example = next(iterate_groups(newest[0][1]), None) if newest else None
    methods = compared_methods(comparison, example)
    share = max(1, _GROUPS // max(1, len(newest)))
    views: list[GroupView] = []
    for run, path in newest:
        best = BestGroups()
        for group in iterate_groups(path):
            best.add(assess(group, methods))
        views += best.views(share, arm=run.arm, seed=run.seed)
    return methods, views
