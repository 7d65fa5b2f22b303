"""The commands, from the warm start to the report, on the toy world."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from calibadv_algo.cli import provenance
from calibadv_algo.cli.listing import KINDS
from calibadv_algo.cli.main import main, parse
from calibadv_algo.cli.provenance import (
    data_sha256,
    dataset_of_env,
    git_commit,
    warm_start_facts,
)
from calibadv_algo.cli.warmstart import WarmStart, name_source, passage_heads, tokenizer_texts
from calibadv_algo.errors import CheckpointError
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.experiments.baseline import baseline_names
from calibadv_algo.learner import pretrained
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.rollout.engines.base import Generation
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.training.presets import PRESETS
from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.remote.client import HttpRetriever

NOISE = ("Loading weights", "Writing model shards", "it/s", "Traceback", "Warning", "warn")
SHAPE = {
    "vocab-size": 420,
    "hidden-size": 32,
    "num-layers": 2,
    "num-heads": 2,
    "num-kv-heads": 1,
    "intermediate-size": 64,
    "max-context": 512,
}
CLONING = {"num-steps": 4, "batch-size": 4, "warmup-steps": 1, "short-steps": 2}
TINY_RUN = {
    "rollout.num-questions": 2,
    "rollout.group-size": 2,
    "rollout.num-slots": 4,
    "rollout.max-tokens": 12,
    "rollout.max-context": 400,
    "optim.num-updates": 2,
    "evaluation.every": 1,
    "evaluation.episodes": 4,
    "env.dataset": "toy",
}


def flags(values: dict[str, Any], prefix: str = "") -> list[str]:
    return [part for name, value in values.items() for part in (f"--{prefix}{name}", str(value))]


def warm_start(folder: Path) -> int:
    return main(
        [
            "warmstart",
            *flags({"dataset": "toy", "output-dir": folder}),
            *flags(SHAPE, "shape."),
            *flags(CLONING, "cloning."),
        ]
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was cloned for four steps."""
    folder = tmp_path_factory.mktemp("warm") / "policy"
    assert warm_start(folder) == 0
    return folder


def output_of(capfd: pytest.CaptureFixture[str]) -> str:
    """What was printed, none of it by the libraries underneath."""
    out, err = capfd.readouterr()
    assert not [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert not [noise for noise in NOISE if noise in out]
    return str(out)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# warmstart


def test_warmstart_leaves_a_policy_and_its_recipe(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert warm_start(tmp_path / "a") == 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "parameters" in output_of(capfd)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json"} <= names
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert recipe["dataset"] == "toy"
    assert recipe["corpus_sha256"] == get_dataset("toy").corpus().sha256
    assert recipe["cloning"]["num_steps"] == 4
    assert recipe["shape"]["hidden_size"] == 32
    assert recipe["searcher"]["rename"] == 0.8
    assert recipe["num_parameters"] < 100_000
    assert recipe["num_tokens"] > 0
    assert warm_start(tmp_path / "b") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_the_tokenizer_is_trained_on_what_the_policy_reads_and_writes() -> None:
    toy = get_dataset("toy")
    tasks = toy.tasks("train")
    texts = tokenizer_texts(toy, tasks, name_source(toy, tasks))
    joined = "\n".join(texts)
    assert not re.search(r"</?(think|search|answer|information)>|Doc \d", joined)
    assert f"Question: {tasks[0].question}\n" in texts
    assert any(toy.corpus().passages[0].text in text for text in texts)
    assert passage_heads(2) == ["Doc 1(Title:", "Doc 2(Title:"]


def test_cloning_a_dataset_without_chains_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = {"id": "q1", "question": "q", "golden_answers": ["a"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(task))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "p", "contents": "t\nx"}))
    out = tmp_path / "out"
    assert main(["warmstart", "--dataset", f"{tmp_path}/", "--output-dir", str(out)]) == 1
    assert "error: task 'q1' has no metadata['chain']" in capfd.readouterr().err


# eval


