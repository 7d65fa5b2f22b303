"""A disk that takes no more: the error is clear, nothing half stays, and the run goes on later."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.checkpoint import find_checkpoint
from calibadv_algo.training.config import TrainConfig

SPEC = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
assert SPEC is not None
assert SPEC.loader is not None
letters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(letters)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Lets the system refuse to write more into any file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def config(folder: Path, num_updates: int) -> TrainConfig:
    optim = letters.OptimConfig(num_updates=num_updates, lr=1e-2)
    evaluation = letters.EvalConfig(every=0, episodes=3)
    made: TrainConfig = letters.make_config(
        folder, optim=optim, evaluation=evaluation, checkpoint_every=1
    )
    return made


@pytest.mark.parametrize("num_bytes", [60_000, 90_000])
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on(
    tmp_path: Path, num_bytes: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    letters.make_trainer(config(whole, 2)).train()
    letters.make_trainer(config(cut, 1)).train()
    trainer = letters.make_trainer(config(cut, 2))
    with files_of_at_most(num_bytes), pytest.raises(CheckpointError) as caught:
        trainer.train()
    text = str(caught.value)
    assert "update_000002 could not be written" in text
    assert "File too large" in text
    assert "update_000001, is as it was. Make room on the disk" in text
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["update_000001"]
    assert find_checkpoint(cut / "checkpoints") == cut / "checkpoints" / "update_000001"
    assert not list(cut.rglob(".*"))
    letters.make_trainer(config(cut, 2)).train()
    name = "checkpoints/update_000002/policy/model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_disk_that_is_full_before_the_first_checkpoint_names_the_file(tmp_path: Path) -> None:
    with (
        files_of_at_most(100),
        pytest.raises(OSError, match=r"File too large: '.*config\.json'"),
    ):
        letters.make_trainer(config(tmp_path, 1)).train()
    assert not list(tmp_path.iterdir())
