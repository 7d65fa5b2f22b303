"""The plain install: small, without torch, and what needs the extra `train` says so by name."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import calibadv
from calibadv_algo.cli import training_extra
from calibadv_algo.cli.listing import List
from calibadv_algo.cli.main import main
from calibadv_env.errors import MissingDependencyError

ROOT = Path(__file__).parents[2]
MAX_BYTES = 150e6
"""Most bytes that the plain install may bring, our own files among them."""
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""What is in an empty environment already."""


def test_public_names_are_there_and_documented() -> None:
    assert {"compare", "train", "evaluate", "credit", "register_dataset"} <= set(calibadv.__all__)
    assert len(set(calibadv.__all__)) == len(calibadv.__all__)
    for name in calibadv.__all__:
        value = getattr(calibadv, name)
        assert isinstance(value, str | tuple) or (value.__doc__ or "").strip(), name
    assert set(calibadv.__all__) <= set(dir(calibadv))
    with pytest.raises(AttributeError, match="nothing"):
        calibadv.nothing  # noqa: B018


def test_a_function_that_trains_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_extra, "find_spec", lambda name: None)
    for call in (calibadv.train, calibadv.evaluate, calibadv.credit):
        with pytest.raises(
            MissingDependencyError, match=r"torch, .*pip install 'calibadv\[train\]"
        ):
            call()
    with pytest.raises(MissingDependencyError, match=r"calibadv.compare needs torch"):
        calibadv.compare(("grpo", "calibadv"))


def test_a_command_that_trains_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_extra, "find_spec", lambda name: None)
    assert main(["train"]) == 1
    assert "error: calibadv train needs torch" in capsys.readouterr().err


def test_an_import_that_fails_within_a_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: List) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(List, "run", run)
    assert main(["list"]) == 1
    expected = "error: calibadv list needs torch: pip install 'calibadv[train]'\n"
    assert capsys.readouterr().err == expected


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment into which the wheel alone was installed."""
    wheels = runpy.run_path(str(ROOT / ".ci" / "wheels.py"))
    programs: Path = wheels["environment_with_wheel"](tmp_path_factory.mktemp("install"))
    return programs


def packages(programs: Path) -> Path:
    [found] = (programs.parent / "lib").glob("python3.*/site-packages")
    return found


def run(programs: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(programs / words[0]), *words[1:]],
        input=text,
        capture_output=True,
        text=True,
        cwd=programs,
        env={"PATH": str(programs), "HOME": str(programs), "COLUMNS": "200"},
    )


@pytest.mark.slow
def test_the_plain_install_is_small_and_has_no_torch(installed: Path) -> None:
    folder = packages(installed)
    sizes = {
        path: sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        for path in folder.iterdir()
        if path.name not in TOOLS
    }
    assert sum(sizes.values()) < MAX_BYTES, sorted(sizes.items(), key=lambda x: -x[1])[:8]
    names = {path.name.lower() for path in folder.iterdir()}
    assert names & {*training_extra.PACKAGES, "scipy", "pandas"} == set()
    assert "calibadv_env" in names


@pytest.mark.slow
def test_the_plain_install_plays_lists_and_prepares(installed: Path, tmp_path: Path) -> None:
    played = run(installed, "calibadv", "play", "--env.dataset", "toy", text="s Oslo\nq\n")
    assert (played.returncode, "Question:" in played.stdout) == (0, True), played.stderr
    assert "<information>" in played.stdout
    listed = run(installed, "calibadv", "list")
    assert "atlas-wiki" in listed.stdout
    assert "not listed, since they need pip install 'calibadv[train]': " in listed.stdout
    questions = tmp_path / "questions.csv"
    questions.write_text("question,answer\nWhat is two and two?,four\nAnd three?,five\n")
    prepared = run(installed, "calibadv", "data", "inspect", str(questions))
    assert (prepared.returncode, prepared.stderr) == (0, "")
    trained = run(installed, "calibadv", "train")
    assert trained.returncode == 1
    assert "calibadv train needs torch" in trained.stderr
    made = "import calibadv, gymnasium; print(gymnasium.make('DeepSearch-Toy-v1').reset(seed=0)[0])"
    assert "Question:" in run(installed, "python", "-c", made).stdout


@pytest.fixture
def server(installed: Path, tmp_path: Path) -> Iterator[str]:
    """Address of a search server of that environment over one passage."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "contents": "Oslo\nThe capital of Norway."}) + "\n")
    words = [str(installed / "calibadv"), "serve", str(corpus), "--port", "0"]
    process = subprocess.Popen(
        words, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := re.search(r"http://[\w.]+:\d+", line):
                yield match[0]
                break
        else:
            pytest.fail("the server gave no address")
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow
def test_the_plain_install_serves(server: str) -> None:
    body = json.dumps({"queries": ["capital of Norway"], "topk": 1}).encode()
    request = urllib.request.Request(
        f"{server}/retrieve", body, {"Content-Type": "application/json"}
    )
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert "Norway" in answer.read().decode()
                return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(0.1)
    pytest.fail("the server did not get ready")
