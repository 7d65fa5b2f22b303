"""Checkpoints: complete or absent, damage is found, and a killed run ends where it would have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.checkpoint import (
    TrainerState,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

HERE = Path(__file__).parent


def make_model(seed: int = 0, hidden_size: int = 16) -> Qwen2ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=20,
                hidden_size=hidden_size,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=True,
            )
        )


def make_optimizer(model: Qwen2ForCausalLM) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def take_step(model: Qwen2ForCausalLM, optimizer: torch.optim.AdamW, shift: int = 0) -> None:
    ids = (torch.arange(10)[None] + shift) % 20
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def make_state(update: int) -> TrainerState:
    return TrainerState(
        update=update,
        num_questions_seen=update * 4,
        config_hash="abc",
        generators={"minibatches": {"state": {"state": 2**127 + update}}},
        extra={},
    )


def save(folder: Path, update: int, **changes: Any) -> tuple[Path, Qwen2ForCausalLM, Any]:
    model = make_model()
    optimizer = make_optimizer(model)
    take_step(model, optimizer)
    values = {"model": model, "optimizer": optimizer, "keep": 5} | changes
    return save_checkpoint(folder, make_state(update), **values), model, optimizer


def test_what_is_loaded_goes_on_exactly(tmp_path: Path) -> None:
    path, model, optimizer = save(tmp_path, 3)
    other = make_model(seed=1)
    other_optimizer = make_optimizer(other)
    take_step(other, other_optimizer, shift=3)
    state = load_checkpoint(path, model=other, optimizer=other_optimizer, config_hash="abc")
    assert state == make_state(3)
    for shift in range(3):
        take_step(model, optimizer, shift)
        take_step(other, other_optimizer, shift)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_the_policy_folder_is_a_hugging_face_model(tmp_path: Path) -> None:
    path, model, _ = save(tmp_path, 1)
    loaded = AutoModelForCausalLM.from_pretrained(path / "policy")
    pairs = zip(model.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert not [file for file in path.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for update in (1, 2, 10, 3):
        save(tmp_path, update, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["update_000003", "update_000010"]
    assert find_checkpoint(tmp_path) == tmp_path / "update_000010"


def test_what_a_killed_process_left_is_not_found_and_goes_away(tmp_path: Path) -> None:
    save(tmp_path, 1)
    half = tmp_path / ".update_000002.99.writing"
    (half / "policy").mkdir(parents=True)
    other = tmp_path / "update_000002.txt"
    other.write_text("not ours")
    assert find_checkpoint(tmp_path) == tmp_path / "update_000001"
    save(tmp_path, 3)
    assert not half.exists()
    assert other.exists()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "nowhere") is None
    assert find_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "name", ["optimizer.safetensors", "policy/model.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_damage_is_found(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)[0]
    file = path / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 64
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"update_000002 is damaged.*allow_older=True"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path, allow_older=True) == tmp_path / "update_000001"


def test_all_damaged_is_an_error_with_advice(tmp_path: Path) -> None:
    (save(tmp_path, 1)[0] / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"all 1 checkpoints.*start the run anew"):
        find_checkpoint(tmp_path, allow_older=True)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path, model, optimizer = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"not made by the run whose config\.json"):
        load_checkpoint(path, model=model, optimizer=optimizer, config_hash="xyz")
    wider = make_model(hidden_size=32)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_checkpoint(path, model=wider, optimizer=make_optimizer(wider), config_hash="abc")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["policy", "critic"])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, part: str, bad: float) -> None:
    model, critic = make_model(), make_model(1)
    optimizer, critic_optimizer = make_optimizer(model), make_optimizer(critic)

    def save(update: int) -> Path:
        state = make_state(update)
        parts = (critic, critic_optimizer)
        return save_checkpoint(
            tmp_path, state, model=model, optimizer=optimizer, critic=parts, keep=1
        )

    good = save(1)
    broken = model if part == "policy" else critic
    with torch.no_grad():
        broken.lm_head.weight[3, 2] = bad
    with pytest.raises(CheckpointError, match=r"after update 2 are no numbers \(.*update_000001"):
        save(2)
    assert list_checkpoints(tmp_path) == [good]
    assert find_checkpoint(tmp_path) == good
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_large_weights_are_numbers(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)  # their sum overflows
    save_checkpoint(tmp_path, make_state(1), model=model, optimizer=make_optimizer(model))
    assert find_checkpoint(tmp_path) is not None


def test_keep_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be positive, got 0"):
        save(tmp_path, 1, keep=0)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
import letters
config = letters.make_config(
    Path(sys.argv[1]),
    checkpoint_every=2,
    keep_checkpoints=2,
    optim=letters.OptimConfig(
        num_updates=9, lr=1e-2, kl_coef=0.01, entropy_coef=0.001, schedule="linear", num_epochs=2
    ),
    evaluation=letters.EvalConfig(every=3, episodes=4),
)
letters.make_trainer(config).train()
"""


def start_run(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(here=str(HERE)), str(folder)],
        cwd=HERE.parents[1],
        env=environment,
    )


def kill_after_update(folder: Path, update: int) -> bool:
    """Starts the run and kills it outright once its metrics reach an update."""
    process = start_run(folder)
    file = folder / "metrics.jsonl"
    while process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") > update:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.startswith("time_") and k != "tokens_per_s"}
        for row in rows
    ]


@pytest.mark.slow
def test_a_run_killed_twice_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start_run(whole).wait() == 0
    assert kill_after_update(broken, 1)
    assert kill_after_update(broken, 5)
    assert len(numbers(broken)) < 10
    assert start_run(broken).wait() == 0
    assert numbers(broken) == numbers(whole)
    assert [row["update"] for row in numbers(whole)] == list(range(10))
    last = Path("checkpoints/update_000009")
    for name in ("policy/model.safetensors", "optimizer.safetensors", "state.json"):
        assert (broken / last / name).read_bytes() == (whole / last / name).read_bytes()
    for name in ("evals.jsonl", "trajectories/update_000008.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    start = load_file(whole / last / "policy/model.safetensors")
    assert len(start) > 5
