"""Published settings are those of the papers' launch scripts (docs/presets.md)."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.experiments.baseline import baseline_names, find_baseline
from calibadv_algo.learner.config import CriticConfig, OptimConfig
from calibadv_algo.learner.optimizer import lr_factor
from calibadv_algo.training.presets import (
    ATLAS_TINY,
    CALIBADV_LLAMA32_3B,
    CALIBADV_QWEN25_3B,
    CALIBADV_QWEN25_7B,
    SEARCH_R1_GRPO,
)
from tests.algo.test_advantages_ablations import counts_of, make_group


@pytest.mark.parametrize("name", ["starpo-s", "ragen-bilevel"])
def test_ragen_s_critic_has_verl_s_rate(name: str) -> None:
    assert find_baseline(name).published.optim.critic_lr == 1e-5


@pytest.mark.parametrize("name", ["search-r1-ppo", "starpo-s", "stepsearch", "mt-ppo"])
def test_a_critic_on_other_settings_has_the_policy_s_rate(name: str) -> None:
    """A system put on a preset takes that preset's rate: 1e-6 of a large model, 3e-4 of a tiny."""
    for given in (SEARCH_R1_GRPO, ATLAS_TINY):
        optim = find_baseline(name).apply(given).optim
        assert optim.critic_lr == optim.lr == given.optim.lr


def test_a_critic_may_have_a_rate_of_its_own() -> None:
    optim = OptimConfig(lr=1e-6, critic=CriticConfig(lr=1e-5))
    assert optim.critic_lr == 1e-5
    assert replace(optim, critic=CriticConfig()).critic_lr == 1e-6


def test_turn_pools_are_those_of_the_whole_batch() -> None:
    """The code's switch with ``in_group=False``; with ``in_group=True`` it skips the answers."""
    estimator = find_baseline("calibadv-turn-pools").published.advantage
    groups = [make_group([1.0, 0.0], [[2], [6]]), make_group([1.0, 0.0, 0.0], [[4], [1], [5]])]
    scores = [np.full((2, 1), np.nan), np.full((3, 1), np.nan)]
    counts = [counts_of(group) for group in groups]
    raw = [Grpo()(group, score) for group, score in zip(groups, scores, strict=True)]
    result = estimator.finish(
        [estimator(group, score) for group, score in zip(groups, scores, strict=True)], counts
    )
    positive, negative = (
        sum((np.clip(sign * each, 0, None) * n).sum() for each, n in zip(raw, counts, strict=True))
        for sign in (1, -1)
    )
    for ours, before in zip(result, raw, strict=True):
        expected = np.where(before > 0, before * negative / positive, before)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_calibadv_trains_one_epoch_at_half_of_its_cosine() -> None:
    """105,447 questions in batches of 512 are 205 updates; the cosine is laid out for 410."""
    for preset in (CALIBADV_QWEN25_3B, CALIBADV_QWEN25_7B, CALIBADV_LLAMA32_3B):
        assert preset.optim.num_updates == (90_447 + 15_000) // preset.rollout.num_questions == 205
        assert lr_factor(0, preset.optim) == 1.0
        assert lr_factor(204, preset.optim) == pytest.approx(0.5, abs=0.01)


TABLE = Path(__file__).parents[2] / "docs" / "presets.md"
PARTS = {"advantage", "credit", "filters", "shaping", "loss_masks", "optim.objective"}
"""Parts of the algorithm, which the files of the baselines describe."""
MACHINE = {"output_dir", "seed", "engine", "evaluation", "env.retriever", "rollout.num_slots"}


def settings_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, as deep as the rooms of a run go."""
    found: dict[str, Any] = {}
    for item in fields(config):
        name, value = prefix + item.name, getattr(config, item.name)
        if item.name in ("env", "rollout", "optim", "critic"):
            found |= settings_of(value, f"{name}.")
        elif name not in PARTS | MACHINE:
            found[name] = value
    return found


def table_rows() -> list[tuple[str, str, str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| --- | --- | --- | --- |") + 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    return [(name, key.strip("`"), value.strip("`"), source) for name, key, value, source in rows]


def test_the_table_holds_the_settings_of_the_presets() -> None:
    rows = table_rows()
    assert len({row[:2] for row in rows}) == len(rows) > 150
    for name, key, value, source in rows:
        assert repr(settings_of(find_baseline(name).published)[key]) == value, (name, key)
        assert re.match(
            r"[\w.-]+/[\w.-]+@[0-9a-f]{7}:\S+:\d+$|inferred from .+|departs because .+", source
        ), (name, key, source)


def test_every_setting_that_a_publication_changes_has_a_row() -> None:
    known = {(name, key) for name, key, _, _ in table_rows()}
    usual = settings_of(SEARCH_R1_GRPO)
    published = {n: b for n in baseline_names() if (b := find_baseline(n)).kind == "published"}
    missing = [
        (name, key)
        for name, baseline in published.items()
        for key, value in settings_of(baseline.published).items()
        if value != usual[key] and (name, key) not in known
    ]
    assert missing == []
