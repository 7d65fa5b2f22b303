"""Compressed files: told by their first bytes, whatever their name."""

import bz2
import gzip
import lzma
import zipfile

import pyarrow as pa
import pytest

from calibadv_env.common.jsonl import read_jsonl
from calibadv_env.data.reading import read_corpus, read_split
from calibadv_env.errors import DataError

QUESTIONS = b'{"question": "Wo?", "answer": "Da"}\n{"question": "Wer?", "answer": "Ich"}\n'
TABLE = b"question,answer\nWo?,Da\nWer?,Ich\n"


def zstd(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("end", PACKERS)
@pytest.mark.parametrize(("stem", "content"), [("q.jsonl", QUESTIONS), ("q.csv", TABLE)])
def test_questions_of_every_compression(tmp_path, end, stem, content):
    for name in (f"{stem}{end}", "q.bin"):
        path = tmp_path / name
        path.write_bytes(PACKERS[end](content))
        assert [t.golden_answers for t in read_split(path, "q")] == [("Da",), ("Ich",)]


@pytest.mark.parametrize("end", PACKERS)
def test_a_file_that_is_cut_short_is_told_with_its_line(tmp_path, end):
    path = tmp_path / f"q.jsonl{end}"
    path.write_bytes(PACKERS[end](QUESTIONS * 400)[:-12])
    with pytest.raises(DataError, match=rf"q\.jsonl{end}:\d+: cannot read the file"):
        list(read_jsonl(path))


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, QUESTIONS)
    return path


def test_the_one_file_of_a_zip_is_read(tmp_path):
    path = zipped(tmp_path / "q.zip", "folder/dev.jsonl", "__MACOSX/._dev.jsonl")
    assert len(read_split(path, "q")) == 2


def test_a_zip_of_several_files_is_refused_with_what_to_do(tmp_path):
    path = zipped(tmp_path / "q.zip", "train.jsonl", "dev.jsonl")
    with pytest.raises(DataError, match=r"2 files \(train\.jsonl, dev\.jsonl\); unpack it"):
        read_split(path, "q")


def test_a_workbook_is_named(tmp_path):
    path = zipped(tmp_path / "q.xlsx", "[Content_Types].xml", "xl/workbook.xml")
    with pytest.raises(DataError, match="workbook of a spreadsheet; save the sheet as CSV"):
        read_split(path, "q")


def test_a_corpus_that_chroma_gave_out(tmp_path):
    path = tmp_path / "chroma.json"
    path.write_text(
        '{"ids": ["a", "b"], "embeddings": null, "documents": ["One text.", "Two texts."], '
        '"metadatas": [{"title": "One"}, null]}'
    )
    found = [(p.id, p.title, p.text) for p in read_corpus(path)]
    assert found == [("a", "One", "One text."), ("b", "", "Two texts.")]
