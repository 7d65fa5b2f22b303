"""`calibadv credit` as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from calibadv_algo.cli.compare_credit import engine_name, measure_comparison
from calibadv_algo.cli.credit import parse_seconds
from calibadv_algo.cli.main import main
from calibadv_algo.experiments.compare import CompareConfig
from calibadv_algo.report.attached import credit_table
from calibadv_algo.report.reading import ReportError
from calibadv_algo.rollout.engines.config import (
    EngineConfig,
    HfEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)
from calibadv_algo.rollout.journal import intact_lines
from calibadv_algo.training.presets import ATLAS_TINY

FLAGS = ("--questions", "3", "--group-size", "3", "--continuations", "4")


def load_endpoint() -> ModuleType:
    """The module beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("endpoint", Path(__file__).parent / "endpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["endpoint"] = module
    spec.loader.exec_module(module)
    return module


def credit(folder: Path, *more: str) -> int:
    return main(["credit", "atlas-tiny", *FLAGS, "--output", str(folder), *more])


def test_the_command_measures_compares_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert credit(tmp_path, "--env.dataset", "toy") == 0
    out = capsys.readouterr().out
    assert "calibadv/silver" in out
    assert "searches that GRPO punishes" in out or "all searches" in out
    (first,) = json.loads((tmp_path / "credit.json").read_text())
    assert first["facts"]["questions"] == 3
    assert {"searches", "answers", "all"} == set(first["standings"])
    assert "against" in first["standings"]["all"]["calibadv/gold"]
    assert "ppo-gae" in first["left_out"]
    page = (tmp_path / "credit.html").read_text()
    assert "data:image/png;base64," in page
    assert '"truth":' in page
    assert "correlation by kind of turn" in page
    assert "calibadv/silver" in (tmp_path / "table.md").read_text()
    size = (tmp_path / "measurements.jsonl").stat().st_size
    assert (
        credit(
            tmp_path,
            "--env.dataset",
            "toy",
            "--estimators",
            "calibadv/gold",
            "--estimators",
            "rloo",
        )
        == 0
    )
    (again,) = json.loads((tmp_path / "credit.json").read_text())
    assert (tmp_path / "measurements.jsonl").stat().st_size == size, "nothing is sampled again"
    assert set(again["standings"]["all"]) == {"grpo", "calibadv/gold", "rloo"}
    assert again["worth"] == first["worth"]


def test_a_folder_of_another_measurement_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "measurements.jsonl").write_bytes(b"")
    assert credit(tmp_path, "--env.dataset", "toy", "--estimators", "rloo") == 0
    assert credit(tmp_path, "--env.dataset", "toy", "--seed", "5") == 1
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("45", 45)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_a_budget_that_is_no_time() -> None:
    with pytest.raises(ValueError, match="budget must be a time"):
        parse_seconds("soon")


def test_checkpoints_of_a_run_are_measured_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from calibadv_algo.learner.pretrained import policy_path

    for update in (2, 10):
        folder = tmp_path / "run" / "checkpoints" / f"update_{update:06d}"
        folder.mkdir(parents=True)
        (folder / "policy").symlink_to(policy_path("atlas-tiny"))
    flags = [*FLAGS, "--env.dataset", "toy", "--estimators", "rloo"]
    flags += ["--checkpoints", str(tmp_path / "run"), "--output", str(tmp_path / "out")]
    assert main(["credit", *flags]) == 0
    results = json.loads((tmp_path / "out" / "credit.json").read_text())
    assert [each["label"] for each in results] == ["update 2", "update 10"]
    assert (tmp_path / "out" / "update_000010" / "measurements.jsonl").is_file()
    assert main(["credit", "atlas-tiny", *flags]) == 1
    assert "checkpoints must not be given with a policy" in capsys.readouterr().err
    assert main(["credit", "--checkpoints", str(tmp_path / "out")]) == 1
    assert "must name the folder of a run" in capsys.readouterr().err


def test_the_critic_beside_a_policy_is_measured_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    from calibadv_algo.learner.checkpoint import CRITIC_FILE
    from calibadv_algo.learner.critic import Critic
    from calibadv_algo.learner.pretrained import load_policy, policy_path

    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "update_000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "policy").symlink_to(policy_path("atlas-tiny"))
    critic = Critic(load_policy("atlas-tiny")[0], ATLAS_TINY.optim)
    critic.module["head"].bias.data.fill_(0.25)  # type: ignore[operator, union-attr]
    weights = {name: tensor.clone() for name, tensor in critic.module.state_dict().items()}
    save_file(weights, checkpoint / CRITIC_FILE)
    settings = {"env": {"reward": "em"}, "shaping": []}
    (run / "config.json").write_text(json.dumps({"hash": "h", "config": settings}))
    flags = [*FLAGS, "--env.dataset", "toy", "--estimators", "ppo-gae", "--estimators", "mt-ppo"]
    flags += ["--output", str(tmp_path / "out")]
    assert main(["credit", str(checkpoint / "policy"), *flags]) == 0
    out = capsys.readouterr().out
    assert "values of states" in out
    assert "learnt from other rewards than are measured here (reward em)" in out
    result, start = _start_of_critic(tmp_path / "out")
    assert set(result["standings"]["all"]) == {"grpo", "ppo-gae", "critic-steps"}
    assert "other rewards" in result["left_out"]["mt-ppo"]
    assert result["facts"]["critic"] == "update_000003"
    assert start["count"] == 9
    assert "critic, later states" in (tmp_path / "out" / "table.md").read_text()
    assert "values of states" in (tmp_path / "out" / "credit.html").read_text()
    save_file(weights | {"head.bias": torch.tensor([0.75])}, checkpoint / CRITIC_FILE)
    assert main(["credit", str(checkpoint / "policy"), *flags]) == 0
    higher = _start_of_critic(tmp_path / "out")[1]
    raised = higher["bias"]["estimate"] - start["bias"]["estimate"]
    assert raised == pytest.approx(0.5, abs=1e-6), "the critic of the file was asked"
    weights.pop("head.bias")
    save_file(weights, checkpoint / CRITIC_FILE)
    assert main(["credit", str(checkpoint / "policy"), *flags]) == 1
    assert "does not fit the model" in capsys.readouterr().err


