"""`calibadv eval` as a user runs it: suites, endpoints, crashes, missing files."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv_algo.cli.evaluate_suite import lasting
from calibadv_algo.cli.main import main, parse
from calibadv_algo.cli.policies import (
    EvalEnv,
    LocalPolicy,
    fingerprint,
    read_training,
    settle,
)
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.cli.suite_data import open_suite, suite_names
from calibadv_algo.cli.systems import System, find_system
from calibadv_algo.training.config import EnvConfig
from calibadv_env.data import registry
from calibadv_env.data.registry import get_dataset
from calibadv_env.data.sources.benchmarks import SEVEN

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """A module beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


server, seven = load("endpoint"), load("seven")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``FlashRAG/`` with all seven, and ``atlas.jsonl``."""
    folder = tmp_path_factory.mktemp("files")
    seven.write_seven(folder, num_questions=3, num_passages=300)
    return folder


@pytest.fixture(autouse=True)
def world(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seven where the library looks for them, and a folder of one's own."""
    monkeypatch.setenv("CALIBADV_DATA", str(files / "FlashRAG"))
    monkeypatch.setenv("CALIBADV_CORPUS", str(files / "atlas.jsonl"))
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("OPENAI_API_KEY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    known = {name: data for name, data in registry._datasets.items() if name not in SEVEN}
    monkeypatch.setattr(registry, "_datasets", known)


class Knowing:
    """Searches once and then answers what the files say; wrong where it is told to be."""

    def __init__(self, folder: Path, wrong: frozenset[str] = frozenset()) -> None:
        self.answers = {}
        for path in folder.rglob("*.jsonl"):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                is_wrong = path.parent.name in wrong
                self.answers[row["question"]] = "Atlantis" if is_wrong else row["golden_answers"][0]

    def __call__(self, body: dict[str, Any]) -> str:
        messages = body["messages"]
        question = messages[0]["content"].partition("Question: ")[2].strip()
        if len(messages) == 1:
            return f"<think>look</think><search>{question}</search>"
        return f"<think>so</think><answer>{self.answers[question]}</answer>"


@pytest.fixture
def endpoint(files: Path) -> Iterator[Any]:
    with server.serve(Knowing(files / "FlashRAG", frozenset({"bamboogle"}))) as running:
        yield running


def evaluate(endpoint: Any, *more: str, suite: str = "seven") -> int:
    flags = ["--suite", suite, "--endpoint", endpoint.url, "--endpoint-model", "wise"]
    flags += ["--endpoint-retries", "1", "--endpoint-timeout-s", "5"]
    return main(["eval", *flags, *more])


def result_in(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return value


# The seven


def test_all_seven_in_one_command(
    endpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(endpoint, "--output-dir", "out") == 0
    out = capfd.readouterr().out
    assert "Average of the seven" in out
    assert "out/result.md" in out
    result = result_in(tmp_path / "out")
    splits = {part["name"]: part["split"] for part in result["parts"]}
    assert splits == {name: one.eval_split for name, one in SEVEN.items()}
    em = {part["name"]: part["means"]["em"]["estimate"] for part in result["parts"]}
    assert em == {name: float(name != "Bamboogle") for name in SEVEN}
    assert result["macro_average"]["em"]["estimate"] == pytest.approx(6 / 7)
    [part] = [part for part in result["parts"] if part["name"] == "HotpotQA"]
    assert part["means"]["searches"]["estimate"] == 1.0
    assert part["means"]["tokens"]["estimate"] > 2
    corpus = get_dataset("hotpotqa").corpus()
    assert part["retrieval"]["corpus_sha256"] == corpus.sha256
    assert part["retrieval"]["num_passages"] == len(corpus)
    assert part["retrieval"]["identity"]["k1"] == 1.2
    records = (tmp_path / "out" / "records" / "HotpotQA.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in records} == {"dev"}
    text = (tmp_path / "out" / "result.md").read_text()
    assert "Search-R1 PPO, 7B base" in text
    assert "HotpotQA dev 3 instead of 7,405" in text
    num_requests = len(endpoint.bodies)
    assert num_requests == 7 * 3 * 2
    assert evaluate(endpoint, "--output-dir", "out") == 0
    assert len(endpoint.bodies) == num_requests
    assert result_in(tmp_path / "out") == result


def test_an_audit_made_later_stands_beside_the_scores(
    endpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(endpoint, "--output-dir", "out", suite="nq,musique") == 0
    assert result_in(tmp_path / "out")["parts"][0]["coverage"] is None
    assert "run `calibadv data audit NQ MuSiQue`" in (
        (tmp_path / "out" / "result.md").read_text().replace("Run", "run")
    )
    assert main(["data", "audit", "nq", "musique"]) == 0
    num_requests = len(endpoint.bodies)
    capfd.readouterr()
    assert evaluate(endpoint, "--output-dir", "out", suite="nq,musique") == 0
    assert len(endpoint.bodies) == num_requests
    coverage = result_in(tmp_path / "out")["parts"][0]["coverage"]
    assert coverage["coverage"]["answer_in_corpus"] == 1.0
    assert "1.000 of 3" in capfd.readouterr().out
    for name in ("nq", "musique"):
        (Path(os.environ["CALIBADV_DATA"]) / name / "audit.json").unlink()


def test_missing_files_are_named_before_anything_runs(
    endpoint: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("nq", "popqa"):
        (tmp_path / "some" / name).mkdir(parents=True)
        text = (files / "FlashRAG" / name / "test.jsonl").read_text()
        (tmp_path / "some" / name / "test.jsonl").write_text(text)
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "some"))
    assert evaluate(endpoint, "--output-dir", "out") == 1
    message = capsys.readouterr().err
    assert "5 of 7 datasets of the suite are missing, so nothing was evaluated" in message
    assert f"HotpotQA: there is no dev.jsonl in {tmp_path / 'some' / 'hotpotqa'}" in message
    names = "triviaqa hotpotqa 2wikimultihopqa musique bamboogle"
    assert f"for name in {names}; do" in message
    assert f"calibadv data prepare {names} --from flashrag" in message
    assert not endpoint.bodies
    assert not (tmp_path / "out").exists()

    assert evaluate(endpoint, "--output-dir", "out", "--skip-missing") == 0
    out = capsys.readouterr().out
    assert "not evaluated" in out
    assert "not evaluated: MuSiQue: there is no dev.jsonl" in out
    result = result_in(tmp_path / "out")
    assert [part["name"] for part in result["parts"]] == ["NQ", "PopQA"]
    assert result["macro_average"] is None
    assert len(result["skipped"]) == 5

    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "nothing"))
    assert evaluate(endpoint, "--skip-missing", "--output-dir", "out2") == 1
    assert "7 of 7 datasets" in capsys.readouterr().err


def test_a_faulty_file_is_not_skipped(
    endpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "some" / "nq"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"id": "a"}\n')
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "some"))
    assert evaluate(endpoint, "--skip-missing", suite="nq,toy") == 1
    assert "test.jsonl:1" in capsys.readouterr().err
    assert not endpoint.bodies


