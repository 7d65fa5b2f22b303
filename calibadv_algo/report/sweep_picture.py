"""The picture of a sweep: final score over a setting, a line an arm, a panel a second value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from calibadv_algo.experiments.sweeping import Point, Varied
from calibadv_algo.report.curves import arm_colours
from calibadv_algo.report.summary import Summary
from calibadv_env.common.files import atomic_file

SWEEP_FILE: Final = "sweep.png"
_LOG_FROM: Final = 5.0


def write_sweep(
    directory: Path, summary: Summary, varied: Sequence[Varied], points: Sequence[Point]
) -> Path:
    """Draws the sweep into its folder; returns the picture's path."""
    path = directory / SWEEP_FILE
    with atomic_file(path, "wb") as stream:
        draw_sweep(summary, varied, points).savefig(stream, dpi=150)
    return path


def draw_sweep(summary: Summary, varied: Sequence[Varied], points: Sequence[Point]) -> Figure:
    """Final scores with their intervals over the first setting."""
    rows = {row.name: row.scores["f1"] for row in summary.splits[0].rows if row.kind == "arm"}
    panels = varied[1].values if len(varied) > 1 else ("",)
    arms = list(dict.fromkeys(point.arm for point in points))
    colours = arm_colours(arms, arms[0])
    figure = Figure(figsize=(3.8 * len(panels) + 0.4, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    places, is_numeric = _places(varied[0].values)
    for axes, panel in zip(grid, panels, strict=True):
        for shift, arm in enumerate(arms):
            shown = [p for p in points if p.arm == arm and (not panel or p.values[1] == panel)]
            x = [places[p.values[0]] for p in shown]
            found = [rows[p.method] for p in shown]
            y = [each.estimate for each in found]
            ends = [
                [each.estimate - each.low for each in found],
                [each.high - each.estimate for each in found],
            ]
            style = ("o-", "s--", "^-.", "v:")[shift % 4]
            axes.errorbar(x, y, yerr=ends, fmt=style, color=colours[arm], label=arm, capsize=3)
        _label(axes, varied, panel, places, is_numeric)
    grid[0].set_ylabel(f"F1 on {summary.splits[0].split}", fontsize=9)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False)
    return figure


def _places(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Where values stand on the axis: numbers where they are, words in their order."""
    try:
        return {value: float(value) for value in values}, True
    except ValueError:
        return {value: float(i) for i, value in enumerate(values)}, False


def _label(
    axes: Any, varied: Sequence[Varied], panel: str, places: dict[str, float], is_numeric: bool
) -> None:
    axes.set_xlabel(varied[0].place, fontsize=9)
    if panel:
        axes.set_title(f"{varied[1].place} = {panel}", fontsize=9)
    ends = sorted(places.values())
    if is_numeric and ends[0] > 0 and ends[-1] / ends[0] >= _LOG_FROM:
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), list(places), fontsize=8)
    axes.minorticks_off()
    axes.grid(color="#e5e7eb", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
