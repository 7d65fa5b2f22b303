"""Pictures of a measurement of credit."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from calibadv_algo.experiments.truth.audit import Audit, Standing

_DPI: Final = 110
_SCATTERED: Final = ("grpo", "calibadv/silver")
_COLOURS: Final = ("#009e73", "#8c6bb1", "#e69f00", "#56b4e9", "#cc79a7", "#6b7280")

Names = Callable[[Mapping[str, Standing]], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it stands in a page.

    Attributes:
        name: Stem of its file.
        title: Its caption.
        png: Its bytes.
    """

    name: str
    title: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


def make_pictures(sources: Sequence[tuple[str, Audit]], names: Names) -> list[Picture]:
    """Estimators with intervals, what correct searches are worth, truth against estimate.

    Args:
        sources: Label and audit of every policy.
        names: Chooses candidates for the first picture, given the standings.
    """
    return [
        _picture(
            "estimators",
            "Correlation with the truth over searches, 95 % intervals by cluster",
            _estimators(sources, names),
        ),
        _picture(
            "worth", "What a search is worth, by its number and by gold label", _worth(sources)
        ),
        _picture(
            "scatter",
            f"Truth against estimate, one point a search ({sources[0][0]})",
            _scatter(sources[0][1]),
        ),
    ]


def _estimators(sources: Sequence[tuple[str, Audit]], names: Names) -> matplotlib.figure.Figure:
    rows = list(names(sources[0][1].standings["searches"]))[::-1]
    figure = matplotlib.figure.Figure(figsize=(8.5, 0.7 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    step = 0.6 / max(1, len(sources))
    for place, (label, audit) in enumerate(sources):
        standings = audit.standings["searches"]
        known = [
            (i, standings[name].scores["correlation"])
            for i, name in enumerate(rows)
            if name in standings
        ]
        points = np.array([each.estimate for _, each in known])
        ends = np.array([[each.low, each.high] for _, each in known])
        heights = np.array([i for i, _ in known]) - step * (place - (len(sources) - 1) / 2)
        axes.errorbar(
            points,
            heights,
            xerr=np.abs(ends.T - points),
            fmt="o",
            ms=4,
            lw=1.4,
            color=_COLOURS[place % len(_COLOURS)],
            label=label,
        )
    axes.axvline(0, color="#999", lw=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("correlation with the measured truth")
    _finish(axes, len(sources) > 1)
    return figure


def _worth(sources: Sequence[tuple[str, Audit]]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(8.5, 3.2), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(sources), sharey=True, squeeze=False)[0])
    for axes, (label, audit) in zip(all_axes, sources, strict=True):
        worth = {each.what: each for each in audit.worth}
        numbers = [n for n in range(1, 8) if f"search {n}" in worth]
        for shift, (verdict, colour) in enumerate((("correct", "#009e73"), ("wrong", "#8c6bb1"))):
            known = [
                (n, worth[key])
                for n in numbers
                if (key := f"search {n}, {verdict} by gold") in worth
            ]
            if not known:
                continue
            points = np.array([each.advantage.estimate for _, each in known])
            ends = np.array([[each.advantage.low, each.advantage.high] for _, each in known])
            places = np.array([n for n, _ in known]) + 0.16 * (shift - 0.5)
            axes.errorbar(
                places,
                points,
                yerr=np.abs(ends.T - points),
                fmt="o",
                ms=5,
                lw=1.4,
                color=colour,
                label=f"{verdict} by gold",
            )
            for place, (_, each) in zip(places, known, strict=True):
                axes.annotate(
                    f"{each.count}",
                    (place, each.advantage.high),
                    fontsize=7,
                    ha="center",
                    va="bottom",
                    color="#555",
                )
        axes.axhline(0, color="#999", lw=0.8)
        axes.set_xticks(numbers)
        axes.set_xlabel("search number")
        axes.set_title(label, fontsize=9)
        _finish(axes, axes is all_axes[0])
    all_axes[0].set_ylabel("mean true advantage")
    return figure


def _scatter(audit: Audit) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(8.5, 3.6), layout="constrained")
    names = [name for name in _SCATTERED if name in audit.advantages]
    all_axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    turns, here = audit.turns, audit.turns.is_search
    for axes, name in zip(all_axes, names, strict=True):
        for label, colour, text in (
            (1, "#009e73", "correct by gold"),
            (0, "#8c6bb1", "wrong"),
            (-1, "#6b7280", "no label"),
        ):
            chosen = here & (turns.gold == label)
            if chosen.any():
                axes.errorbar(
                    audit.advantages[name][chosen],
                    turns.truth[chosen],
                    yerr=turns.error[chosen],
                    fmt="o",
                    ms=3,
                    lw=0.5,
                    alpha=0.6,
                    color=colour,
                    label=text,
                )
        axes.axhline(0, color="#999", lw=0.8)
        axes.axvline(0, color="#999", lw=0.8)
        axes.set_xlabel(f"advantage under {name}")
        _finish(axes, axes is all_axes[0])
    all_axes[0].set_ylabel("true advantage ± standard error")
    return figure


def _finish(axes: matplotlib.axes.Axes, has_legend: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if has_legend:
        axes.legend(fontsize=8, frameon=False)


def _picture(name: str, title: str, figure: matplotlib.figure.Figure) -> Picture:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return Picture(name=name, title=title, png=stream.getvalue())