def test_a_corpus_that_is_missing_is_said_first(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("CALIBADV_CORPUS")
    assert evaluate(endpoint) == 1
    assert "NQ has no corpus: set CALIBADV_CORPUS" in capsys.readouterr().err
    assert not endpoint.bodies


# Crashes


def test_a_killed_process_goes_on_to_the_same_result(files: Path, tmp_path: Path) -> None:
    with server.serve(Knowing(files / "FlashRAG")) as endpoint:
        assert evaluate(endpoint, "--output-dir", "whole", "--chunk", "2") == 0
        num_requests = len(endpoint.bodies)
    with server.serve(Knowing(files / "FlashRAG"), delay_s=0.03) as endpoint:
        flags = ["--endpoint", endpoint.url, "--endpoint-model", "wise", "--chunk", "2"]
        command = ["--suite", "seven", *flags, "--output-dir", "killed", "--endpoint-retries", "1"]
        command += ["--endpoint-timeout-s", "5", "--endpoint-concurrency", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "calibadv_algo.cli.main", "eval", *command]
        )
        records = tmp_path / "killed" / "records" / "TriviaQA.jsonl"
        try:
            deadline = time.monotonic() + 60
            while not records.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "result.json").exists()
        assert not (tmp_path / "killed" / "records" / "Bamboogle.jsonl").exists()
        endpoint.delay_s = 0.0
        endpoint.bodies.clear()
        settings = tmp_path / "killed" / "settings.json"
        assert main(["eval", *command]) == 0
        assert 0 < len(endpoint.bodies) < num_requests
    for path in sorted((tmp_path / "whole" / "records").iterdir()):
        assert (tmp_path / "killed" / "records" / path.name).read_bytes() == path.read_bytes()
    whole, killed = result_in(tmp_path / "whole"), result_in(tmp_path / "killed")
    for result in (whole, killed):
        del result["settings"]["policy"]["endpoint"]
    assert killed == whole
    assert json.loads(settings.read_text())["settings"]["policy"]["model"] == "wise"


