import gzip
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.retrieval import Corpus, Passage
from calibadv_env.retrieval.disk_corpus import DiskCorpus, estimate_passages, write_corpus

ODD = [
    Passage("a", "Élan", "one\ntwo\u2028three"),
    Passage("b\0", "", ""),
    Passage("日本", "日本", "\ud800 lone"),
    Passage("", "empty id", '"quoted" \\ back'),
]
PASSAGES = st.lists(
    st.builds(Passage, st.text(max_size=4), st.text(max_size=6), st.text(max_size=20)),
    min_size=1,
    max_size=12,
    unique_by=lambda passage: passage.id,
)


def test_it_is_the_corpus_that_was_written(tmp_path):
    corpus = Corpus(ODD)
    disk = write_corpus(corpus, tmp_path / "corpus")
    assert disk.sha256 == corpus.sha256
    assert disk == corpus
    assert corpus != write_corpus(Corpus(ODD[:3]), tmp_path / "other")
    assert hash(disk) == hash(corpus)
    assert list(disk) == ODD
    assert list(disk.passages) == ODD
    assert [disk.passages[-1], *disk.passages[1:3]] == [ODD[-1], *ODD[1:3]]
    assert [disk.by_id(passage.id) for passage in ODD] == ODD
    assert [disk.index_of(passage.id) for passage in ODD] == [0, 1, 2, 3]
    assert "a" in disk
    assert "z" not in disk
    assert 3 not in disk
    assert len(disk) == 4
    with pytest.raises(KeyError, match="no passage 'z'"):
        disk.by_id("z")
    with pytest.raises(IndexError):
        disk.passages[4]


@settings(max_examples=25, deadline=None)
@given(passages=PASSAGES)
def test_any_text_survives(passages, tmp_path_factory):
    corpus = Corpus(passages)
    disk = write_corpus(corpus, tmp_path_factory.mktemp("corpus"))
    assert list(disk.passages) == passages
    assert disk.sha256 == corpus.sha256
    assert all(disk.index_of(p.id) == i for i, p in enumerate(passages))


def test_ids_whose_hashes_collide_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("calibadv_env.retrieval.disk_corpus._id_hash", lambda passage_id: 7)
    disk = write_corpus(Corpus(ODD), tmp_path / "corpus")
    assert [disk.index_of(passage.id) for passage in ODD] == [0, 1, 2, 3]
    assert "z" not in disk
    path = tmp_path / "c.jsonl"
    path.write_text("".join(f'{{"id": "{name}", "contents": "x"}}\n' for name in "aba"))
    with pytest.raises(
        DataError,
        match=r"c\.jsonl:3: id 'a' stands twice, the first time at .*c\.jsonl:1; take out",
    ):
        write_corpus(path, tmp_path / "twice")


@pytest.mark.parametrize("is_packed", [False, True])
def test_files_in_both_forms_are_read(tmp_path, is_packed):
    lines = [
        {"id": "a", "contents": '"Title"\nthe text'},
        {"id": "b", "title": "T", "text": "x"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(gzip.compress(text) if is_packed else text)
    assert list(write_corpus(path, tmp_path / "out")) == list(Corpus.from_jsonl(path))
    assert estimate_passages(path) == (None if is_packed else 2)


def test_it_pickles_and_is_linked_from_one_index_to_the_next(tmp_path):
    disk = write_corpus(Corpus(ODD), tmp_path / "index" / "corpus")
    assert pickle.loads(pickle.dumps(disk)) == disk
    linked = write_corpus(tmp_path / "index", tmp_path / "second" / "corpus")
    assert list(linked) == ODD
    name = "passages.jsonl"
    assert (linked.folder / name).stat().st_ino == (disk.folder / name).stat().st_ino


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "text": "x", "title": ""}\n{"id": "a"}\n', r"c\.jsonl:2: key 'contents'"),
        ("not json\n", r"c\.jsonl:1:"),
        ("", "no passage"),
        (
            '{"id": "a", "contents": "x"}\n' * 2,
            r"c\.jsonl:2: id 'a' stands twice, the first time at .*c\.jsonl:1;",
        ),
    ],
)
def test_a_faulty_file_is_refused(tmp_path, text, message):
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        write_corpus(path, tmp_path / "out")


def test_files_that_are_not_the_ones_written_are_refused(tmp_path):
    folder = tmp_path / "corpus"
    disk = write_corpus(Corpus(ODD), folder)
    path = folder / "passages.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"X" + whole[1:])
    DiskCorpus(folder)
    with pytest.raises(DataError, match="not those that were written"):
        DiskCorpus(folder, verify=True)
    with pytest.raises(RetrieverError, match="passage 0 cannot be read"):
        disk.read(0)
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="must have"):
        DiskCorpus(folder)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        DiskCorpus(folder)


def test_a_file_is_not_taken_for_a_folder(tmp_path):
    with pytest.raises(ValueError, match="write_corpus"):
        DiskCorpus.from_jsonl(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="no index here"):
        DiskCorpus(tmp_path)
