import gzip
import json
import pickle

import pytest

from calibadv_env.errors import DataError
from calibadv_env.retrieval import Corpus, Passage, make_retriever
from calibadv_env.retrieval.corpus import indexed_text

A = Passage("a", "Alpha", "First letter.")
B = Passage("b", "", "No title, café.")


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_look_up_and_order():
    corpus = Corpus([B, A])
    assert corpus.passages == (B, A)
    assert corpus.by_id("a") is A
    assert corpus.index_of("a") == 1
    assert "b" in corpus
    assert "c" not in corpus
    assert len(corpus) == 2
    with pytest.raises(KeyError, match="no passage 'c'"):
        corpus.by_id("c")


def test_both_file_formats_give_the_same_corpus(tmp_path):
    contents = write(
        tmp_path / "c.jsonl",
        {"id": "a", "contents": '"Alpha"\nFirst letter.'},
        {"id": "b", "contents": "No title, café."},
    )
    fields = write(
        tmp_path / "f.jsonl",
        {"id": "a", "title": "Alpha", "text": "First letter.", "url": "ignored"},
        {"id": "b", "title": "", "text": "No title, café."},
    )
    packed = tmp_path / "g.data"
    packed.write_bytes(gzip.compress(fields.read_bytes()))
    expected = Corpus([A, B])
    for path in (contents, fields, packed, str(packed)):
        corpus = Corpus.from_jsonl(path)
        assert corpus == expected
        assert corpus.sha256 == expected.sha256


@pytest.mark.parametrize(
    ("contents", "title", "text"),
    [
        ("Plain\nbody\nmore", "Plain", "body\nmore"),
        ('"\nbody', '"', "body"),
        ('Say "hi"\nbody', 'Say "hi"', "body"),
        ('"alone"', "", '"alone"'),
        ('""\nbody', "", "body"),
    ],
)
def test_the_first_line_of_contents_is_the_title(tmp_path, contents, title, text):
    path = write(tmp_path / "c.jsonl", {"id": "x", "contents": contents})
    assert Corpus.from_jsonl(path).passages == (Passage("x", title, text),)


def test_a_written_corpus_reads_back(tmp_path):
    corpus = Corpus([A, B])
    for name in ("c.jsonl", "c.jsonl.gz"):
        corpus.to_jsonl(tmp_path / name)
        assert Corpus.from_jsonl(tmp_path / name) == corpus


def test_the_hash_is_pinned_and_sees_every_field_and_the_order():
    corpora = [
        Corpus(passages)
        for passages in (
            [A, B],
            [B, A],
            [A],
            [Passage("aA", "lpha", "First letter."), B],
            [Passage("a", "AlphaFirst", " letter."), B],
        )
    ]
    assert len({corpus.sha256 for corpus in corpora}) == len(corpora)
    assert Corpus([A, B]).sha256 == (
        "456a692d8aad0215019695d3f96526397df808cf572dd94dda0ce15117822a8d"
    )


def test_it_pickles():
    corpus = Corpus([A, B])
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy == corpus
    assert copy.by_id("b") == B


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": True, "contents": "x\ny"}, "id must be a string or a number, got True"),
        ({"id": "x"}, "'contents' is missing, and so are 'title' and 'text'"),
        ({"id": "x", "title": "y"}, "'contents' is missing"),
        ({"id": "x", "title": ["y"], "text": "y"}, "title must be a string"),
        ({"id": "x", "title": "", "text": 4}, "text must be a string"),
        ({"id": "x", "contents": "\ud83d"}, "unpaired surrogate"),
        ({"id": "a", "contents": "twice"}, "id 'a' stands twice"),
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path, record, message):
    path = write(tmp_path / "c.jsonl", {"id": "a", "contents": "ok"}, record)
    with pytest.raises(DataError, match=rf"c\.jsonl:2: .*{message}"):
        Corpus.from_jsonl(path)


def test_empty_and_repeated_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must not be empty"):
        Corpus([])
    with pytest.raises(ValueError, match="unique, got 'a' twice"):
        Corpus([A, B, A])
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"e\.jsonl: there is no passage in it"):
        Corpus.from_jsonl(tmp_path / "e.jsonl")


def test_indexed_text_leaves_an_empty_title_out():
    assert indexed_text(A) == "Alpha. First letter."
    assert indexed_text(B) == "No title, café."


def test_make_retriever_knows_its_names_and_passes_objects_through():
    corpus = Corpus([A, B])
    for name in ("bm25", "rank_bm25", "memory"):
        [found] = make_retriever(name, corpus).search(["letter"], 1)
        assert len(found) == 1
    retriever = make_retriever("memory", corpus)
    assert make_retriever(retriever, corpus) is retriever
    with pytest.raises(ValueError, match=r"one of 'bm25', .*'memory', 'rank_bm25'.*got 'dense'"):
        make_retriever("dense", corpus)
    with pytest.raises(ValueError, match="must have a method search, got int"):
        make_retriever(3, corpus)