@pytest.mark.slow
def test_a_killed_local_model_goes_on_to_the_same_records(tmp_path: Path) -> None:
    flags = ["--suite", "atlas", "--subset", "64", "--chunk", "16", "atlas-tiny"]
    assert main(["eval", *flags, "--output-dir", "whole"]) == 0
    command = [
        sys.executable,
        "-m",
        "calibadv_algo.cli.main",
        "eval",
        *flags,
        "--output-dir",
        "killed",
    ]
    process = subprocess.Popen(command)
    path = tmp_path / "killed" / "records" / "atlas.jsonl"
    while not path.exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert 16 <= len(path.read_text().splitlines()) < 64
    assert main(command[3:]) == 0
    assert path.read_bytes() == (tmp_path / "whole" / "records" / "atlas.jsonl").read_bytes()
    assert result_in(tmp_path / "killed") == result_in(tmp_path / "whole")


def test_an_endpoint_that_fails_keeps_what_is_finished(
    endpoint: Any, tmp_path: Path, capsys: Any
) -> None:
    down = server.Fault(status=403, content=b"quota used up")
    endpoint.faults.extend([server.Fault()] * 8 + [down] * 30)
    arguments = ("--output-dir", "out", "--chunk", "2", "--endpoint-concurrency", "1")
    assert evaluate(endpoint, *arguments) == 1
    message = capsys.readouterr().err
    assert "quota used up" in message
    assert "the same command goes on from there" in message
    endpoint.faults.clear()
    endpoint.bodies.clear()
    assert evaluate(endpoint, *arguments) == 0
    assert len(endpoint.bodies) < 7 * 3 * 2
    assert "quota" not in (tmp_path / "out" / "records" / "NQ.jsonl").read_text()


def test_changed_settings_are_refused(endpoint: Any, capsys: Any) -> None:
    assert evaluate(endpoint, "--output-dir", "out", suite="nq") == 0
    for change, named in (
        (("--env.top-k", "5"), "env.top_k 3 there, 5 here"),
        (("--max-tokens", "9"), "max_tokens 512 there, 9 here"),
        (("--subset", "2"), "subset not set there, 2 here"),
        (("--endpoint-route", "completions"), 'policy.route "chat" there, "completions" here'),
        (("--env.retriever", "rank_bm25"), 'retrieval.retriever "bm25" there, "rank_bm25" here'),
    ):
        assert evaluate(endpoint, "--output-dir", "out", *change, suite="nq") == 1
        assert named in capsys.readouterr().err
    assert evaluate(endpoint, "--output-dir", "out", suite="popqa") == 1
    assert "parts.NQ" in capsys.readouterr().err


# A model of this machine


