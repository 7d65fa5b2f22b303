"""What makes a run teach nothing is said at its first update; --strict ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.cli.warned import Warned, stop_on_interrupt
from calibadv_algo.training.config import config_hash
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.warnings import (
    PATIENCE,
    StrictError,
    TrainingSigns,
    small_split,
)

FINE = {
    "episodes": 128.0,
    "context_overflows": 0.0,
    "format_valid_share": 0.9,
    "groups_with_signal_share": 0.5,
}
TINY = [
    *("train", "--env.dataset", "toy", "--rollout.num-questions", "2", "--rollout.group-size", "2"),
    *("--optim.num-updates", "3", "--evaluation.every", "0"),
]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"context_overflows": 128.0}, ("128 of 128 episodes", "--rollout.max-context")),
        ({"format_valid_share": 0.02}, ("2.0% of the episodes", "--env.no-format-gate")),
        ({"groups_with_signal_share": 0.0}, ("any of the 16 groups", "--rollout.group-size")),
    ],
)
def test_each_sign_is_said_once_with_its_number_and_flags(
    metrics: Mapping[str, float], words: tuple[str, ...]
) -> None:
    signs = TrainingSigns(ATLAS_TINY)
    assert signs.look(FINE) == []
    [text] = signs.look({**FINE, **metrics})
    assert all(word in text for word in words)
    assert signs.look({**FINE, **metrics}) == []


def test_a_few_full_contexts_are_no_sign() -> None:
    assert TrainingSigns(ATLAS_TINY).look({**FINE, "context_overflows": 12.0}) == []


def test_silence_over_several_updates_is_said_again() -> None:
    signs = TrainingSigns(ATLAS_TINY)
    silent = {**FINE, "groups_with_signal_share": 0.0}
    said = [signs.look(silent) for _ in range(PATIENCE + 1)]
    assert [len(each) for each in said] == [1, *[0] * (PATIENCE - 2), 1, 0]
    assert f"for {PATIENCE} updates in a row" in said[PATIENCE - 1][0]


def test_a_small_split_is_said_with_its_uncertainty() -> None:
    assert small_split("test", 300) == ""
    text = small_split("test", 3)
    assert "test has 3 questions" in text
    assert "±0.57" in text


def test_strict_makes_an_error_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    Warned(ATLAS_TINY).look_at_split(3)
    assert "warning: the split dev has 3 questions" in capsys.readouterr().err
    with pytest.raises(StrictError, match="3 questions"):
        Warned(replace(ATLAS_TINY, strict=True)).look_at_split(3)


def test_strictness_is_no_part_of_what_a_run_is() -> None:
    assert config_hash(replace(ATLAS_TINY, strict=True)) == config_hash(ATLAS_TINY)


def test_a_run_without_room_says_so_and_strict_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--rollout.max-context", "70", "--optim.num-updates", "1"]
    assert main([*words, "--output-dir", str(tmp_path / "a")]) == 0
    err = capsys.readouterr().err.replace("\n", " ")
    assert "warning: update 1: 4 of 4 episodes ended because their context of 70 tokens" in err
    assert main([*words, "--strict", "--output-dir", str(tmp_path / "b")]) == 1
    assert "(--strict)" in capsys.readouterr().err


def test_a_first_interrupt_saves_and_the_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibadv_algo.training.trainer import Trainer

    words = [*TINY, "--output-dir", str(tmp_path)]
    plain = Trainer._run_update

    def interrupted(self: Trainer, collector: object) -> dict[str, float]:
        if self.num_updates_done == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, collector)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_run_update", interrupted)
    assert main(words) == 130
    err = " ".join(capsys.readouterr().err.split())
    assert "stopped after 1 of 3 updates; the checkpoint is in" in err
    assert (tmp_path / "checkpoints" / "update_000001" / "policy").is_dir()
    assert main(words) == 0
    assert "3 updates done" in capsys.readouterr().out


def test_a_second_interrupt_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
