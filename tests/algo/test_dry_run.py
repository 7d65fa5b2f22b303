"""A training command that only says what it would need, and the recipes whose commands it tries."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from calibadv_algo.cli.dry_run import read_hardware, workload
from calibadv_algo.cli.main import main
from calibadv_algo.training.presets import PRESETS

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
SHOWN = ("| total, micro", "| of |", "| **total** |")
"""Beginnings of the lines that a recipe takes from the plan."""


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without prepared datasets to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    return tmp_path


def dry_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["train", *arguments]) == 0
    return capsys.readouterr().out


def test_nothing_is_loaded_or_written(
    somewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a dry run must not train")

    monkeypatch.setattr("calibadv_algo.cli.train.run_training", never)
    text = dry_run(["--dry-run", "cpu", "--env.dataset", "toy"], capsys)
    assert "| questions to train on | toy, train | 380 |" in text
    assert "16 questions × 8 = 128; 3,200 in all" in text
    assert "No plan of memory and time is made for a CPU." in text
    assert not any(somewhere.iterdir())


def test_what_is_missing_is_named(somewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--env.retriever", "http://127.0.0.1:9", "--output-dir", str(somewhere)]
    text = dry_run(["--preset", "calibadv-qwen2.5-3b", *flags, "--dry-run", "8xh100"], capsys)
    assert "would be downloaded from the hub, about 6.2 GB in bf16" in text
    assert text.count("**missing**, see below") == 2
    assert "calibadv data prepare hotpotqa --from flashrag" in text
    assert "| search | http://127.0.0.1:9 | **no answer**" in text
    assert f"| folder | {somewhere} | new |" in text


def test_a_folder_with_a_run_is_said(somewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (somewhere / "config.json").write_text("{}", encoding="utf-8")
    text = dry_run(["--dry-run", "cpu", "--output-dir", str(somewhere)], capsys)
    assert "holds a run; it would be resumed" in text


def test_settings_that_the_plan_does_not_suppose_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = dry_run(["--dry-run", "2xrtx4090"], capsys)
    for said in (
        "--optim.micro-batch-tokens is 1,200",
        "--optim.gradient-checkpointing, which is off",
        "--optim.dtype bf16; fp32 takes",
        "--optim.parallel sharded",
        "the engine hf is slower",
        "do not fit into --rollout.max-context 1,024",
    ):
        assert said in text
    settings = ["--preset", "calibadv-qwen2.5-3b", "--engine", "vllm", "--dry-run", "h100"]
    assert text_after_plan(dry_run(settings, capsys)) == ["- Evaluations are not in it."]


def test_what_the_plan_leaves_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = dry_run(["--baseline", "search-r1-ppo", "--dry-run", "h100"], capsys)
    assert "leaves out the critic of the advantage" in text
    text = dry_run(["--arm", "vine", "--evaluation.episodes", "99999", "--dry-run", "h100"], capsys)
    assert "leaves out continuations (rollout.vine)" in text
    assert "| evaluations | 6, of 1,168 episodes each |" in text


def text_after_plan(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("- ")]


def test_a_model_of_ones_own_and_one_that_is_too_large(
    somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--model", "Qwen/Qwen2.5-32B", "--dry-run", "rtx4090"]) == 1
    assert "it fits from 64 on" in capsys.readouterr().err
    assert "No plan of memory and time: model must be" in dry_run(
        ["--model", "some/other", "--dry-run", "h100"], capsys
    )
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 1000,
    }
    folder = somewhere / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = dry_run(["--model", str(folder), "--dry-run", "h100"], capsys)
    assert f"| policy | {folder} | here |" in text
    assert f"### {folder} on 1 × H100 SXM" in text


@pytest.mark.parametrize("text", ["8xfoo", "0xh100", "h100x8", "2xcpu", ""])
def test_unknown_accelerators_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"dry_run must be .* such as 8xh100, or cpu; got"):
        read_hardware(text)


def test_the_batch_is_that_of_the_settings() -> None:
    work = workload(PRESETS["search-r1-grpo"])
    assert (work.questions, work.group_size, work.minibatches) == (512, 5, 10)
    assert work.reference
    assert work.max_action_tokens == 500
    tiny = workload(PRESETS["atlas-tiny"])
    assert not tiny.reference
    assert not tiny.old_logprobs
    assert tiny.action_tokens == 40


@pytest.mark.parametrize("page", ["qwen2.5-3b", "llama-3.2-3b", "qwen2.5-0.5b"])
def test_the_figures_of_a_recipe_are_those_of_its_dry_run(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (RECIPES / f"{page}.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:torchrun .* -m calibadv_algo.cli.main|calibadv) train .*$", text, re.M)
    commands = [shlex.split(line, comments=True) for line in lines]
    rehearsed, real = (command[command.index("train") + 1 :] for command in commands)
    at = rehearsed.index("--dry-run")
    assert rehearsed[:at] == real, "the rehearsal is of the command that trains"
    said = dry_run(rehearsed, capsys).splitlines()
    figures = [line for line in said if line.startswith(SHOWN) or line.endswith("hours.")]
    assert len(figures) == 4
    for line in figures:
        assert line in text, line
    total = next(line for line in figures if line.startswith("| **total** |")).split("**")[3]
    hours = figures[-1].rsplit(": ", 1)[1].removesuffix(" hours.")
    overview = (RECIPES / "README.md").read_text(encoding="utf-8")
    row = next(line for line in overview.splitlines() if f"({page}.md)" in line)
    assert f"| {total} s | {hours} h |" in row