def test_the_shipped_policy_on_the_atlas(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--suite", "atlas", "--subset", "12", "atlas-tiny"]) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert "12 of 2,296" in out
    folder = tmp_path / "runs" / "eval" / "atlas-tiny-atlas"
    result = result_in(folder)
    [part] = result["parts"]
    assert 0.1 < part["means"]["f1"]["estimate"] < 0.9
    assert part["num_questions"] == 12
    assert result["settings"]["env"]["prompt"] == "question"
    assert result["settings"]["env"]["max_turns"] == 5
    assert result["published"] == {}
    lines = (folder / "records" / "atlas.jsonl").read_text().splitlines()
    tasks = get_dataset("atlas").tasks("test")
    places = [tasks.index_of(json.loads(line)["task_id"]) for line in lines]
    assert places == sorted(places)
    capfd.readouterr()


def test_samples_at_a_temperature(tmp_path: Path) -> None:
    flags = ["--suite", "toy", "--subset", "4", "--samples", "3", "--temperature", "1"]
    assert main(["eval", *flags, "--output-dir", "out"]) == 0
    [part] = result_in(tmp_path / "out")["parts"]
    assert part["num_samples"] == 3
    assert part["best_of_samples"]["em"]["estimate"] >= part["means"]["em"]["estimate"]
    assert "EM pass@3" in (tmp_path / "out" / "result.md").read_text()


def test_a_folder_of_ones_own_by_its_path(
    endpoint: Any, files: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "mine" / "trivia"
    folder.mkdir(parents=True)
    rows = (files / "FlashRAG" / "nq" / "test.jsonl").read_text()
    (folder / "dev.jsonl").write_text(rows)
    (folder / "corpus.jsonl").write_text(
        "".join((files / "atlas.jsonl").read_text().splitlines(keepends=True)[:50])
    )
    assert evaluate(endpoint, "--output-dir", "out", suite="./mine/trivia,toy") == 1
    capsys.readouterr()
    assert evaluate(endpoint, "--output-dir", "out2", suite="./mine/trivia") == 0
    [part] = result_in(tmp_path / "out2")["parts"]
    assert (part["name"], part["split"], part["num_questions"]) == ("trivia", "dev", 3)
    assert (tmp_path / "out2" / "records" / "trivia.jsonl").is_file()
    assert evaluate(endpoint, suite="./mine/none") == 1
    assert "there is no folder" in capsys.readouterr().err


def test_without_a_suite_it_is_as_before(
    endpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--endpoint", endpoint.url, "--endpoint-model", "wise", "--env.dataset", "hotpotqa"]
    assert main(["eval", *flags, "--episodes", "2", "--output", "records.jsonl"]) == 0
    assert "wise on hotpotqa dev" in capfd.readouterr().out
    first = (tmp_path / "records.jsonl").read_bytes()
    rows = [json.loads(line) for line in first.decode().split("\n") if line]
    assert [row["split"] for row in rows] == ["dev", "dev"]
    assert main(["eval", *flags, "--episodes", "2", "--output", "records.jsonl"]) == 0
    assert (tmp_path / "records.jsonl").read_bytes() == first


# Flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "toy", "--samples", "2"], "samples must be 1 when greedy, got 2"),
        (["--suite", "toy", "--subset", "0"], "subset must be positive, got 0"),
        (["--suite", "toy", "--episodes", "5"], "--episodes belongs to `calibadv eval`"),
        (["--subset", "5"], "--subset belongs to `calibadv eval --suite`"),
        (["--env.split", "dev", "--system=rag"], "--system belongs to `calibadv eval --suite`"),
        (["--suite", "toy,toy"], "got 'toy' twice"),
        (["--suite", "seven,nq"], "got 'NQ' twice"),
        (["--suite", ","], "suite must be seven or names"),
        (["--suite", "squad"], "dataset must be one of"),
        (["a", "--model", "b"], "model must be named once"),
        (["a", "--endpoint", "http://x/v1"], "model must not be given with an endpoint"),
        (["--endpoint-model", "m"], "endpoint_model needs an endpoint"),
        (["--endpoint", "http://x/v1"], "model must name a model of the endpoint"),
        (["--endpoint", "x", "--endpoint-model", "m"], "url must begin with http"),
        (
            ["--endpoint", "http://x", "--endpoint-model", "m", "--endpoint-extra", "5"],
            "endpoint_extra must be a JSON object",
        ),
        (
            ["--endpoint", "http://x", "--endpoint-model", "m", "--max-context", "9"],
            "max_context must not be given with an endpoint",
        ),
        (["--suite", "toy", "--system", "magic"], "system must be one of agent"),
        (
            [
                "--suite",
                "toy",
                "--system",
                "rag",
                "--endpoint",
                "http://x",
                "--endpoint-model",
                "m",
            ],
            "system rag needs a model on this machine",
        ),
        (["--suite", "toy", "--env.split", "hidden"], "split of dataset 'toy' must be"),
    ],
)
def test_mistakes_are_said(flags: list[str], message: str, capsys: Any) -> None:
    try:
        code = main(["eval", *flags])
    except SystemExit as exit:
        code = int(str(exit.code))
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    if code == 1:
        assert error.count("\n") == 1


def test_the_model_may_stand_anywhere() -> None:
    for arguments in (["--suite", "toy", "x"], ["x", "--suite", "toy"], ["--model", "x"]):
        assert parse("eval", arguments).source() == LocalPolicy(model="x")
    assert parse("eval", []).source() == LocalPolicy(model="atlas-tiny")


def test_a_suite_knows_its_names() -> None:
    assert suite_names("seven") == list(SEVEN)
    assert suite_names("hotpotqa, atlas,./a/b") == ["HotpotQA", "atlas", "./a/b"]


def test_a_server_that_says_what_it_serves_may_move() -> None:
    known = {"retriever": "http://a:1", "corpus_sha256": "f", "identity": {"kind": "Bm25Index"}}
    assert lasting(known) == lasting({**known, "retriever": "http://b:2"})
    assert lasting(known) != lasting({**known, "identity": {"kind": "DenseIndex"}})
    for other in ({**known, "corpus_sha256": None}, {**known, "retriever": "bm25"}):
        assert lasting(other) == other


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "quiz"
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text(
            json.dumps({"id": "q", "question": "?", "golden_answers": ["x"]})
        )
        (folder / "corpus.jsonl").write_text(json.dumps({"id": "p", "contents": "t\nx"}))
    names = [str(tmp_path / name / "quiz") for name in ("a", "b")]
    opened, _ = open_suite(names, split="eval", retriever="bm25", top_k=1, skip_missing=False)
    assert [each.name for each in opened] == ["quiz", "b/quiz"]
    assert [each.file_name for each in opened] == ["quiz", "b_quiz"]


# How a policy is played


def test_a_policy_is_played_as_it_was_trained(tmp_path: Path) -> None:
    run = {"hash": "0", "config": {"env": {"prompt": "question", "max_turns": 2}}}
    run["config"]["rollout"] = {"max_tokens": 33, "max_context": 700}  # type: ignore[index]
    policy = tmp_path / "run" / "checkpoints" / "update_000001" / "policy"
    policy.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    assert read_training(policy)["max_turns"] == 2

    def play(model: str, env: EnvConfig, **limits: int) -> tuple[Any, ...]:
        given: dict[str, Any] = {"max_tokens": None, "max_context": None, **limits}
        found = settle(LocalPolicy(model=model), env, **given)
        return (found.env.prompt, found.env.max_turns, found.max_tokens, found.max_context)

    assert play(str(policy), EvalEnv()) == ("question", 2, 33, 700)
    assert play(str(policy), EvalEnv(max_turns=3), max_tokens=5) == ("question", 3, 5, 700)
    assert play("atlas-tiny", EvalEnv()) == ("question", 5, 40, 1024)
    assert play("Qwen/none", EvalEnv()) == ("search_r1", 4, 512, 8192)
    assert play("Qwen/none", EnvConfig(prompt="question")) == ("question", 4, 40, 1024)


def test_a_policy_trained_in_its_chat_template_is_played_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {
        "prompt_style": "chat",
        "chat_template_kwargs": ["enable_thinking=false"],
        "rollout": {"observations": "user", "earlier_thoughts": "template"},
    }
    (tmp_path / "config.json").write_text(json.dumps({"hash": "0", "config": run}))
    policy = tmp_path / "checkpoints" / "update_000001" / "policy"
    policy.mkdir(parents=True)
    source = LocalPolicy(model=str(policy))
    play = PolicyFlags(policy=str(policy)).settled(source)
    assert play.chat_template
    assert play.template_settings == {"enable_thinking": False}
    assert (play.observations, play.earlier_thoughts) == ("user", "template")
    assert "played in its chat template, as it was trained" in capsys.readouterr().err
    same = PolicyFlags(policy=str(policy), chat_template=True).settled(source)
    assert same == play
    assert not capsys.readouterr().err
    other = PolicyFlags(policy=str(policy), observations="tool").settled(source)
    assert (other.observations, other.earlier_thoughts) == ("tool", "template")
    plain = PolicyFlags(policy=str(policy), observations="continue").settled(source)
    assert (plain.observations, plain.earlier_thoughts) == ("continue", "keep")
    thinks = PolicyFlags(policy=str(policy), chat_template_kwargs=("enable_thinking=true",))
    assert thinks.settled(source).template_settings == {"enable_thinking": True}
    tiny = PolicyFlags(policy="atlas-tiny")
    with pytest.raises(ValueError, match="needs the chat template"):
        PolicyFlags(policy="atlas-tiny", observations="user").settled(tiny.source())
    assert not tiny.settled(tiny.source()).chat_template


def test_a_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"w" * 5_000_000)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "b" / "recipe.json").write_text("{}")
    (tmp_path / "b" / "notes.txt").write_text("x")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    for place in (0, 2_600_000, 4_999_999):
        content = bytearray(b"w" * 5_000_000)
        content[place] = 0
        (tmp_path / "b" / "model.safetensors").write_bytes(content)
        assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize(("system", "searches"), [("closed-book", 0.0), ("rag", 1.0)])
