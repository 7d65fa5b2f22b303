from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from calibadv_algo.report.curves import arm_colours, draw_curves, make_panels, write_curves
from calibadv_algo.report.reading import read_comparison


def test_panels_hold_means_over_seeds(comparison_dir: Path) -> None:
    panels = {panel.key: panel for panel in make_panels(read_comparison(comparison_dir))}
    assert list(panels) == [
        "f1",
        "reward_mean",
        "searches_mean",
        "format_valid_share",
        "mispenalized_share",
        "entropy",
        "profile",
    ]
    curve = panels["reward_mean"].curves[0]
    assert (curve.arm, curve.updates) == ("grpo", tuple(range(1, 9)))
    np.testing.assert_allclose(curve.mean, np.mean([curve.by_seed[0], curve.by_seed[1]], axis=0))
    assert curve.low is None
    evaluated = panels["f1"].curves[1]
    assert evaluated.updates == (0, 2, 4, 6, 8)
    assert evaluated.low is not None
    assert evaluated.high is not None
    assert all(
        low <= mean <= high
        for low, mean, high in zip(evaluated.low, evaluated.mean, evaluated.high, strict=True)
    )


def test_a_run_that_stopped_early_leaves_the_mean_to_the_others(comparison_dir: Path) -> None:
    path = comparison_dir / "runs/grpo-seed1/metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    evals = comparison_dir / "runs/grpo-seed1/evals.jsonl"
    kept = [line for line in evals.read_text().splitlines() if json.loads(line)["update"] < 6]
    evals.write_text("\n".join(kept) + "\n")
    panels = {panel.key: panel for panel in make_panels(read_comparison(comparison_dir))}
    curve = panels["entropy"].curves[0]
    assert curve.mean[5] == curve.by_seed[0][5]
    assert math.isnan(curve.by_seed[1][5])
    assert math.isnan(panels["f1"].curves[0].by_seed[1][-1])
    assert panels["f1"].curves[0].mean[-1] == pytest.approx(panels["f1"].curves[0].by_seed[0][-1])


def test_metrics_that_no_run_has_get_no_panel(comparison_dir: Path) -> None:
    for path in comparison_dir.glob("runs/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{"update": line["update"], "entropy": math.nan} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert [panel.key for panel in make_panels(read_comparison(comparison_dir))] == [
        "f1",
        "profile",
    ]


def test_every_arm_has_its_own_colour_and_the_baseline_is_grey() -> None:
    colours = arm_colours(["calibadv", "a", "grpo", "b"], "grpo")
    assert list(colours) == ["calibadv", "a", "grpo", "b"]
    assert len(set(colours.values())) == 4
    red, green, blue = (int(colours["grpo"][i : i + 2], 16) for i in (1, 3, 5))
    assert max(red, green, blue) - min(red, green, blue) < 32


def test_the_picture_is_written_without_touching_global_state(comparison_dir: Path) -> None:
    before = {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}
    path = write_curves(comparison_dir)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
    assert {key: matplotlib.rcParams[key] for key in before} == before


def test_every_axis_is_labelled_and_every_seed_drawn(comparison_dir: Path) -> None:
    comparison = read_comparison(comparison_dir)
    panels = make_panels(comparison, num_resamples=20)
    figure = draw_curves(panels, arm_colours(comparison.arms, comparison.baseline))
    for axes, panel in zip(figure.axes[: len(panels)], panels, strict=True):
        assert axes.get_ylabel() == panel.unit
        is_profile = panel.key == "profile"
        assert axes.get_xlabel() == ("F1" if is_profile else "update")
        assert len(axes.lines) == 2 * (1 if is_profile else 2 + 1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo", "calibadv"]


def test_the_profile_counts_runs_above_each_score(comparison_dir: Path) -> None:
    comparison = read_comparison(comparison_dir)
    panel = make_panels(comparison, num_resamples=20)[-1]
    ends = {
        arm: [
            np.mean([row.f1 for row in run.evals if row.update == 8])
            for run in comparison.runs
            if run.arm == arm
        ]
        for arm in comparison.arms
    }
    for curve in panel.curves:
        for score, share in zip(curve.updates, curve.mean, strict=True):
            assert share == np.mean([end > score for end in ends[curve.arm]])
        assert (curve.mean[0], curve.mean[-1]) == (1.0, 0.0)
        assert curve.low is not None
        assert curve.low[0] < 1.0  # two runs above a score do not make it certain


def test_one_seed_has_no_profile(comparison_dir: Path) -> None:
    panels = make_panels(read_comparison(comparison_dir, only_seeds=[0]), num_resamples=20)
    assert "profile" not in [panel.key for panel in panels]


def test_the_mix_of_questions_has_its_panels(comparison_dir: Path) -> None:
    for path in comparison_dir.glob("runs/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line |= {"question_share_hard": 0.25, "question_share_hops_3": 0.5}
            line["groups_with_signal_share"] = 0.75
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    titles = [panel.title for panel in make_panels(read_comparison(comparison_dir))]
    assert titles[-4:-1] == [
        "Groups with a signal",
        "Questions asked: hard pool",
        "Questions asked: 3 hops",
    ]
