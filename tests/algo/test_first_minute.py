"""The command line for people: suggestions, examples, completion, no colour, watching."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calibadv_algo.cli.compare import shared_flag
from calibadv_algo.cli.completion import completion_script, flags_of
from calibadv_algo.cli.help_texts import EXAMPLES, MOST_USED
from calibadv_algo.cli.main import COMMANDS, main, parse
from calibadv_algo.cli.watch import Watch, duration, state_of


@pytest.mark.parametrize(("word", "meant"), [("trian", "train"), ("evaluate", "eval")])
def test_a_mistyped_command_gets_a_suggestion(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    assert f"did you mean `calibadv {meant}`?" in capsys.readouterr().err


def test_a_mistyped_flag_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--optim.lrr", "1"])
    assert "--optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("--optim.lr", "--train.optim.lr"),
        ("--env.no-format-gate", "--train.env.no-format-gate"),
        ("--model=x", "--train.model=x"),
        ("--strict", "--train.strict"),
        ("--no-strict", "--train.no-strict"),
        ("--train.optim.lr", "--train.optim.lr"),
        ("--seeds", "--seeds"),
        ("--output-dir", "--output-dir"),
        ("--seed", "--seed"),
        ("grpo", "grpo"),
    ],
)
def test_flags_of_training_mean_the_same_in_a_comparison(given: str, full: str) -> None:
    assert shared_flag(given) == full


def test_a_learning_rate_is_given_alike_in_both() -> None:
    words = ["--optim.lr", "2e-4", "--strict"]
    compared = parse("compare", words).config.train
    trained = parse("train", words).config
    assert (
        (compared.optim.lr, compared.strict) == (trained.optim.lr, trained.strict) == (2e-4, True)
    )


@pytest.mark.parametrize("form", sorted({*EXAMPLES, *MOST_USED}))
def test_help_begins_with_examples_whose_flags_exist(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert form in COMMANDS
    with pytest.raises(SystemExit):
        main([*form.split(), "--help"])
    out = capsys.readouterr().out
    assert out.startswith("examples:\n  calibadv ")
    body = out[out.index("usage:") :]
    used = MOST_USED.get(form, ())
    assert len(used) <= 10
    for flag in used:
        assert flag in body or shared_flag(flag) in body, flag
    for example in EXAMPLES.get(form, ()):
        for word in example.split():
            if word.startswith("--") and form not in ("data", "index"):
                assert word in body or shared_flag(word) in body, word


def test_the_completion_knows_commands_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibadv_algo.cli.completion.flags_of", lambda command: ["--" + command])
    script = completion_script("bash")
    assert all(name in script for name in COMMANDS if " " not in name)
    assert "eval " in script
    assert completion_script("zsh").count("bashcompinit") == 2
    bash = shutil.which("bash")
    assert bash is not None
    ask = "COMP_WORDS=(calibadv %s); COMP_CWORD=%d; _calibadv; echo ${COMPREPLY[@]}"
    for words, index, expected in (
        ("tr", 1, "train trace"),
        ("play --p", 2, "--play"),
        ("data prep", 2, "prepare"),
    ):
        done = subprocess.run(
            [bash, "-c", f"{script}\n{ask % (words, index)}"], capture_output=True, text=True
        )
        assert done.stdout.split() == expected.split(), (words, done.stderr)


def test_flags_are_read_from_the_help() -> None:
    assert {"--interval-s", "--once"} <= set(flags_of("watch"))


def test_no_colour_means_no_colour() -> None:
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "calibadv", "report", "nowhere"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr


def write_run(folder: Path, num_done: int) -> Path:
    folder.mkdir(parents=True)
    settings = {"config": {"optim": {"num_updates": 4}}}
    (folder / "config.json").write_text(json.dumps(settings))
    lines = [{"update": 0, "eval_f1": 0.25}]
    lines += [
        {"update": n, "reward_mean": n / 10, "time_rollout_s": 20.0, "time_update_s": 10.0}
        for n in range(1, num_done + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"update": 9')
    return folder


def test_a_run_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", 2)
    state = state_of(run)
    assert (state.update, state.num_updates, state.eta_s, state.is_done) == (2, 4, 60.0, False)
    Watch(folder=run, once=True).run()
    out = capsys.readouterr().out
    assert out == "run: update 2/4  reward 0.200  dev F1 0.250  ETA 60 s\n"
    done = write_run(tmp_path / "done", 4)
    Watch(folder=done, page=tmp_path / "page.html").run()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>4/4</td>" in page
    assert "These runs ended" in page
    assert capsys.readouterr().out.rstrip().endswith("done")


def test_a_comparison_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("grpo-seed0", "mine-seed0"):
        write_run(tmp_path / "runs" / name, 1)
    (tmp_path / "comparison.json").write_text("{}")
    assert main(["watch", str(tmp_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["grpo-seed0", "mine-seed0"]


def test_what_is_no_run_cannot_be_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path)]) == 1
    assert "is no folder of calibadv train" in capsys.readouterr().err


def test_durations_are_said_in_words() -> None:
    assert [duration(s) for s in (40, 720, 11_100)] == ["40 s", "12 min", "3 h 5 min"]
