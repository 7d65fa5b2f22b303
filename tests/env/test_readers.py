"""Formats of questions and documents: those of this package, and those of another one."""

import sys

import pytest

from calibadv_env.data import registry
from calibadv_env.data.preparing.own import prepare_own
from calibadv_env.data.reading import find_reader, is_fetched, read_corpus, reader_named
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.errors import DataError

MODULE = '''
"""A format in one file: a question, a bar, its answer; documents as name, bar, text."""

from pathlib import Path

from calibadv_env.data.base import QATask
from calibadv_env.data.reading import Reader, Row
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Passage


class BarReader(Reader):
    name = "bar"
    suffixes = (".bar",)

    def rows(self, source, split=""):
        for place, left, right in lines(source):
            yield Row(place=place, task=QATask(id=left, question=left, golden_answers=(right,)))

    def passages(self, source):
        for place, left, right in lines(source):
            yield place, Passage(left, left, right)


class VaultReader(BarReader):
    """Names such as vault:rivers, each with two splits."""

    name = "vault"
    prefix = "vault:"

    def splits(self, source):
        return {"train": "a", "test": "b"}

    def rows(self, source, split=""):
        yield Row(place=source, task=QATask(id=split, question=source, golden_answers=("x",)))

    def passages(self, source):
        yield source, Passage("p", "", source)


def lines(source):
    for number, line in enumerate(Path(source).read_text().splitlines(), start=1):
        left, bar, right = line.partition("|")
        if not bar:
            raise DataError(f"{source}:{number}: a line must have a bar")
        yield f"{source}:{number}", left, right


number = 5
'''
ENTRY_POINTS = """[calibadv_env.readers]
bar = other_format:BarReader
vault = other_format:VaultReader
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another package, as an installer leaves it."""
    facts = tmp_path / "site" / "other_format-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-format\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "other_format.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    for name in ("_datasets", "_loaders", "_folders", "_unnamed"):
        monkeypatch.setattr(registry, name, {})
    yield facts
    sys.modules.pop("other_format", None)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "rivers"
    path.mkdir()
    (path / "test.bar").write_text("Where is the Nile?|Egypt\nWhere is the Po?|Italy\n")
    (path / "corpus.bar").write_text("Nile|The Nile is in Egypt.\nPo|The Po is in Italy.\n")
    return path


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a.jsonl", "jsonl"),
        ("a.JSONL.gz", "jsonl"),
        ("a.txt", "jsonl"),
        ("a.csv.gz", "csv"),
        ("a.TSV", "csv"),
        ("hf:owner/name", "hf"),
        ("./hf:owner/name", "jsonl"),
    ],
)
def test_suffix_or_prefix_say_which_reader(source, name):
    assert find_reader(source).name == name
    assert is_fetched(source) == (name == "hf")


def test_another_package_adds_a_format(other, folder):
    assert find_reader("a.csv").name == "csv"
    assert "other_format" not in sys.modules
    assert find_reader("a.bar.gz").name == "bar"
    assert reader_named("bar").name == "bar"
    dataset = get_dataset(str(folder))
    assert [task.golden_answers for task in dataset.tasks("test")] == [("Egypt",), ("Italy",)]
    assert dataset.corpus().by_id("Po").text == "The Po is in Italy."
    register_dataset("bars", folder / "test.bar", folder / "corpus.bar")
    assert len(get_dataset("bars").tasks("dev")) == 2
    done = prepare_own(
        "rivers", [str(folder / "test.bar")], folder / "corpus.bar", shares=(1.0, 0.0, 1.0)
    )
    assert dict(done.sizes) == {"test": 2}
    assert len(get_dataset("rivers").corpus()) == 2


def test_another_package_adds_names_that_are_fetched_at_the_first_use(other):
    dataset = get_dataset("vault:rivers")
    assert dataset.splits == ("train", "test")
    assert dataset.tasks("train")[0].id == "a"
    register_dataset("kept", "vault:rivers", "vault:papers")
    assert get_dataset("kept").corpus().by_id("p").text == "vault:papers"
    merged = get_dataset("vault:rivers+kept")
    assert [task.id for task in merged.tasks("test")] == ["vault:rivers:b", "kept:b"]
    done = prepare_own("copy", ["vault:rivers"], None)
    assert dict(done.sizes) == {"train": 1, "test": 1}


def test_faults_name_the_place_or_the_package(other, folder):
    (folder / "corpus.bar").write_text("Nile|a\nNile|b\n")
    with pytest.raises(DataError, match=r"corpus\.bar:2: id 'Nile' stands twice"):
        read_corpus(folder / "corpus.bar")
    (folder / "corpus.bar").unlink()
    (folder / "test.bar").write_text("no bar\n")
    with pytest.raises(DataError, match=r"test\.bar:1: a line must have a bar"):
        get_dataset(str(folder))
    (other / "entry_points.txt").write_text("[calibadv_env.readers]\nx = other_format:number\n")
    with pytest.raises(DataError, match=r"package other-format 1\.0 .* must give a Reader, got 5"):
        find_reader("a.bar")
