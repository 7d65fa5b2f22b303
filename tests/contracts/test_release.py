"""What a release needs agrees: versions, names of files, and what the documents point to."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from calibadv_algo.cli.main import TRACEBACK, main
from calibadv_algo.learner.pretrained import SHIPPED_POLICIES
from calibadv_env.data.atlas.worlds import WORLDS
from calibadv_env.data.registry import built_in_datasets

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    number = PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {number}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(number)}\b", changes, flags=re.MULTILINE)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"calibadv {version('calibadv')}, Python 3.")


def test_the_classifiers_name_the_versions_of_python_that_a_release_tries() -> None:
    script = (ROOT / ".ci" / "release.py").read_text(encoding="utf-8")
    tried = set(re.findall(r'"(3\.\d+)"', script))
    named = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: 3." in each}
    assert tried == named
    assert PROJECT["requires-python"] == f">={min(tried)}"


def test_everything_that_is_shipped_has_a_card() -> None:
    cards = {path.stem for path in (ROOT / "docs" / "cards").glob("*.md")}
    datasets = {"atlas", "atlas-wiki", "toy", *WORLDS}  # the others are read from files of the user
    assert datasets <= set(built_in_datasets())
    assert {*SHIPPED_POLICIES, *datasets} <= cards


def test_an_expected_error_shows_where_it_came_from_if_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="there is no such folder"):
        main(["report", "/there/is/none"])
