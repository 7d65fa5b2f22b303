"""Plans of comparisons: read, hashed, kept, and departed from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from calibadv_algo.experiments.compare import (
    CompareConfig,
    check_output_dir,
    plan_jobs,
    with_plan,
    write_comparison,
)
from calibadv_algo.experiments.design import (
    Control,
    Design,
    departures,
    design_of,
    plan_hash,
    read_plan,
)
from calibadv_algo.experiments.jobs import ComparisonError

PLAN = """
hypotheses = ["CalibAdv ends higher."]
arms = ["grpo", "calibadv", "flipped-searches"]
seeds = [0, 1, 2]
margin = 0.03
split = "test"
contrasts = ["calibadv - grpo"]
controls = ["flipped-searches - grpo = lower"]
"""


def _written(config: CompareConfig) -> dict[str, object]:
    check_output_dir(config)
    write_comparison(config, {}, None)
    plan: dict[str, object] = json.loads((config.output_dir / "comparison.json").read_text())[
        "plan"
    ]
    return plan


def test_a_plan_file_sets_arms_seeds_and_design(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    config = with_plan(CompareConfig(), path)
    assert config.arms == ("grpo", "calibadv", "flipped-searches")
    assert config.seeds == (0, 1, 2)
    assert config.design.margin == 0.03
    assert config.design.pairs(config.arms, "grpo") == (("calibadv", "grpo"),)
    assert config.design.known(config.arms, "grpo") == (
        Control(ahead="flipped-searches", behind="grpo", expected="lower"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin = 0", "margin must be positive"),
        ("margins = 1", "unknown key 'margins'"),
        ("margin = [", "cannot be read"),
        ('contrasts = ["calibadv"]', "AHEAD - BEHIND"),
        ('controls = ["a - b = better"]', "higher|lower|same"),
        ("until_decided = true\nblock = 1", "block must be at least 2"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_the_plan_is_hashed_before_the_first_run_and_stays(tmp_path: Path) -> None:
    config = CompareConfig(output_dir=tmp_path, design=Design(split="test"))
    plan = _written(config)
    assert plan["sha256"] == plan_hash(plan)
    assert plan["arms"] == ["grpo", "calibadv"]
    assert design_of(plan) == config.design
    assert _written(replace(config, seeds=(0, 1, 2))) == plan
    with pytest.raises(ComparisonError, match=r"design\.margin: 0\.02 there, 0\.05 here"):
        check_output_dir(replace(config, design=replace(config.design, margin=0.05)))


def test_departures_are_said(tmp_path: Path) -> None:
    plan = _written(CompareConfig(output_dir=tmp_path, design=Design(split="test")))
    as_planned = departures(plan, arms=["grpo", "calibadv"], seeds=[0, 1], splits=["test", "dev"])
    assert as_planned == ()
    found = departures(
        plan | {"margin": 0.1},
        arms=["grpo", "mine"],
        seeds=[0],
        splits=["dev"],
        num_later_commits=1,
    )
    text = " ".join(found)
    for words in (
        "was changed after it was hashed",
        "missing: calibadv",
        "joined after the plan: mine",
        "2 seeds were planned, 1 are reported",
        "'test', which was not played",
        "The code changed between runs",
    ):
        assert words in text
    assert "exploratory" in departures({}, arms=["a"], seeds=[0], splits=["dev"])[0]


def test_controls_join_and_are_no_contrasts() -> None:
    config = CompareConfig(controls=True)
    arms = list(config.algorithms)
    assert arms == ["grpo", "calibadv", "vine", "flipped-searches", "grpo-again"]
    assert config.design.pairs(arms, "grpo") == (("calibadv", "grpo"),)
    expected = {each.ahead: each.expected for each in config.design.known(arms, "grpo")}
    assert expected == {"vine": "higher", "flipped-searches": "lower", "grpo-again": "same"}
    seeds = {job.arm: job.config.seed for job in plan_jobs(config) if job.seed == 1}
    assert seeds["grpo"] == 1
    assert seeds["grpo-again"] == 500_001


def test_looks_add_seeds_in_blocks() -> None:
    design = Design(until_decided=True, block=2, most_seeds=5)
    config = CompareConfig(seeds=(7,), design=design)
    assert design.num_looks == 3
    assert [config.seeds_of_look(look) for look in (1, 2, 3)] == [
        (7, 0),
        (7, 0, 1, 2),
        (7, 0, 1, 2, 3),
    ]
    assert [design.look_of(num) for num in (2, 4, 5)] == [1, 2, 3]
    assert CompareConfig().seeds_of_look(4) == (0, 1)


def test_a_difference_names_methods_that_take_part() -> None:
    arms = ["grpo", "calibadv", "flipped-searches"]
    Design(
        contrasts=("calibadv - grpo",), controls=("flipped-searches - grpo = lower",)
    ).require_methods(arms)
    with pytest.raises(ValueError, match="'calibadv - grp' with 'grp'"):
        Design(contrasts=("calibadv - grp",)).require_methods(arms)
    with pytest.raises(ValueError, match=r"controls must be of methods that take part.*'vine'"):
        Design(controls=("vine - grpo = higher",)).require_methods(arms)


def test_the_metric_is_checked_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="metric must be among em, f1"):
        Design(metric="reward")
