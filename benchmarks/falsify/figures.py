"""The pictures of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Results = Mapping[str, Any]

ARM_COLOURS: Final = {
    "grpo": "#6b7280",
    "calibadv": "#009e73",
    "gold-turns": "#56b4e9",
    "flipped-searches": "#cc79a7",
    "grpo-again": "#e69f00",
}
QUALITY_COLOURS: Final = {
    "scored": "#6b7280",
    "agreement": "#009e73",
    "precision": "#56b4e9",
    "recall": "#e69f00",
}
QUALITY_STYLES: Final = {"scored": "s-", "agreement": "^--", "precision": "o-", "recall": "v--"}
_DOT_COLOUR: Final = "#009e73"
_LOG_FROM: Final = 5.0
"""Largest perplexity that a linear axis still shows well."""
_COURSES: Final = (
    ("f1", "F1 on dev"),
    ("entropy", "entropy (nats per token)"),
    ("mean_perplexity", "perplexity of sampled turns"),
    ("repeated_token_share", "share of repeated tokens"),
)
MARGIN: Final = 0.02
"""Difference that counts as equal, for the shading."""


def write_figures(results: Results, directory: Path) -> list[Path]:
    """Draws what the results have numbers for.

    Args:
        results: What :func:`~benchmarks.falsify.numbers.measure_study` gave.
        directory: An existing folder.

    Returns:
        The pictures.
    """
    parts = [part for part in results["parts"] if part["seeds"]]
    figures = {"differences.png": draw_differences(parts)} if parts else {}
    for part in parts:
        figures[f"{part['name']}-scores.png"] = draw_scores(part["levels"], part["split"])
    courses = [part for part in parts if part["kind"] in ("main", "long")]
    if courses:
        figures["courses.png"] = draw_courses(courses)
    if results.get("label_quality"):
        figures["labels.png"] = draw_labels(results["label_quality"])
    written = []
    for name, figure in figures.items():
        figure.savefig(directory / name, dpi=110)
        written.append(directory / name)
    return written


def draw_scores(rows: Sequence[Results], split: str) -> Figure:
    """Final F1 of every arm: interval, mean, and a small dot a seed."""
    figure = _figure(7.0, 0.36 * len(rows) + 0.9)
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        _interval(axes, place, row["f1"])
        seeds = row["by_seed"]
        axes.plot(seeds, [place + 0.24] * len(seeds), ".", color="#9ca3af", markersize=4)
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axes.set_xlabel(f"token F1 on {split} after the last update; small dots: seeds", fontsize=8)
    _clean(axes)
    return figure


def draw_differences(parts: Sequence[Results]) -> Figure:
    """A line a judged difference with the margin shaded; controls are hollow."""
    rows = [(part, row) for part in parts for row in part["differences"]]
    figure = _figure(7.4, 0.36 * len(rows) + 1.0)
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="#e5e7eb", zorder=0)
    axes.axvline(0.0, color="#374151", linewidth=1)
    for place, (_, row) in enumerate(reversed(rows)):
        _interval(axes, place, row["f1"], is_hollow=row["expected"] is not None)
    labels = [f"{part['label']}: {row['name']}" for part, row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel(
        "difference of token F1 (95 %); shaded: counts as equal; hollow: controls", fontsize=8
    )
    _clean(axes)
    return figure


def draw_labels(quality: Results) -> Figure:
    """Quality of silver labels over updates, a panel an arm."""
    figure = _figure(3.9 * len(quality), 3.0)
    panels = figure.subplots(1, len(quality), squeeze=False, sharey=True)[0]
    for axes, (arm, by_label) in zip(panels, quality.items(), strict=True):
        rows = by_label["silver"]["by_update"]
        updates = [row["update"] for row in rows]
        for name, colour in QUALITY_COLOURS.items():
            values = [math.nan if row[name] is None else row[name] for row in rows]
            axes.plot(updates, values, QUALITY_STYLES[name], color=colour, linewidth=2, label=name)
        axes.set_title(f"searches of {arm}", loc="left", fontsize=10)
        axes.set_xlabel("first update of the period")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1.02)
        _clean(axes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def draw_courses(parts: Sequence[Results]) -> Figure:
    """F1, entropy, perplexity and repeated text: a row a number, a column a part."""
    figure = _figure(2.9 * len(parts) + 0.6, 2.0 * len(_COURSES) + 0.6)
    grid = figure.subplots(len(_COURSES), len(parts), squeeze=False, sharey="row", sharex="col")
    for line, (name, unit) in zip(grid, _COURSES, strict=True):
        for axes, part in zip(line, parts, strict=True):
            for row in part["courses"]:
                curve = row["f1_curve"] if name == "f1" else row["curves"][name]
                _course(axes, curve, row["arm"])
            _clean(axes)
        line[0].set_ylabel(unit, fontsize=8)
        if name == "mean_perplexity" and line[0].get_ylim()[1] > _LOG_FROM:
            line[0].set_yscale("log")
            line[0].yaxis.set_major_formatter(_plain)
            line[0].yaxis.set_minor_formatter(_plain)
            line[0].tick_params(axis="y", which="minor", labelsize=6)
    for axes, part in zip(grid[0], parts, strict=True):
        axes.set_title(part["label"], fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("update", fontsize=8)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _plain(value: float, _: int | None = None) -> str:
    """A number on a logarithmic axis, written as it is."""
    return f"{value:g}"


def _course(axes: Any, curve: Results, arm: str) -> None:
    """A thin line a seed and a thick one for their mean."""
    table: Float[np.ndarray, "seed update"] = np.array(
        [[math.nan if v is None else v for v in line] for line in curve["by_seed"]], dtype=float
    )
    colour = ARM_COLOURS.get(arm, "#8c6bb1")
    for line in table:
        axes.plot(curve["updates"], line, color=colour, linewidth=0.6, alpha=0.5)
    known = np.isfinite(table)
    means = np.where(known, table, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    means = np.where(known.any(axis=0), means, math.nan)
    axes.plot(curve["updates"], means, color=colour, linewidth=2, label=arm)


def _interval(axes: Any, place: int, value: Results, *, is_hollow: bool = False) -> None:
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [place, place], color=_DOT_COLOUR, linewidth=2)
    fill = "white" if is_hollow else _DOT_COLOUR
    axes.plot([value["estimate"]], [place], "o", color=_DOT_COLOUR, markerfacecolor=fill)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _clean(axes: Any) -> None:
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
