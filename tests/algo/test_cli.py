"""The command line: what is refused and how, and what the flags turn into."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli import main as cli
from calibadv_algo.cli.main import COMMANDS, main, parse
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.errors import CheckpointError
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.training.presets import PRESETS
from calibadv_env.errors import MissingDependencyError


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# Commands and help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_there_is_a_list_of_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name, (_, _, description) in COMMANDS.items():
        assert f"calibadv {name}" in out
        assert description in out


def test_an_unknown_command_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "unknown command 'tarin'" in err
    assert all(name in err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_each_field_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), "--help"])
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"usage: calibadv {name}" in out
    module, class_name, _ = COMMANDS[name]
    command = getattr(importlib.import_module(f"calibadv_algo.cli.{module}"), class_name)
    assert " ".join(command.__doc__.split()) in out
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(field.type) or field.name in (
            "config",
            "shape",
            "cloning",
            "reading",
            "documents",
            "work",
        ):
            continue
        assert doc_of(command, field.name) in out


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["data", "prepare", "--help"], "--passage-words"),
        (["index", "bm25", "--k1", "2", "--help"], "--overwrite"),
        (["eval", "--suite", "nq", "--help"], "--subset"),
        (["eval", "--help", "--suite"], "--subset"),
        (["train", "--arm", "grpo", "-h"], "--arm"),
    ],
)
def test_help_is_that_of_the_command_asked_about(
    arguments: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert flag in capsys.readouterr().out


def doc_of(command: type[Any], field: str) -> str:
    """The first words of the line under a field."""
    owner = next(kind for kind in command.__mro__ if field in inspect.get_annotations(kind))
    source = Path(sys.modules[owner.__module__].__file__ or "").read_text(encoding="utf-8")
    after = source.split(f"    {field}: ", 1)[1]
    doc = after.split('"""', 2)[1]
    return " ".join(doc.split()[:4])


def test_help_shows_nested_fields_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Passages that a search returns. (default: 3)" in out
    assert "--rollout.group-size INT Episodes of each question. (default: 8)" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flags_are_fatal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    positional = {
        "eval --suite": ["toy"],
        "serve": ["toy"],
        "list": ["arms"],
        "report": ["folder"],
        "watch": ["folder"],
        "export": ["folder"],
        "trace": ["import", "log.jsonl", "--output", "out.jsonl"],
    }
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), *positional.get(name, []), "--no-such-flag", "1"])
    assert caught.value.code == 2
    assert "no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--optim.num-updates", "many"],
        ["train", "--env.invalid-action", "stop"],
        ["list", "models"],
        ["train", "--preset"],
    ],
)
def test_values_of_the_wrong_kind_are_fatal(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--env.top-k", "0"], "top_k must be positive, got 0"),
        (["train", "--arm", "grpo", "--rollout.top-p", "2"], "top_p must be in (0, 1], got 2"),
        (["compare", "--num-workers", "-1"], "num_workers must not be negative, got -1"),
        (["compare", "--arms", "grpo", "ppo"], "got 'ppo'"),
        (["compare", "--arms=grpo,ppo"], "got 'ppo'"),
        (["train", "--baseline", "ppo"], "got 'ppo'"),
        (["train", "--arm", "grpo", "--baseline", "grpo"], "either an arm or a baseline"),
        (["train", "--preset", "published"], "needs a baseline"),
        (["warmstart", "--cloning.lr", "0"], "lr must be positive, got 0"),
    ],
)
def test_values_out_of_range_are_refused_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(arguments)
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in err
    assert "Traceback" not in err


# Presets and arms


@pytest.mark.parametrize("flag", [["--preset", "huge"], ["--preset=huge"]])
@pytest.mark.parametrize(("name", "known"), [("train", "atlas-tiny"), ("compare", "quick, full")])
def test_an_unknown_preset_lists_the_known_ones(
    name: str, known: str, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, *flag]) == 1
    err = error_of(capsys)
    assert "preset must be one of" in err
    assert known in err
    assert "got 'huge'" in err


def test_an_unknown_arm_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="got 'ppo'"):
        parse("train", ["--arm", "ppo"])
    assert main(["train", "--arm", "ppo"]) == 1
    err = error_of(capsys)
    assert all(name in err for name in ARMS)
    assert "got 'ppo'" in err


def test_the_full_preset_has_every_arm_and_five_seeds() -> None:
    config = parse("compare", ["--preset", "full"]).config
    assert config.arms == tuple(ARMS)
    assert config.seeds == (0, 1, 2, 3, 4)
    fewer = parse("compare", ["--preset", "full", "--seeds", "7", "--arms", "grpo", "rebalance"])
    assert fewer.config.seeds == (7,)
    assert fewer.config.arms == ("grpo", "rebalance")
    assert fewer.config.output_dir == config.output_dir