def _start_of_critic(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of a measurement, and how good its critic's values of the first states are."""
    (result,) = json.loads((folder / "credit.json").read_text())
    (row,) = [each for each in result["values"] if each["what"] == "critic, the start"]
    return result, row


def test_an_endpoint_that_tokenises_anew_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for route in ("chat", "completions"):
        address = ("--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "m")
        flags = (*address, "--endpoint-route", route, "--endpoint-retries", "0")
        assert main(["credit", *flags, "--env.dataset", "toy", "--output", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert "endpoint must not be given" in err
        assert "--endpoint-route tokens" in err, "says what to do"
    assert not (tmp_path / "measurements.jsonl").exists()


def test_an_endpoint_with_token_ids_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from calibadv_algo.learner.pretrained import load_tokenizer

    server = load_endpoint()
    tokenizer = load_tokenizer("atlas-tiny")
    contexts = []

    def answer(body: dict[str, Any]) -> str:
        """A search, then a right or a wrong answer, by the seed of the turn."""
        contexts.append(tuple(body["prompt"]))
        if "<information>" not in tokenizer.decode(body["prompt"]):
            return "<think> t</think><search> capital</search>"
        return f"<think> t</think><answer> {('Oslo', 'x')[body['seed'] % 2]}</answer>"

    with server.serve(answer, encode=tokenizer.encode, max_model_len=900) as endpoint:
        flags = ("--endpoint", endpoint.url, "--endpoint-model", "m", "--endpoint-route", "tokens")
        flags += ("--endpoint-tokenizer", "atlas-tiny", "--env.dataset", "toy", *FLAGS)
        flags += ("--estimators", "rloo", "--output", str(tmp_path / "out"))
        assert main(["credit", *flags]) == 0
    (result,) = json.loads((tmp_path / "out" / "credit.json").read_text())
    assert result["facts"]["questions"] == 3
    assert result["num_turns"] == {"searches": 9, "answers": 9, "all": 18}
    lines = list(intact_lines(tmp_path / "out" / "measurements.jsonl"))
    records = [json.loads(line) for line in lines[1:]]
    sampled = [each["trajectory"] for each in records if "trajectory" in each]
    assert len(sampled) == 9
    for each in sampled:
        turn = each["turns"][0]
        state = (*each["prompt_ids"], *turn["action_ids"], *turn["observation_ids"])
        assert contexts.count(state) >= 4, "continued from the very tokens"


def test_a_comparison_gets_the_credit_of_its_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from calibadv_algo.learner.pretrained import policy_path

    train = replace(
        ATLAS_TINY,
        env=replace(ATLAS_TINY.env, dataset="toy"),
        rollout=replace(ATLAS_TINY.rollout, group_size=3, max_tokens=24),
    )
    config = CompareConfig(
        arms=("grpo", "mine=rloo", "search-r1-ppo"),
        seeds=(7, 0),
        output_dir=tmp_path,
        train=train,
        credit=True,
        credit_questions=2,
    )
    for arm in config.algorithms:
        for update in (2, 10):
            folder = tmp_path / "runs" / f"{arm}-seed7" / "checkpoints" / f"update_{update:06d}"
            folder.mkdir(parents=True)
            (folder / "policy").symlink_to(policy_path("atlas-tiny"))
    assert credit_table(tmp_path) is None
    capsys.readouterr()
    measure_comparison(config, Console(highlight=False, width=80))
    out = capsys.readouterr().out
    assert out.count("Which advantages are right") == 1
    assert "mean true advantage" not in out, "one table, not those of every policy"
    results = json.loads((tmp_path / "credit" / "credit.json").read_text())
    assert [each["label"] for each in results] == ["warm start", "grpo", "mine", "search-r1-ppo"]
    names = set(results[0]["standings"]["searches"])
    assert {"grpo", "mine", "calibadv/silver", "calibadv/inverted"} <= names
    assert "critic" in results[0]["left_out"]["search-r1-ppo"]
    assert results[0]["facts"]["temperature"] == train.rollout.temperature
    assert (tmp_path / "credit" / "mine-seed7-update_000010" / "measurements.jsonl").is_file()
    table = credit_table(tmp_path)
    assert table is not None
    assert table.header == ("Estimator", "warm start", "grpo", "mine", "search-r1-ppo")
    assert "2 questions × 3 episodes" in table.note
    (tmp_path / "credit" / "credit.json").write_text("[{}]")
    with pytest.raises(ReportError, match="cannot be read"):
        credit_table(tmp_path)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (HfEngineConfig(), "hf"),
        (VllmEngineConfig(), "vllm"),
        (VllmServerEngineConfig(url="http://h:1"), "vllm-server=http://h:1"),
    ],
)
def test_a_comparison_measures_with_the_engine_of_its_runs(engine: EngineConfig, name: str) -> None:
    assert engine_name(replace(ATLAS_TINY, engine=engine)) == name
