"""Baselines are found by name, in this package and in others."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.train import train_config
from calibadv_algo.experiments import baseline as module
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.experiments.baseline import (
    Baseline,
    baseline_names,
    find_algorithm,
    find_baseline,
)
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import ATLAS_TINY, PRESETS

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = tuple(PYPROJECT["project"]["entry-points"]["calibadv_algo.baselines"])


def make_baseline(**changes: Any) -> Baseline:
    values: dict[str, Any] = {
        "name": "mine",
        "kind": "published",
        "description": "a line",
        "source": "nowhere",
        "departures": (),
        "published": TrainConfig(),
        "apply": lambda config: replace(config, seed=7),
    }
    return Baseline(**values | changes)


MINE = make_baseline()
NO_BASELINE = "not one"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three entry points of another package."""
    group = module.ENTRY_POINT_GROUP
    points = [
        EntryPoint(name, f"{__name__}_stub:{value}", group)
        for name, value in (("mine", "MINE"), ("broken", "NO_BASELINE"), ("other", "MINE"))
    ]
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.split(":")[1]])
    monkeypatch.setattr(module, "entry_points", lambda group: points)


def test_what_is_declared_is_installed() -> None:
    assert set(NAMES) <= set(baseline_names()), "install the package again: pip install -e ."
    files = {path.stem for path in (ROOT / "baselines" / "calibadv_baselines").glob("*.py")} - {
        "no_training"
    }
    targets = PYPROJECT["project"]["entry-points"]["calibadv_algo.baselines"].values()
    assert {target.split(":")[0].split(".")[1] for target in targets} == files


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_is_found(name: str) -> None:
    assert find_baseline(name).name == name


def test_systems_of_other_packages_are_found(registered: None) -> None:
    assert baseline_names() == ["broken", "mine", "other"]
    assert find_baseline("mine") is MINE
    assert find_algorithm("mine").apply(ATLAS_TINY).seed == 7
    assert find_algorithm("grpo") is ARMS["grpo"]


def test_bad_names_list_what_there_is(registered: None) -> None:
    with pytest.raises(ValueError, match="among broken, mine, other; got 'theirs'"):
        find_baseline("theirs")
    with pytest.raises(ValueError, match=r"among grpo.*baselines broken, mine, other; got 'x'"):
        find_algorithm("x")


def test_what_is_no_baseline_is_refused(registered: None) -> None:
    with pytest.raises(TypeError, match="'broken' must be a Baseline of that name"):
        find_baseline("broken")
    with pytest.raises(TypeError, match="'other' must be a Baseline of that name"):
        find_baseline("other")


def test_without_any_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "entry_points", lambda group: ())
    with pytest.raises(ValueError, match="install the package again"):
        find_baseline("grpo")


@pytest.mark.parametrize("name", ["name", "description", "source"])
@pytest.mark.parametrize("value", ["", "two\nlines"])
def test_tables_get_one_line(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one line"):
        make_baseline(**{name: value})


def test_a_baseline_must_say_what_it_is() -> None:
    with pytest.raises(ValueError, match="kind must be published, switch or variant, got 'new'"):
        make_baseline(kind="new")


def test_names_become_settings(registered: None) -> None:
    assert train_config("atlas-tiny") == ARMS["calibadv"].apply(ATLAS_TINY)
    assert train_config("search-r1-grpo", "grpo").optim == PRESETS["search-r1-grpo"].optim
    assert train_config("atlas-tiny", None, "mine") == replace(ATLAS_TINY, seed=7)
    assert train_config("published", None, "mine") is MINE.published
    with pytest.raises(ValueError, match="either an arm or a baseline, got 'grpo' and 'mine'"):
        train_config("atlas-tiny", "grpo", "mine")
    with pytest.raises(ValueError, match="'published' needs a baseline"):
        train_config("published")
    with pytest.raises(ValueError, match="preset must be one of atlas-tiny"):
        train_config("huge")
