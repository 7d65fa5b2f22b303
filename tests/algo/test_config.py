"""Settings: checked when they are made, described by their own text, hashed by what matters."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tyro

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.learner.config import CriticConfig, OptimConfig
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.mismatch import TokenTis
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.training.config import (
    EnvConfig,
    EvalConfig,
    RolloutConfig,
    TrainConfig,
    config_hash,
    config_to_dict,
)
from calibadv_algo.training.presets import ATLAS_TINY, CALIBADV_QWEN25_3B, PRESETS, SEARCH_R1_GRPO


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        (EnvConfig, "top_k", 0, "top_k must be positive, got 0"),
        (EnvConfig, "max_turns", -1, "max_turns must be positive, got -1"),
        (RolloutConfig, "group_size", 0, "group_size must be positive, got 0"),
        (RolloutConfig, "temperature", 0.0, "temperature must be positive, got 0.0"),
        (RolloutConfig, "top_p", 1.5, r"top_p must be in \(0, 1\], got 1.5"),
        (OptimConfig, "lr", 0.0, "lr must be positive, got 0.0"),
        (OptimConfig, "betas", (0.9, 1.0), r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        (ClippedSurrogate, "clip_low", 1.2, r"clip_low must be in \[0, 1\], got 1.2"),
        (ClippedSurrogate, "dual_clip", 1.0, "dual_clip must be more than 1, got 1.0"),
        (Gspo, "clip_high", -0.1, "clip_high must not be negative, got -0.1"),
        (TokenTis, "cap", 0.0, "cap must be positive, got 0.0"),
        (CriticConfig, "value_clip", 0.0, "value_clip must be positive, got 0.0"),
        (OptimConfig, "mismatch", TokenTis(), "mismatch must be NoCorrection unless old_logprobs"),
        (OptimConfig, "length_norm", 10, "length_norm must be given for seq-mean-token-sum-norm"),
        (OptimConfig, "kl_coef", -0.1, "kl_coef must not be negative, got -0.1"),
        (EvalConfig, "every", -1, "every must not be negative, got -1"),
        (EvalConfig, "max_tokens", 0, "max_tokens must be positive, got 0"),
        (TrainConfig, "keep_checkpoints", 0, "keep_checkpoints must be positive, got 0"),
        (TrainConfig, "credit", NoCredit(), "credit must score turns for the advantage CalibAdv"),
    ],
)
def test_bad_values_are_named(kind: Any, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{field: value})


def test_env_kwargs_leave_out_what_is_not_set() -> None:
    kwargs = EnvConfig(dataset="toy").kwargs("dev")
    assert kwargs["dataset"] == "toy"
    assert kwargs["split"] == "dev"
    assert not {"env_id", "prompt", "max_observation_chars"} & set(kwargs)
    assert EnvConfig(prompt="question").kwargs()["prompt"] == "question"


def test_the_environment_of_pages_has_its_own_stop_strings_and_dataset() -> None:
    pages = EnvConfig(env_id="calibadv_env:DeepSearch-Pages-v0")
    assert "</open>" in pages.stop_strings(None)
    assert "</open>" not in EnvConfig().stop_strings("question")
    assert "dataset" not in pages.kwargs()
    assert replace(pages, dataset="toy").kwargs()["dataset"] == "toy"
    linked = EnvConfig(env_id="calibadv_env:DeepSearch-PagesLinked-v0")
    assert "</open>" in linked.stop_strings(None)
    assert "dataset" not in linked.kwargs()
    assert "</open>" not in EnvConfig(env_id="DeepSearch-PagesOfMine-v1").stop_strings(None)


def test_the_hash_follows_what_determines_the_numbers() -> None:
    base = config_hash(ATLAS_TINY)
    assert base == config_hash(replace(ATLAS_TINY, output_dir=Path("/else"), quiet=True))
    assert base == config_hash(replace(ATLAS_TINY, checkpoint_every=3, keep_checkpoints=9))
    others = [
        replace(ATLAS_TINY, seed=1),
        replace(ATLAS_TINY, advantage=Grpo()),
        replace(ATLAS_TINY, advantage=CalibAdv(target_ratio=2.0)),
        replace(ATLAS_TINY, credit=SilverCredit(calculator="max")),
        replace(ATLAS_TINY, optim=replace(ATLAS_TINY.optim, lr=1e-3)),
    ]
    assert len({base, *map(config_hash, others)}) == len(others) + 1


def test_continuations_count_in_the_hash() -> None:
    with_vine = replace(ATLAS_TINY, rollout=replace(ATLAS_TINY.rollout, vine=VineSampling()))
    assert config_hash(with_vine) != config_hash(ATLAS_TINY)


def test_variants_are_recorded_with_their_type() -> None:
    values = config_to_dict(ATLAS_TINY)
    assert values["advantage"]["type"] == "CalibAdv"
    assert values["credit"] == {"type": "SilverCredit"} | {
        item.name: getattr(SilverCredit(), item.name) for item in fields(SilverCredit)
    }


def test_published_settings() -> None:
    paper = CALIBADV_QWEN25_3B
    assert (paper.rollout.num_questions, paper.rollout.group_size) == (512, 5)
    assert (paper.optim.lr, paper.optim.kl_coef, paper.env.max_turns) == (5e-7, 0.0, 4)
    assert paper.env.prepend_think
    assert (SEARCH_R1_GRPO.optim.kl_coef, SEARCH_R1_GRPO.optim.warmup_fraction) == (0.001, 0.285)
    assert SEARCH_R1_GRPO.env.invalid_action == "continue"
    assert all(isinstance(preset, TrainConfig) for preset in PRESETS.values())


@pytest.mark.parametrize("module", ["training.config", "learner.config"])
def test_every_field_has_help(module: str) -> None:
    source = Path(str(importlib.import_module(f"calibadv_algo.{module}").__file__)).read_text()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert classes
    for each in classes:
        for item, after in pairwise(each.body):
            if isinstance(item, ast.AnnAssign):
                assert isinstance(after, ast.Expr), ast.unparse(item)


def test_a_command_line_can_change_any_field() -> None:
    config = tyro.cli(
        TrainConfig,
        args=["--env.top-k", "5", "--optim.lr", "0.1", "--advantage.target-ratio", "2"],
        config=(tyro.conf.AvoidSubcommands,),
    )
    assert config.env.top_k == 5
    assert config.optim.lr == 0.1
    assert config.advantage == CalibAdv(target_ratio=2)
    with pytest.raises(SystemExit):
        tyro.cli(TrainConfig, args=["--no-such-flag", "1"], console_outputs=False)


def test_the_settings_load_no_algorithm() -> None:
    code = (
        "import sys, calibadv_algo.training.config\n"
        "rooms = ('advantages', 'credit', 'shaping')\n"
        "print(*(m for m in sys.modules if m.split('.')[:1] == ['calibadv_algo']"
        " and m.split('.')[1:2] and m.split('.')[1] in rooms and m.count('.') == 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded == {
        "calibadv_algo.advantages.base",
        "calibadv_algo.credit.base",
        "calibadv_algo.credit.beliefs",
        "calibadv_algo.credit.facts",
        "calibadv_algo.credit.hindsight",
        "calibadv_algo.shaping.base",
    }
