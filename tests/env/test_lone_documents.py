"""A document alone as a corpus, and folders in which some documents cannot be read."""

import gzip
import json

import pytest

from calibadv_algo.cli.index import source_of
from calibadv_algo.cli.serve import open_source
from calibadv_env.data.reading import read_corpus, read_split
from calibadv_env.errors import DataError
from calibadv_env.retrieval.disk_corpus import write_corpus

TEXT = "The Quant is a river in the land of Arn. It is long, and it flows to the sea."
PAGE = f"<!DOCTYPE html><html><head><title>Quant</title></head><body><p>{TEXT}</p></body></html>"


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("quant.html", PAGE, "Quant"),
        ("quant.md", f"# The Quant\n\n{TEXT}\n", "The Quant"),
        ("quant.txt", TEXT, "quant"),
    ],
)
def test_every_door_reads_one_document(tmp_path, name, content, title):
    path = tmp_path / name
    path.write_text(content)
    (passage,) = read_corpus(path)
    assert (passage.id, passage.title) == (name, title)
    assert TEXT in passage.text
    assert list(write_corpus(source_of(str(path)), tmp_path / "index")) == [passage]
    assert open_source(str(path), "bm25").search(["river"], 1)[0][0].passage == passage
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert [p.text for p in read_corpus(packed)] == [passage.text]
    with pytest.raises(DataError, match=rf"{name}: this holds documents and no questions"):
        read_split(path, "q")


def test_a_long_document_is_cut_as_those_of_a_folder_are(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(f"{TEXT} " * 40)
    assert len(open_source(str(path), "bm25").corpus) > 1


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (json.dumps({"id": "1", "text": TEXT}), ("1", "")),
        (f"7\t{TEXT}\n", ("7", "")),
        ("id,title,text\n7,Quant,Long.\n", ("7", "Quant")),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no header")
def test_data_in_a_file_of_text_stays_data(tmp_path, content, wanted):
    path = tmp_path / "data.txt"
    path.write_text(content)
    (passage,) = read_corpus(path)
    assert (passage.id, passage.title) == wanted


def test_questions_in_a_file_of_text_stay_questions(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text(json.dumps({"question": "Wo?", "answer": "Ulm"}))
    assert read_split(path, "q")[0].golden_answers == ("Ulm",)


def test_broken_documents_are_left_out_counted_and_named(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    (folder / "b.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    (folder / "c.txt").write_bytes("Stra\xdfe".encode("latin-1"))
    (folder / "d.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.warns(
        UserWarning, match=r"3 documents .* left out: b\.pdf: .*; c\.txt: .*iconv.*d\.t"
    ):
        assert [p.id for p in read_corpus(folder)] == ["a.txt"]
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match=r"b\.pdf: cannot read the PDF.*nor can the 2 others"):
        read_corpus(folder)
    with pytest.raises(DataError, match=r"c\.txt: not valid UTF-8"):
        read_corpus(folder / "c.txt")


def test_a_file_of_records_with_a_fault_still_refuses_the_folder(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"id": "1", "text": "a"}\n{"id":\n')
    with pytest.raises(DataError, match=r"b\.jsonl:2: not valid JSON"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("text", ["\u200b\u200b\ufeff", "\u00ad\u2060 \u200e", "\u3164", "\ufe0f"])
def test_a_text_that_shows_nothing_is_none(tmp_path, text):
    path = tmp_path / "c.jsonl"
    rows = [
        {"id": "1", "text": "a"},
        {"id": "2", "text": text},
        {"id": "3", "contents": f'"T"\n{text}'},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="2 passages without any text were left out"):
        assert [p.id for p in read_corpus(path)] == ["1"]


def test_ids_that_stand_twice_are_named_with_both_places_at_every_door(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "1", "text": "a"}\n\n{"id": "1", "text": "b"}\n')
    wanted = r"c\.jsonl:3: id '1' stands twice, the first time at .*c\.jsonl:1; .*--columns id=KEY"
    for door in (
        read_corpus,
        lambda p: write_corpus(p, tmp_path / "i"),
        lambda p: open_source(p, "bm25"),
    ):
        with pytest.raises(DataError, match=wanted):
            door(str(path))
    with pytest.raises(ValueError, match=r"corpus\[1\]: id '1' stands twice, .* at corpus\[0\]"):
        read_corpus([{"id": "1", "text": "a"}, {"id": "1", "text": "b"}])