def test_floors_are_evaluated_like_a_policy(tmp_path: Path, system: str, searches: float) -> None:
    flags = ["--suite", "toy", "--subset", "4", "--system", system, "--output-dir", "out"]
    assert main(["eval", *flags]) == 0
    result = result_in(tmp_path / "out")
    assert result["model"] == f"atlas-tiny ({system})"
    [part] = result["parts"]
    assert part["means"]["searches"]["estimate"] == searches
    assert part["means"]["answered"]["estimate"] == 1.0


def test_a_system_can_stand_in_for_the_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from calibadv_algo.cli import systems
    from calibadv_algo.rollout.engines.scripted import ScriptedEngine

    class Stubborn(System):
        name = "stubborn"
        needs_model = False

        def env_kwargs(self, kwargs: Any) -> dict[str, Any]:
            return {**kwargs, "max_turns": 1}

        def engine(self, engine: Any, tokenizer: Any, data: Any) -> Any:
            assert engine is None
            answer = data.tasks[0].golden_answers[0]
            text = f"<think>t</think><answer>{answer}</answer>"
            return ScriptedEngine(lambda context, seed: text, tokenizer)

    monkeypatch.setattr(systems, "Stubborn", Stubborn, raising=False)
    name = "calibadv_algo.cli.systems:Stubborn"
    monkeypatch.setitem(systems.SYSTEMS, "stubborn", name)
    assert find_system("stubborn").name == "stubborn"
    flags = ["--suite", "toy", "--subset", "5", "--system", "stubborn"]
    assert main(["eval", *flags, "--output-dir", "out"]) == 0
    result = result_in(tmp_path / "out")
    assert (result["model"], result["settings"]["system"]) == ("stubborn", "stubborn")
    assert result["parts"][0]["means"]["searches"]["estimate"] == 0.0
    assert result["parts"][0]["means"]["tokens"] is None
