"""Commands take the folder of a run, a comparison, an update or a policy, and say which."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.cli.places import comparison_at, policy_at, trajectories_at
from calibadv_algo.cli.prepared_rows import refuse_known


def run_at(folder: Path, *updates: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").touch()
    (folder / "trajectories").mkdir()
    for update in updates:
        (folder / "checkpoints" / f"update_{update:06d}" / "policy").mkdir(parents=True)
    return folder


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    folder = tmp_path / "compared"
    run_at(folder / "runs" / "grpo-seed0", 10, 20)
    run_at(folder / "runs" / "mine-seed0", 20)
    (folder / "comparison.json").write_text("{}")
    return folder


def test_of_every_folder_the_policy_is_found_and_said(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = comparison / "runs" / "grpo-seed0"
    last = run / "checkpoints" / "update_000020" / "policy"
    for given in (comparison, run, last.parent):
        assert policy_at(str(given)) == str(last)
        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith("taken: ")
        assert ("also mine-seed0" in said) is (given == comparison)
    for name in (str(last), "atlas-tiny", "Qwen/Qwen2.5-3B"):
        assert policy_at(name) == name
    assert capsys.readouterr().err == ""


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a run without a checkpoint yet"):
        policy_at(str(run_at(tmp_path / "new")))


def test_the_comparison_of_a_run_is_found(comparison: Path, tmp_path: Path) -> None:
    run = comparison / "runs" / "grpo-seed0"
    assert comparison_at(comparison) == comparison
    assert comparison_at(run) == comparison
    with pytest.raises(ValueError, match=r"is a run and no comparison: `calibadv diagnose"):
        comparison_at(run_at(tmp_path / "alone"))
    with pytest.raises(ValueError, match="there is no such folder"):
        comparison_at(tmp_path / "nothing")


def test_the_trajectories_of_an_update_are_those_of_its_run(comparison: Path) -> None:
    run = comparison / "runs" / "grpo-seed0"
    assert trajectories_at(run / "checkpoints" / "update_000010") == run
    assert trajectories_at(run) == run


def test_a_name_is_prepared_twice_with_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    questions, notes = tmp_path / "questions.csv", tmp_path / "notes.csv"
    rows = "".join(f"What is number {n}?,the {n}th\n" for n in range(20))
    questions.write_text(f"question,answer\n{rows}")
    notes.write_text("title,text\nNumbers,They go on.\n")
    given = ["data", "prepare", "numbers19", "--from", str(questions), "--corpus", str(notes)]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "What is number" in out
    assert "th\n" in out
    assert "next: calibadv data audit numbers19 --split test" in out
    assert main(given) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "numbers19 is there already: 16 train, 2 dev, 2 test questions in" in err
    assert "--force replaces it" in err
    assert main([*given, "--force"]) == 0
    refuse_known("other19", force=False)


@pytest.mark.slow
def test_eval_shows_intervals_and_warns_of_few_questions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", "--env.dataset", "toy", "--episodes", "3"]) == 0
    done = capsys.readouterr()
    assert "95 % interval" in done.out
    assert "[" in next(line for line in done.out.splitlines() if " f1 " in line)
    assert "has 3 questions" in " ".join(done.err.split())
