"""Learning curves: the numbers behind them, and a picture of small multiples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg

from calibadv_algo.experiments.profiles import performance_profile
from calibadv_algo.experiments.statistics import (
    corrected_interval,
    draw_resamples,
    resampled_means,
    share_interval,
)
from calibadv_algo.experiments.variance import components
from calibadv_algo.report.asked import MIX_PREFIX, SIGNAL, kind_of_question
from calibadv_algo.report.reading import Comparison, Run, final_scores, read_comparison
from calibadv_env.common.files import atomic_file

CURVES_FILE: Final[str] = "curves.png"
ARM_COLOURS: Final[tuple[str, ...]] = (
    "#6b7280",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#8c6bb1",
)
"""Distinct for all common kinds of colour blindness; the baseline is grey. Orange-red and blue are
left to the advantages."""

LINE_STYLES: Final[tuple[str, ...]] = ("-", "-", "--", "-.", ":", "--")

_METRIC_PANELS: Final[tuple[tuple[str, str, str], ...]] = (
    ("reward_mean", "Sampled reward", "mean reward of an episode"),
    ("searches_mean", "Searches", "searches per episode"),
    ("format_valid_share", "Format validity", "share of episodes"),
    ("mispenalized_share", "Mis-penalised searches", "share of punished searches"),
    ("entropy", "Policy entropy", "nats per token"),
    (SIGNAL, "Groups with a signal", "share of an update's groups"),
)

_STEPS: Final = 50
"""Scores between 0 and 1 at which a performance profile is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCurve:
    """One arm's line.

    Attributes:
        arm: Name of the arm.
        updates: Positions on the horizontal axis, ascending: updates unless the panel says else.
        mean: Mean over the seeds that have a value there; NaN where none has.
        low: Lower end of the band, None without a band.
        high: Upper end of the band, None without a band.
        by_seed: Values of each seed at the same positions, NaN where missing.
    """

    arm: str
    updates: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    by_seed: Mapping[int, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot.

    Attributes:
        key: Name of the number.
        title: Heading.
        unit: Label of the vertical axis.
        curves: One an arm that has values.
        axis: Label of the horizontal axis.
    """

    key: str
    title: str
    unit: str
    curves: tuple[ArmCurve, ...]
    axis: str = "update"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _mean_of_known(values: Float[np.ndarray, "seed update"]) -> tuple[float, ...]:
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0.0).sum(axis=0)
    return tuple(np.where(counts > 0, totals / np.maximum(counts, 1), math.nan).tolist())


def _metric_curve(arm: str, runs: Sequence[Run], key: str) -> ArmCurve | None:
    lines = [{int(line["update"]): _number(line.get(key)) for line in run.metrics} for run in runs]
    updates = tuple(sorted({update for line in lines for update in line}))
    values = np.array([[line.get(update, math.nan) for update in updates] for line in lines])
    if not np.isfinite(values).any():
        return None
    return ArmCurve(
        arm=arm,
        updates=updates,
        mean=_mean_of_known(values),
        low=None,
        high=None,
        by_seed={run.seed: tuple(row.tolist()) for run, row in zip(runs, values, strict=True)},
    )


def _f1_scores(
    runs: Sequence[Run], split: str, update: int
) -> tuple[Float[np.ndarray, "1 seed question"], Int[np.ndarray, " question"]]:
    rows = [run.rows(split, update) for run in runs]
    rows = [line for line in rows if line]
    shared = sorted(set.intersection(*(set(line) for line in rows)))
    scores = [[[float(np.mean([row.f1 for row in line[t]])) for t in shared] for line in rows]]
    names = [rows[0][t][0].cluster or f"\0{t}" for t in shared]
    return np.array(scores), np.unique(names, return_inverse=True)[1]


def _eval_curve(
    arm: str, runs: Sequence[Run], split: str, rng: np.random.Generator, num_resamples: int
) -> ArmCurve | None:
    updates = sorted({update for run in runs for update in run.eval_updates(split)})
    by_seed: dict[int, list[float]] = {run.seed: [] for run in runs}
    means, lows, highs = [], [], []
    for update in updates:
        scores, clusters = _f1_scores(runs, split, update)
        _, num_seeds, num_questions = scores.shape
        resamples = draw_resamples(
            num_seeds=num_seeds,
            num_questions=num_questions,
            num_resamples=num_resamples,
            rng=rng,
            clusters=clusters,
        )
        drawn = resampled_means(scores, resamples)[:, 0]
        found = components([(1, scores[0])], clusters)
        band = corrected_interval(float(scores.mean()), drawn, found)
        means.append(band.estimate)
        lows.append(band.low)
        highs.append(band.high)
        for run in runs:
            known = [row.f1 for rows in run.rows(split, update).values() for row in rows]
            by_seed[run.seed].append(float(np.mean(known)) if known else math.nan)
    if not updates:
        return None
    return ArmCurve(
        arm=arm,
        updates=tuple(updates),
        mean=tuple(means),
        low=tuple(lows),
        high=tuple(highs),
        by_seed={seed: tuple(values) for seed, values in by_seed.items()},
    )


def make_panels(
    comparison: Comparison, *, num_resamples: int = 1000, bootstrap_seed: int = 0
) -> tuple[Panel, ...]:
    """Numbers of every plot: evaluated F1, the training metrics that a run has, the profile.

    Args:
        comparison: The comparison.
        num_resamples: Resamples of the band round the evaluated F1.
        bootstrap_seed: Seed of its generator.
    """
    rng = np.random.default_rng(bootstrap_seed)
    split = comparison.curve_split
    by_arm = {
        arm: [comparison.run(arm, seed) for seed in comparison.seeds] for arm in comparison.arms
    }
    evaluated = [_eval_curve(arm, runs, split, rng, num_resamples) for arm, runs in by_arm.items()]
    panels = [
        Panel(
            key="f1",
            title=f"F1 on {split}",
            unit="token F1",
            curves=tuple(curve for curve in evaluated if curve is not None),
        )
    ]
    panels += _metric_panels(by_arm, (*_METRIC_PANELS, *mix_panels(comparison)))
    profile = profile_panel(comparison)
    return (*panels, *(() if profile is None else (profile,)))


def running_panels(comparison: Comparison) -> tuple[Panel, ...]:
    """Numbers of the plots of runs that are going on, all of them from their metrics."""
    evaluated = ("eval_f1", "Evaluated F1", "token F1, mean")
    by_arm = {
        arm: [comparison.run(arm, seed) for seed in comparison.seeds] for arm in comparison.arms
    }
    return _metric_panels(by_arm, (evaluated, *_METRIC_PANELS))


def _metric_panels(
    by_arm: Mapping[str, Sequence[Run]], shown: Sequence[tuple[str, str, str]]
) -> tuple[Panel, ...]:
    panels = []
    for key, title, unit in shown:
        found = [_metric_curve(arm, runs, key) for arm, runs in by_arm.items()]
        curves = tuple(curve for curve in found if curve is not None)
        if curves:
            panels.append(Panel(key=key, title=title, unit=unit, curves=curves))
    return tuple(panels)


def mix_panels(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Keys, titles and units of the shares of questions that were asked, where a run chose them."""
    keys = {key for run in comparison.runs for line in run.metrics for key in line}
    return [
        (key, f"Questions asked: {kind_of_question(key)}", "share of an update's questions")
        for key in sorted(keys)
        if key.startswith(MIX_PREFIX)
    ]


def profile_panel(comparison: Comparison) -> Panel | None:
    """Share of each arm's runs that end above a score; None with one seed.

    The band is the Wilson interval of the share.
    """
    if len(comparison.seeds) < 2:
        return None
    split = comparison.final_split
    by_run = final_scores(comparison, split).values["f1"].mean(axis=2)
    low, high = math.floor(by_run.min() * _STEPS) - 1, math.ceil(by_run.max() * _STEPS) + 1
    thresholds = np.arange(max(low, 0), min(high, _STEPS) + 1) / _STEPS
    curves = []
    for arm, scores in zip(comparison.arms, by_run, strict=True):
        shares = performance_profile(scores, thresholds)
        bands = [share_interval(round(share * len(scores)), len(scores)) for share in shares]
        curves.append(
            ArmCurve(
                arm=arm,
                updates=tuple(thresholds.tolist()),
                mean=tuple(shares.tolist()),
                low=tuple(band.low for band in bands),
                high=tuple(band.high for band in bands),
                by_seed={},
            )
        )
    return Panel(
        key="profile",
        title=f"Performance profile on {split}",
        unit="share of runs that end above",
        curves=tuple(curves),
        axis="F1",
    )


def arm_colours(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """Colours of the arms: the baseline always grey, the others repeat after five."""
    others = [arm for arm in arms if arm != baseline]
    colours = {baseline: ARM_COLOURS[0]}
    for i, arm in enumerate(others):
        colours[arm] = ARM_COLOURS[1 + i % (len(ARM_COLOURS) - 1)]
    return {arm: colours[arm] for arm in arms}


def _draw_panel(axes: Any, panel: Panel, colours: Mapping[str, str]) -> None:
    for i, curve in enumerate(panel.curves):
        colour, style = colours[curve.arm], LINE_STYLES[i % len(LINE_STYLES)]
        for values in curve.by_seed.values():
            axes.plot(curve.updates, values, color=colour, linewidth=0.7, alpha=0.45)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(
                curve.updates, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0
            )
        axes.plot(
            curve.updates, curve.mean, color=colour, linewidth=2, linestyle=style, label=curve.arm
        )
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_ylabel(panel.unit, fontsize=8)
    axes.set_xlabel(panel.axis, fontsize=8)
    axes.tick_params(labelsize=8, length=3, color="#9ca3af")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    is_update = panel.axis == "update"
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=6, integer=is_update))
    axes.margins(x=0.02)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9ca3af")


def draw_curves(panels: Sequence[Panel], colours: Mapping[str, str]) -> matplotlib.figure.Figure:
    """Small multiples, three a row, with one legend; in no global state of matplotlib."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = matplotlib.figure.Figure(
        figsize=(3.6 * columns, 2.6 * rows + 0.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, colours)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        title="Bold: mean over seeds. Thin: single seeds. Band: 95 % interval.",
        title_fontsize=8,
        alignment="left",
    )
    return figure


def write_curves(comparison_dir: Path | str) -> Path:
    """Writes ``curves.png`` into a comparison directory; returns its path.

    Raises:
        ReportError: if the directory is incomplete or a file cannot be read.
    """
    comparison = read_comparison(comparison_dir)
    colours = arm_colours(comparison.arms, comparison.baseline)
    path = comparison.directory / CURVES_FILE
    with atomic_file(path, "wb") as stream:
        draw_curves(make_panels(comparison), colours).savefig(stream, dpi=150)
    return path
