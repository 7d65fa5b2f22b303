"""Settings that a run may go on with: by kind, by name, and in the folder of a real run."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.errors import CheckpointError
from calibadv_algo.losses.balanced import BalancedSurrogate
from calibadv_algo.losses.covariance import ClipCov, KlCov
from calibadv_algo.training.config import TrainConfig, config_hash, config_to_dict
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.resumption import changed_settings
from calibadv_algo.training.tracking import truncate_lines
from calibadv_env.common.locks import hold_folder
from calibadv_env.errors import InUseError

SPEC = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
assert SPEC is not None
assert SPEC.loader is not None
letters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(letters)


def changed(config: TrainConfig, **parts: Any) -> TrainConfig:
    """A config with settings of its parts replaced: ``optim={"lr": 1.0}``."""
    new = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return replace(config, **new)


def effects(before: TrainConfig, after: TrainConfig) -> dict[str, str]:
    found = json.loads(json.dumps(config_to_dict(before)))
    return {each.name: each.effect for each in changed_settings(found, after)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, {}),
        ({"output_dir": Path("/else"), "quiet": True}, {"output_dir": "none", "quiet": "none"}),
        ({"evaluation": {"every": 1}}, {"evaluation.every": "none"}),
        ({"evaluation": {"episodes": 7}}, {"evaluation.episodes": "numbers"}),
        ({"trackers": ("wandb",)}, {"trackers": "none"}),
        ({"optim": {"micro_batch_tokens": 600}}, {"optim.micro_batch_tokens": "last bits"}),
        (
            {"optim": {"gradient_checkpointing": True}},
            {"optim.gradient_checkpointing": "last bits"},
        ),
        ({"rollout": {"num_slots": 8}}, {"rollout.num_slots": "last bits"}),
        ({"rollout": {"temperature": 0.5}}, {"rollout.temperature": "numbers"}),
        ({"optim": {"lr": 0.5}, "seed": 9}, {"optim.lr": "numbers", "seed": "numbers"}),
        ({"optim": {"num_updates": 99}}, {"optim.num_updates": "none"}),
        ({"engine": {"max_prefill_tokens": 64}}, {"engine.max_prefill_tokens": "last bits"}),
    ],
)
def test_the_kinds_of_settings(parts: dict[str, Any], expected: dict[str, str]) -> None:
    base = changed(ATLAS_TINY, optim={"schedule": "constant", "warmup_fraction": 0.0})
    assert effects(base, changed(base, **parts)) == expected


@pytest.mark.parametrize("objective", [KlCov(), ClipCov(), BalancedSurrogate()])
def test_micro_batches_count_where_the_objective_is_defined_on_them(objective: Any) -> None:
    base = changed(ATLAS_TINY, optim={"objective": objective})
    after = changed(base, optim={"micro_batch_tokens": 600})
    assert effects(base, after) == {"optim.micro_batch_tokens": "numbers"}
    after = changed(base, optim={"prefixes": "shared"})
    assert effects(base, after) == {"optim.prefixes": "numbers"}


def test_a_run_from_before_prefixes_could_be_shared_kept_them_separate() -> None:
    found = json.loads(json.dumps(config_to_dict(ATLAS_TINY)))
    del found["optim"]["prefixes"]
    assert changed_settings(found, ATLAS_TINY) == []
    (change,) = changed_settings(found, changed(ATLAS_TINY, optim={"prefixes": "shared"}))
    assert (change.name, change.effect) == ("optim.prefixes", "last bits")


def test_a_server_may_move_and_an_index_may_not_become_one() -> None:
    at = [changed(ATLAS_TINY, env={"retriever": f"http://127.0.0.1:{port}"}) for port in (1, 2)]
    assert effects(*at) == {"env.retriever": "none"}
    assert effects(ATLAS_TINY, at[0]) == {"env.retriever": "numbers"}


def test_a_reward_in_a_file_counts_by_what_the_file_holds(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for file in (one, two):
        file.write_text("def pay(*_): return 0.5\n")
    base, moved = (changed(ATLAS_TINY, env={"reward": f"0.5*{f}:pay + f1"}) for f in (one, two))
    found = json.loads(json.dumps(config_to_dict(base)))
    assert {e.name: e.effect for e in changed_settings(found, moved)} == {"env.reward": "none"}
    assert config_hash(base) == config_hash(moved)
    before = config_hash(base)
    one.write_text("def pay(*_): return 0.9\n")
    (edited,) = changed_settings(found, base)
    assert (edited.name, edited.effect) == ("env.reward_sha256", "numbers")
    assert "the reward's file holds something else" in str(edited)
    assert config_hash(base) != before
    assert effects(ATLAS_TINY, base)["env.reward"] == "numbers"
    del found["env"]["reward_sha256"]  # a run that was begun before files were looked at
    assert {e.effect for e in changed_settings(found, base)} == {"none"}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_more_updates_need_a_schedule_that_stays(schedule: str) -> None:
    base = changed(ATLAS_TINY, optim={"schedule": schedule, "num_updates": 4})
    longer = changed(base, optim={"num_updates": 6})
    assert effects(base, longer) == {"optim.num_updates": "numbers"}
    kept = changed(longer, optim={"schedule_updates": 4})
    assert effects(base, kept) == {"optim.num_updates": "none"}
    moved = changed(base, optim={"schedule_updates": 8})
    assert effects(base, moved) == {"optim.schedule_updates": "numbers"}


def test_more_updates_are_another_run_where_something_grows_with_the_share_done() -> None:
    base = changed(ATLAS_TINY, env={"retriever": "simulated:http://127.0.0.1:1"})
    after = changed(base, optim={"num_updates": 99})
    assert effects(base, after) == {"optim.num_updates": "numbers"}


def letters_config(folder: Path, num_updates: int, **changes: Any) -> TrainConfig:
    optim = letters.OptimConfig(num_updates=num_updates, lr=1e-2)
    config = letters.make_config(
        folder, optim=optim, evaluation=letters.EvalConfig(every=0, episodes=3), checkpoint_every=1
    )
    return changed(config, **changes)


def weights_of(folder: Path, update: int) -> bytes:
    file = folder / "checkpoints" / f"update_{update:06d}" / "policy" / "model.safetensors"
    return file.read_bytes()


def test_a_longer_run_is_the_run_that_was_long_from_the_start(tmp_path: Path) -> None:
    letters.make_trainer(letters_config(tmp_path / "a", 4)).train()
    letters.make_trainer(letters_config(tmp_path / "b", 2)).train()
    result = letters.make_trainer(letters_config(tmp_path / "b", 4)).train()
    assert result.num_updates == 4
    assert weights_of(tmp_path / "a", 4) == weights_of(tmp_path / "b", 4)
    fewer = letters.make_trainer(letters_config(tmp_path / "b", 3)).train()
    assert fewer.num_updates == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"rollout": {"num_slots": 1}},
        {"rollout": {"driver": "async"}},
        {"evaluation": {"every": 1}},
    ],
)
def test_slots_driver_and_evaluations_move_no_bit_here(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    letters.make_trainer(letters_config(tmp_path / "a", 2)).train()
    letters.make_trainer(letters_config(tmp_path / "b", 1)).train()
    letters.make_trainer(letters_config(tmp_path / "b", 2, **changes)).train()
    assert weights_of(tmp_path / "a", 2) == weights_of(tmp_path / "b", 2)


def test_changes_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    letters.make_trainer(letters_config(tmp_path, 1)).train()
    small = letters_config(
        tmp_path,
        2,
        rollout={"num_slots": 1},
        optim={"micro_batch_tokens": 9},
        keep_checkpoints=1,
    )
    letters.make_trainer(small).train()
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["optim"]["micro_batch_tokens"] == 9
    [change] = record["changes"]
    assert change["after_update"] == 1
    assert {name: each["effect"] for name, each in change["settings"].items()} == {
        "optim.micro_batch_tokens": "last bits",
        "optim.num_updates": "none",
        "rollout.num_slots": "last bits",
    }
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["update"] for row in rows] == [0, 1, 2]


def test_what_changes_numbers_is_named_with_both_values_and_nothing_is_touched(
    tmp_path: Path,
) -> None:
    letters.make_trainer(letters_config(tmp_path, 1)).train()
    before = (tmp_path / "config.json").read_bytes()
    config = letters_config(tmp_path, 1, optim={"lr": 0.5, "micro_batch_tokens": 9}, seed=7)
    with pytest.raises(CheckpointError) as caught:
        letters.make_trainer(config).train()
    assert "optim.lr: 0.01 there, 0.5 here; seed: 0 there, 7 here. Give" in str(caught.value)
    assert "micro_batch" not in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_whose_settings_are_gone_is_refused_in_words(tmp_path: Path) -> None:
    letters.make_trainer(letters_config(tmp_path, 1)).train()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"put back the one that it was made with"):
        letters.make_trainer(letters_config(tmp_path, 2, optim={"lr": 0.5})).train()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot read the settings"):
        letters.make_trainer(letters_config(tmp_path, 1)).train()


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    letters.make_trainer(letters_config(tmp_path, 1)).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused: list[BaseException] = []

    def other() -> None:
        try:
            letters.make_trainer(letters_config(tmp_path, 2)).train()
        except InUseError as error:
            refused.append(error)

    with hold_folder(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"is in use by process {os.getpid()} on" in str(refused[0])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert letters.make_trainer(letters_config(tmp_path, 2)).train().num_updates == 2
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\r", "\x1c"])
def test_a_line_separator_in_an_answer_ends_no_line(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "evals.jsonl"
    rows = [
        json.dumps({"update": n, "answer": f"a{separator}b"}, ensure_ascii=False) for n in (0, 1)
    ]
    whole = "".join(f"{row}\n" for row in rows)
    file.write_bytes(f"{whole}half".encode())
    truncate_lines(file, 0)
    assert file.read_bytes() == f"{rows[0]}\n".encode()
