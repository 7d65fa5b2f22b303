"""Adapters: the policy is the same at first, they alone learn, and a run goes on bit for bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from calibadv_algo.cli.main import parse
from calibadv_algo.cli.train import run_training
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.lora import Lora, add_lora, merged_state_dict, peft_model
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import ATLAS_TINY

pytest.importorskip("peft", reason="needs the extra lora")

IDS = torch.tensor([[5, 17, 200, 33, 8]])


@pytest.fixture(scope="module")
def model() -> Any:
    return load_policy("atlas-tiny")[0]


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _with_adapters(model: Any) -> Any:
    adapted = add_lora(copy.deepcopy(model), Lora(rank=4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    return adapted


def _config(output_dir: Path, **changes: Any) -> TrainConfig:
    return replace(
        ATLAS_TINY,
        output_dir=output_dir,
        lora=Lora(rank=4),
        rollout=replace(ATLAS_TINY.rollout, num_questions=3, group_size=4, num_slots=12),
        optim=replace(ATLAS_TINY.optim, num_updates=2, lr=3e-3, **changes),
        evaluation=replace(ATLAS_TINY.evaluation, every=0),
        checkpoint_every=1,
        quiet=True,
    )


def test_the_policy_is_the_same_at_first_and_only_adapters_learn(model: Any) -> None:
    adapted = add_lora(copy.deepcopy(model), Lora(rank=4))
    torch.testing.assert_close(_logits(adapted), _logits(model))
    learning = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)
    assert peft_model(adapted) is not None
    assert peft_model(model) is None


def test_merged_weights_are_those_of_a_model_without_adapters(model: Any) -> None:
    adapted = _with_adapters(model)
    assert float((_logits(adapted) - _logits(model)).abs().max()) > 1e-3
    plain = copy.deepcopy(model)
    plain.load_state_dict(merged_state_dict(adapted))
    torch.testing.assert_close(_logits(plain), _logits(adapted), rtol=1e-4, atol=1e-4)


def test_the_seed_makes_the_adapters_and_leaves_the_global_generator(model: Any) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (
        add_lora(copy.deepcopy(model), Lora(rank=2), seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    names = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], same[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"target_modules": ()}, "target_modules")],
)
def test_settings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**values)


def test_the_command_line_sets_rank_and_scale(capsys: pytest.CaptureFixture[str]) -> None:
    command = parse("train", ["--lora", "8", "--lora.alpha", "4"])
    assert command.config.lora == Lora(rank=8, alpha=4.0)
    with pytest.raises(SystemExit):
        parse("train", ["--lora", "many"])
    assert "--lora" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_learns_saves_a_whole_policy_and_goes_on(tmp_path: Path, model: Any) -> None:
    whole = run_training(_config(tmp_path / "whole"))
    policy = AutoModelForCausalLM.from_pretrained(whole.policy_dir, dtype=torch.float32)
    assert float((_logits(policy) - _logits(model)).abs().max()) > 1e-4
    assert (whole.policy_dir.parent / "adapter" / "adapter_config.json").is_file()

    run_training(_config(tmp_path / "cut"))
    last = tmp_path / "cut" / "checkpoints" / "update_000002"
    for file in sorted(last.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    last.rmdir()
    again = run_training(_config(tmp_path / "cut"))
    first = (whole.policy_dir.parent / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (again.policy_dir.parent / "adapter" / "adapter_model.safetensors").read_bytes() == first


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain = run_training(_config(tmp_path / "plain"))
    saving = run_training(_config(tmp_path / "saving", gradient_checkpointing=True))
    name = "adapter/adapter_model.safetensors"
    one, other = (load_file(result.policy_dir.parent / name) for result in (plain, saving))
    for key, weight in one.items():
        torch.testing.assert_close(other[key], weight, rtol=1e-4, atol=1e-5)