def test_the_default_comparison_is_the_main_job() -> None:
    config = parse("compare", []).config
    assert config.arms == ("grpo", "calibadv")
    assert len(config.seeds) >= 2


def test_arms_switch_algorithm_and_think_tag() -> None:
    calibadv = parse("train", []).config
    assert isinstance(calibadv.advantage, CalibAdv)
    assert isinstance(calibadv.credit, SilverCredit)
    assert calibadv.env.prepend_think
    grpo = parse("train", ["--arm", "grpo"]).config
    assert isinstance(grpo.advantage, Grpo)
    assert isinstance(grpo.credit, NoCredit)
    assert not grpo.env.prepend_think
    assert parse("train", ["--arm=grpo"]).config == grpo


def test_flags_change_the_preset() -> None:
    command = parse("train", ["--preset", "search-r1-grpo", "--arm", "grpo", "--optim.lr", "1e-4"])
    start = PRESETS["search-r1-grpo"]
    assert command.config.optim == dataclasses.replace(start.optim, lr=1e-4)
    assert command.config.rollout == start.rollout
    nested = parse("compare", ["--train.env.top-k", "5", "--train.optim.num-updates", "2"])
    assert nested.config.train.env.top_k == 5
    assert nested.config.train.optim.num_updates == 2


# Errors


class Failing:
    """A command that goes wrong."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def run(self) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("top_k must be positive, got [0]"), "top_k must be positive, got [0]"),
        (CheckpointError("the folder holds another run"), "the folder holds another run"),
        (MissingDependencyError("pip install 'calibadv[wiki]'"), "pip install 'calibadv[wiki]'"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "'x.json'"),
        (FloatingPointError("the gradient of step 3 is not finite"), "step 3 is not finite"),
        (ValueError("long " * 100), "long " * 99),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "parse", lambda name, rest: Failing(error))
    assert main(["list"]) == 1
    assert text in error_of(capsys)


def test_an_interruption_is_said_and_a_bug_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parse", lambda name, rest: Failing(KeyboardInterrupt()))
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr(cli, "parse", lambda name, rest: Failing(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        main(["list"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--model", "no/such/model"], "'no/such/model' could not be loaded"),
        (["play", "--env.env-id", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["play", "--env.env-id", "no_such_module:Env-v0"], "no_such_module"),
        (["play", "--env.dataset", "nothing"], "dataset must be one of"),
        (["play", "--env.dataset", "toy", "--task-index", "100000"], "task_index"),
        (["report", "no/such/folder"], "no/such/folder"),
        (["warmstart", "--dataset", "nothing", "--output-dir", "{tmp}"], "dataset must be one of"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([each.format(tmp=tmp_path) for each in arguments]) == 1
    assert message in error_of(capsys)


# Start-up


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "arms"],
        ["train", "--help"],
        ["compare", "--help"],
        ["report", "--help"],
    ],
)
def test_the_heavy_packages_wait_until_a_command_runs(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom calibadv_algo.cli.main import main\n"
        f"try:\n    code = main({arguments!r})\n"
        "except SystemExit as error:\n    code = error.code\n"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_console_script_is_this(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calibadv_algo.cli.main", "nonsense"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "unknown command 'nonsense'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--arms", "grpo,calibadv-gold,rebalance", "--seeds", "3,4"],
        ["--arms=grpo,calibadv-gold,rebalance", "--seeds", "3", "4"],
        ["--arms", "grpo", "calibadv-gold", "rebalance", "--seeds=3,4"],
        ["--arms", "grpo,", "calibadv-gold", ",rebalance", "--seeds", "3,", "4"],
    ],
)
def test_lists_are_written_with_spaces_or_commas(arguments: list[str]) -> None:
    config = parse("compare", [*arguments, "--output-dir", "a,b"]).config
    assert config.arms == ("grpo", "calibadv-gold", "rebalance")
    assert config.seeds == (3, 4)
    assert config.output_dir == Path("a,b")


def test_a_baseline_is_the_default_that_flags_change() -> None:
    command = parse("train", ["--baseline", "dapo", "--optim.objective.clip-high", "0.4"])
    objective = command.config.optim.objective
    assert (objective.clip_low, objective.clip_high) == (0.2, 0.4)
    assert command.config.filters
    published = parse("train", ["--baseline", "grpo", "--preset", "published"]).config
    assert published == PRESETS["search-r1-grpo"]


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_in_the_place_of_a_folder_is_said_to_be_one(
    tmp_path: Path, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    assert main(["train", "--output-dir", str(tmp_path / "file" / inside), "--quiet"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ")
    assert "file is a file where a folder is needed: choose another path" in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"