def test_eval_prints_means_and_writes_records(
    policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "records.jsonl"
    arguments = {"model": policy, "env.dataset": "toy", "env.split": "dev", "episodes": 5}
    arguments |= {"max-tokens": 12, "max-context": 400, "num-slots": 4, "output": file}
    capfd.readouterr()
    assert main(["eval", *flags(arguments)]) == 0
    out = output_of(capfd)
    assert re.search(r"questions\W+5\b", out)
    assert re.search(r"f1\W+0\.\d{3}", out)
    assert re.search(r"format_valid\W+\d\.\d{3}", out)
    rows = read_lines(file)
    assert len({row["task_id"] for row in rows}) == 5
    assert {row["split"] for row in rows} == {"dev"}
    assert {row["task_id"] for row in rows} <= {t.id for t in get_dataset("toy").tasks("dev")}
    assert main(["eval", *flags(arguments)]) == 0
    assert read_lines(file) == rows  # the file is replaced


# train


def train(policy: Path, folder: Path, *more: str) -> int:
    arguments = {"arm": "grpo", "model": policy, "output-dir": folder}
    return main(["train", *flags(arguments), *flags(TINY_RUN), *more])


def test_train_resumes_and_refuses_another_run(
    policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    capfd.readouterr()
    assert train(policy, run, "--quiet") == 0
    out = output_of(capfd)
    assert "2 updates done" in out
    rows = read_lines(run / "metrics.jsonl")
    assert [row["update"] for row in rows] == [0, 1, 2]
    assert all("eval_f1" in row for row in rows)
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["data_sha256"] == get_dataset("toy").corpus().sha256
    assert facts["torch"] == torch.__version__
    policy_dir = re.search(r"the policy is in (\S+)", out)
    assert policy_dir is not None
    arguments = {"model": policy_dir[1], "env.dataset": "toy", "episodes": 2, "max-tokens": 8}
    arguments |= {"max-context": 400, "num-slots": 2}
    assert main(["eval", *flags(arguments)]) == 0
    capfd.readouterr()
    (run / "provenance.json").write_text(json.dumps(facts | {"git_commit": "earlier"}))
    for _ in range(2):
        assert train(policy, run, "--quiet") == 0
        assert read_lines(run / "metrics.jsonl") == rows
        again = json.loads((run / "provenance.json").read_text())
        assert again == facts | {"git_commit": "earlier", "resumed_by": [facts]}
    capfd.readouterr()
    (run / "provenance.json").write_text(before := json.dumps(facts | {"git_commit": "other"}))
    assert train(policy, run, "--quiet", "--seed", "1") == 1
    assert (run / "provenance.json").read_text() == before
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


# play


def play(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str, dataset: str = "toy") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main(["play", "--env.dataset", dataset, *arguments])


def one_hop_task() -> tuple[int, Any]:
    tasks = get_dataset("toy").tasks("dev")
    return next((i, task) for i, task in enumerate(tasks) if task.hops == 1)


@pytest.mark.parametrize("opening", [[], ["--env.prepend-think"]])
def test_a_person_searches_and_answers(
    opening: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    index, task = one_hop_task()
    hop = task.metadata["chain"][0]
    typed = f"what?\ns {hop['subject']} {hop['relation']}\na {task.golden_answers[0]}\n"
    assert play(monkeypatch, typed, "--task-index", str(index), *opening) == 0
    out = output_of(capfd)
    assert task.question in " ".join(out.replace("│", " ").split())
    assert get_dataset("toy").corpus().by_id(task.gold_passages[0][0]).text in out
    assert out.count("s QUERY searches") == 2
    assert re.search(r"reward\W+1\.00", out)
    assert re.search(r"stop_reason\W+answered", out)


def test_a_wrong_answer_earns_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert play(monkeypatch, "a nonsense\n") == 0
    assert re.search(r"reward\W+0\.00", output_of(capfd))


@pytest.mark.parametrize("typed", ["", "q\n", "s currency\n"])
def test_leaving_early_is_no_error(
    typed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert play(monkeypatch, typed) == 0
    out = output_of(capfd)
    assert "reward" not in out
    assert ("Doc 1" in out) == typed.startswith("s")


def test_the_seed_draws_the_task(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for seed in ("1", "1", "2"):
        play(monkeypatch, "", "--seed", seed)
        shown.append(output_of(capfd))
    assert shown[0] == shown[1] != shown[2]


def test_text_in_square_brackets_is_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    task = {"id": "q[/b]", "question": "What is [bold]x[/i]?", "golden_answers": ["[/b]"]}
    (tmp_path / "dev.jsonl").write_text(json.dumps(task))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "p", "contents": "[/t]\n[red]x"}))
    assert play(monkeypatch, "s red\na [/b]\n", dataset=f"{tmp_path}/") == 0
    out = output_of(capfd)
    assert "What is [bold]x[/i]?" in out
    assert "[red]x" in out
    assert re.search(r"reward\W+1\.00", out)


def test_watching_a_policy(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    arguments = ["--model", str(policy), "--max-tokens", "8", "--temperature", "1"]
    shown = []
    for _ in range(2):
        assert play(monkeypatch, "", *arguments, "--env.invalid-action", "continue") == 0
        shown.append(output_of(capfd))
    assert re.search(r"reward\W+[01]\.\d\d", shown[0])
    assert shown[0] == shown[1]


def test_what_a_watched_policy_sampled_is_never_encoded_again(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[int, ...]] = []
    texts = ["<think>a</think><search>currency</search>", "<think>a</think><answer>b</answer>"]

    class Engine:
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            pass

        def generate(self, asked: Any, params: Any) -> list[Generation]:
            requests.append(asked[0].token_ids)
            text = texts[len(requests) - 1]
            return [Generation((7, 8, 9), (-1.0, -1.0, -1.0), text, "stop")]

    monkeypatch.setattr("calibadv_algo.rollout.engines.hf.engine.HfEngine", Engine)
    assert play(monkeypatch, "", "--model", str(policy)) == 0
    first, second = requests
    assert second[: len(first) + 3] == (*first, 7, 8, 9)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert tokenizer.decode(second[len(first) + 3 :]).startswith("<information>Doc 1(Title:")
    assert tokenizer.decode(first).startswith("Question: ")


# list


def test_list_arms_and_presets(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "arms"]) == 0
    out = output_of(capfd)
    assert all(name in out and arm.description in out for name, arm in ARMS.items())
    assert main(["list", "presets"]) == 0
    out = output_of(capfd)
    assert all(name in out for name in PRESETS)


def test_list_cuts_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = output_of(capfd)
    for name in ARMS:
        assert f"calibadv train --arm {name} " in out
    for name in baseline_names():
        assert f"calibadv train --baseline {name} " in out


def test_list_baselines_says_what_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "baselines"]) == 0
    out = " ".join(output_of(capfd).split())
    assert baseline_names()
    for name in baseline_names():
        assert name in out
    assert "name what it is kind source" in out
    assert "2402.03300" in out
    assert "45 published systems, 17 switches of CalibAdv's own code, 7 variants" in out


