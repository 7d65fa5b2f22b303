"""Sweeps: methods of a comparison that differ in one or two settings, and their picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calibadv_algo.cli.sweep import Sweep
from calibadv_algo.experiments.compare import CompareConfig, plan_jobs
from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.sweeping import Varied, parse_varied, swept, with_setting
from calibadv_algo.report.sweep_picture import draw_sweep, write_sweep
from calibadv_algo.training.presets import ATLAS_TINY


def test_every_arm_takes_every_combination(tmp_path: Path) -> None:
    varied = parse_varied(["optim.lr=1e-4,3e-4", "rollout.group_size=4,8"])
    config, points = swept(CompareConfig(seeds=(0,), output_dir=tmp_path), varied)
    assert len(points) == len(config.arms) == 8
    assert points[0].method == "grpo+lr-1e-4+group_size-4"
    job = next(job for job in plan_jobs(config) if job.arm == "calibadv+lr-3e-4+group_size-4")
    assert job.config.optim.lr == 3e-4
    assert job.config.rollout.group_size == 4
    assert job.config.env.prepend_think
    assert job.config.output_dir.name == "calibadv+lr-3e-4+group_size-4-seed0"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "one or two settings, got 0"),
        (["a=1,2", "b=1,2", "c=1,2"], "one or two settings, got 3"),
        (["optim.lr"], "SETTING=VALUE"),
        (["optim.lr=1"], "SETTING=VALUE"),
        (["optim.lr=1,1"], "SETTING=VALUE"),
    ],
)
def test_what_cannot_be_varied_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_varied(texts)


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("optim.rate", "1", "no setting 'rate'"),
        ("optim.lr", "fast", "lr must be a float, got 'fast'"),
        ("rollout.group_size", "2.5", "group_size must be a int"),
        ("env.format_gate", "yes", "must be true or false"),
        ("optim.betas", "1", "no number, word or switch"),
        ("rollout.group_size", "-1", "group_size must be positive"),
    ],
)
def test_values_must_fit_their_settings(place: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_setting(ATLAS_TINY, place, text)


def test_switches_and_words_can_be_varied() -> None:
    assert with_setting(ATLAS_TINY, "env.format_gate", "false").env.format_gate is False
    assert with_setting(ATLAS_TINY, "env.reward", "em").env.reward == "em"


def test_the_picture_has_a_line_an_arm_and_a_panel_a_second_value(tmp_path: Path) -> None:
    varied = (
        Varied(place="optim.lr", values=("1e-4", "1e-3")),
        Varied(place="b", values=("x", "y")),
    )
    _, points = swept(CompareConfig(), parse_varied(["optim.lr=1e-4,1e-3", "env.reward=em,f1"]))
    points = tuple(
        replace(p, values=(p.values[0], {"em": "x", "f1": "y"}[p.values[1]])) for p in points
    )
    rows = [
        SimpleNamespace(
            name=p.method, kind="arm", scores={"f1": Interval(estimate=0.5, low=0.4, high=0.7)}
        )
        for p in points
    ]
    summary: Any = SimpleNamespace(splits=[SimpleNamespace(rows=rows, split="test")])
    figure = draw_sweep(summary, varied, points)
    assert [axes.get_title() for axes in figure.axes] == ["b = x", "b = y"]
    assert [len(axes.containers) for axes in figure.axes] == [2, 2]
    assert figure.axes[0].get_xscale() == "log"
    assert write_sweep(tmp_path, summary, varied, points).read_bytes()[:4] == b"\x89PNG"


def test_the_command_takes_the_flags_of_compare() -> None:
    command = Sweep.named(["--preset", "smoke", "--vary", "optim.lr=1e-4,3e-4"])
    assert command.config.train.optim.num_updates == 2
