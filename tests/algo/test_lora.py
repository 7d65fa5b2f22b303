"""Adapters: the policy is the same at first, they alone learn, and a run goes on bit for bit."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from calibadv_algo.cli.main import parse
from calibadv_algo.cli.policies import LocalPolicy
from calibadv_algo.cli.train import run_training
from calibadv_algo.learner.pretrained import load_policy, policy_path
from calibadv_algo.lora import (
    Lora,
    add_lora,
    has_adapter_layers,
    merged_state_dict,
    peft_model,
)
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


# ---- an adapter's folder as the model ------------------------------------------------------------


def _adapter_folder(folder: Path, rank: int = 4, *, has_tokenizer: bool = True) -> Path:
    """What supervised fine-tuning with peft leaves."""
    import peft

    base, tokenizer = load_policy("atlas-tiny")
    config = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    wrapped.save_pretrained(folder)
    if has_tokenizer:
        tokenizer.save_pretrained(folder)
    _name_base(folder, policy_path("atlas-tiny"))
    return folder


def _name_base(folder: Path, base: str | None) -> None:
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"base_model_name_or_path": base}), encoding="utf-8")


def _tuned_logits(folder: Path) -> torch.Tensor:
    """Of the adapted policy as peft itself computes them."""
    import peft

    return _logits(peft.PeftModel.from_pretrained(load_policy("atlas-tiny")[0], folder).eval())


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_an_adapter_is_the_model_that_it_adapts(tmp_path: Path, has_tokenizer: bool) -> None:
    folder = _adapter_folder(tmp_path / "adapter", has_tokenizer=has_tokenizer)
    loaded, tokenizer = load_policy(str(folder))
    torch.testing.assert_close(_logits(loaded), _tuned_logits(folder), rtol=1e-4, atol=1e-4)
    assert all(weight.requires_grad for weight in loaded.parameters())
    assert not has_adapter_layers(loaded)
    assert len(tokenizer) == len(load_policy("atlas-tiny")[1])


def test_new_adapters_stand_on_the_old_ones(tmp_path: Path) -> None:
    folder = _adapter_folder(tmp_path / "adapter")
    stacked = add_lora(load_policy(str(folder))[0], Lora(rank=2))
    torch.testing.assert_close(_logits(stacked), _tuned_logits(folder), rtol=1e-4, atol=1e-4)
    again = peft_model(stacked)
    with torch.no_grad():
        for name, weight in stacked.named_parameters():
            if "lora_B" in name:
                weight.add_(0.01)
    again.save_pretrained(tmp_path / "second")
    third, _ = load_policy(str(tmp_path / "second"))  # names the first as what it stands on
    torch.testing.assert_close(_logits(third), _logits(stacked), rtol=1e-4, atol=1e-4)


def test_an_adapter_that_learns_on_keeps_its_rank(tmp_path: Path) -> None:
    folder = _adapter_folder(tmp_path / "adapter", rank=3)
    model, _ = load_policy(str(folder), adapter="continue")
    torch.testing.assert_close(_logits(model), _tuned_logits(folder), rtol=1e-4, atol=1e-4)
    learning = {name: w.shape for name, w in model.named_parameters() if w.requires_grad}
    assert learning
    assert all(".lora_" in name and 3 in shape for name, shape in learning.items())
    plain = load_policy("atlas-tiny")[0]
    plain.load_state_dict(merged_state_dict(model))
    torch.testing.assert_close(_logits(plain), _logits(model), rtol=1e-4, atol=1e-4)


def test_adapters_are_not_silently_replaced(model: Any) -> None:
    adapted = _with_adapters(model)
    with pytest.raises(ValueError, match="model must have no adapters, got one that has"):
        add_lora(adapted, Lora(rank=2))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("no-such-model-here", "is an adapter of 'no-such-model-here'.*could not be loaded"),
        (None, "must name the adapter's model"),
        (".", "names itself|could not be loaded"),
    ],
)
def test_an_adapter_without_its_model_says_so(
    tmp_path: Path, base: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = _adapter_folder(tmp_path / "adapter")
    _name_base(folder, base)
    with pytest.raises(ValueError, match=words):
        load_policy(str(folder))


def test_what_cannot_learn_on_is_refused(tmp_path: Path) -> None:
    folder = _adapter_folder(tmp_path / "adapter")
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | {"use_dora": True}
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="cannot learn on: it has use_dora"):
        load_policy(str(folder), adapter="continue")
    with pytest.raises(ValueError, match="it is no adapter"):
        load_policy("atlas-tiny", adapter="continue")


def test_an_adapter_s_identity_has_its_model_s(tmp_path: Path) -> None:
    folder = _adapter_folder(tmp_path / "adapter")
    facts = LocalPolicy(model=str(folder)).identity()
    assert facts["adapter_of"] == LocalPolicy(model="atlas-tiny").identity()["weights"]
    assert "adapter_of" not in LocalPolicy(model="atlas-tiny").identity()


@pytest.mark.slow
@pytest.mark.parametrize("use", [None, "stack", "continue"])
def test_a_run_goes_on_from_an_adapter_and_saves_a_whole_policy(tmp_path: Path, use: Any) -> None:
    folder = _adapter_folder(tmp_path / "adapter")
    lora = None if use is None else Lora(rank=2, on_adapter=use)
    config = replace(_config(tmp_path / "run"), model=str(folder), lora=lora)
    config = replace(config, optim=replace(config.optim, lr=3e-5))  # stays near where it began
    result = run_training(config)
    policy = AutoModelForCausalLM.from_pretrained(result.policy_dir, dtype=torch.float32)
    moved = float((_logits(policy) - _tuned_logits(folder)).abs().max())
    assert 1e-5 < moved < 0.5
    if use is not None:
        again, _ = load_policy(str(result.policy_dir.parent / "adapter"))
        torch.testing.assert_close(_logits(again), _logits(policy), rtol=1e-4, atol=1e-4)