def test_the_docs_count_the_same_baselines() -> None:
    [*rows] = KINDS["baselines"].rows()
    counts = Counter(kind for _, _, kind, _ in rows)
    numbers = f"{counts['published']} published systems, {counts['switch']} switches"
    root = Path(__file__).parents[2]
    for name in ("docs/commands.md", "docs/training.md"):
        text = " ".join((root / name).read_text(encoding="utf-8").split())
        assert numbers in text, name
        assert f"{counts['variant']} variants" in text, name


def test_list_datasets_policies_and_systems(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "datasets"]) == 0
    out = " ".join(output_of(capfd).split())
    assert "atlas-wiki The atlas with ten thousand Wikipedia summaries" in out
    assert "toy An invented world" in out
    assert "1 to 3 hops; built in" in out
    assert main(["list", "policies"]) == 0
    assert "atlas-tiny" in output_of(capfd)
    assert main(["list", "systems"]) == 0
    assert "oracle" in output_of(capfd)
    assert all(name and line for name, line in KINDS["datasets"].rows())


def test_one_list_answers_what_can_be_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["list"]) == 0
    lines = [" ".join(line.split()) for line in output_of(capfd).splitlines()]
    assert lines[0] == "name kind what it is how to run it"
    for kind in KINDS.values():
        for name, line, *_ in kind.rows():
            shown = f"{name} {kind.singular} {line} {kind.usage.replace('NAME', name)}"
            assert " ".join(shown.split()) in lines
        assert f"{kind.singular}: {kind.meaning}" in lines


NEEDS = {
    ("advantages", "template-balanced"): ("--advantage.token-ids", "3"),
    ("credits", "none"): ("--arm", "grpo"),
}
"""Flags that a name needs beside its own."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_list_says_can_be_run(kind: str) -> None:
    """The command of every name is read without complaint."""
    for name, *_ in KINDS[kind].rows():
        program, command, *rest = KINDS[kind].usage.replace("NAME", name).split()
        assert program == "calibadv"
        if name not in ("closed-book", "rag"):
            parse(command, [*rest, *NEEDS.get((kind, name), ())])


# What commands share


def test_the_shipped_policy_is_found_by_name() -> None:
    folder = Path(policy_path("atlas-tiny"))
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    assert policy_path("some/other") == "some/other"
    facts = warm_start_facts("atlas-tiny")
    assert facts["model"] == "atlas-tiny"
    assert facts["recipe"]["dataset"] == "atlas"
    assert warm_start_facts("some/other") == {"model": "some/other"}


def test_the_reason_why_a_model_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"shipped policy \(atlas-tiny, atlas-fair-tiny\).*'no/model'"
    ) as caught:
        pretrained.load_policy("no/model")
    assert "\n" not in str(caught.value)


def test_the_data_are_named_by_their_hash() -> None:
    assert data_sha256(EnvConfig(dataset="toy")) == get_dataset("toy").corpus().sha256
    assert data_sha256(EnvConfig(env_id="LunarLander-v3")) == ""
    pages = EnvConfig(env_id="calibadv_env:DeepSearch-Pages-v0")
    assert data_sha256(pages) == get_dataset("pages").corpus().sha256
    linked = EnvConfig(env_id="calibadv_env:DeepSearch-PagesLinked-v0")
    assert dataset_of_env(linked) == "pages-linked"


def test_the_commit_is_known_in_a_checkout_and_empty_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert re.fullmatch(r"([0-9a-f]{40}(\+changes)?)?", git_commit())
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert git_commit() == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == ""


# compare


def compare(policy: Path | str, folder: Path, *more: str) -> int:
    arguments = {"output-dir": folder, "train.model": policy, "seeds": 0}
    return main(["compare", *flags(arguments), *flags(TINY_RUN, "train."), *more])


@pytest.mark.slow
def test_a_comparison_from_start_to_report(
    policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    capfd.readouterr()
    assert compare(policy, folder) == 0
    out = output_of(capfd)
    assert "2 runs: grpo, calibadv; seeds 0" in out
    for name in ("report.html", "curves.png", "summary.json", "table.md", "comparison.json"):
        assert (folder / name).stat().st_size > 0
        assert name == "comparison.json" or name in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| grpo" in (folder / "table.md").read_text() or "GRPO" in out
    summary = json.loads((folder / "summary.json").read_text())
    record = json.loads((folder / "comparison.json").read_text())
    assert record["wall_time_s"] == summary["wall_time_s"] > 0
    assert record["warm_start"]["recipe"]["dataset"] == "toy"
    runs = {path.name: path for path in (folder / "runs").iterdir()}
    assert set(runs) == {"grpo-seed0", "calibadv-seed0"}
    metrics = {name: read_lines(path / "metrics.jsonl") for name, path in runs.items()}
    assert all([row["update"] for row in rows] == [0, 1, 2] for rows in metrics.values())
    questions = {
        name: [row["task_id"] for row in read_lines(path / "trajectories" / "update_000000.jsonl")]
        for name, path in runs.items()
    }
    assert questions["grpo-seed0"] == questions["calibadv-seed0"]
    for path in runs.values():
        lines = (path / "log.txt").read_text().splitlines()
        log = "\n".join(line for line in lines if not line.startswith("warning: update"))
        assert not [noise for noise in NOISE if noise in log], log

    began = time.monotonic()
    assert compare(policy, folder) == 0
    again = {name: read_lines(path / "metrics.jsonl") for name, path in runs.items()}
    assert again == metrics
    longer = json.loads((folder / "comparison.json").read_text())["wall_time_s"]
    assert record["wall_time_s"] <= longer < record["wall_time_s"] + time.monotonic() - began + 1
    capfd.readouterr()

    assert compare(policy, folder, "--train.optim.lr", "0.5") == 1
    err = capfd.readouterr().err
    assert "other settings (optim.lr: 0.0003 there, 0.5 here)" in err
    assert err.count("\n") == 1

    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_a_comparison_whose_runs_fail_names_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    assert compare("no/such/model", folder) == 1
    err = capfd.readouterr().err
    assert err.startswith("error: run ")
    assert err.count("\n") == 1
    assert re.search(r"ended with exit code 1; see .*/runs/.*-seed0/log\.txt: ValueError: .*", err)
    assert "'no/such/model' could not be loaded" in err
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "These runs ended; the page is not loaded again." in page


def test_warmstart_defaults_are_within_the_size_that_ships() -> None:
    command = WarmStart()
    assert command.shape.max_context >= 1024
    assert command.dataset == "atlas"


# A search server that moved


def test_a_server_with_another_index_is_refused_and_a_silent_one_said(
    capfd: pytest.CaptureFixture[str],
) -> None:
    index = {"kind": "bm25", "corpus_sha256": "aa", "num_passages": 3}
    begun = {"search_server": index, "resumed_by": [{"search_server": None}]}
    provenance.refuse_other_index(Path("run"), begun, dict(index))
    provenance.refuse_other_index(Path("run"), {"search_server": None}, dict(index))
    assert capfd.readouterr().err == ""
    provenance.refuse_other_index(Path("run"), begun, None)
    assert "does not say which index it has" in capfd.readouterr().err
    with pytest.raises(CheckpointError, match='corpus_sha256: "aa" there, "bb" here'):
        provenance.refuse_other_index(Path("run"), begun, index | {"corpus_sha256": "bb"})


def test_a_server_tells_its_index_and_others_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(record: dict[str, Any]) -> dict[str, Any] | None:
        monkeypatch.setattr(HttpRetriever, "identity", lambda self: record)
        return provenance.server_identity(EnvConfig(retriever="http://127.0.0.1:9"))

    assert identity({"kind": "bm25", "corpus_sha256": "aa"}) == {
        "kind": "bm25",
        "corpus_sha256": "aa",
    }
    assert identity({"kind": "HttpRetriever", "url": "http://127.0.0.1:9"}) is None
    assert provenance.server_identity(EnvConfig(retriever="bm25")) is None
