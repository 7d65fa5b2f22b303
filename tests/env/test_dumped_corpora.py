"""Corpora that search engines and vector databases give out."""

import json

import pytest

from calibadv_env.data.questions.evidence_forms import queries_in
from calibadv_env.data.reading import read_corpus

DOCUMENT = {"title": "Nile", "text": "A river."}


@pytest.mark.parametrize(
    "content",
    [
        {"hits": {"total": 1, "hits": [{"_index": "i", "_id": "1", "_source": DOCUMENT}]}},
        {"result": {"points": [{"id": 1, "payload": DOCUMENT}]}},
        [{"id": "1", "payload": DOCUMENT, "vector": [0.5]}],
        [{"id": "1", "values": [0.5], "metadata": DOCUMENT}],
        [{"class": "Doc", "id": "1", "properties": {"title": "Nile", "content": "A river."}}],
        {"ids": ["1"], "documents": ["A river."], "metadatas": [{"title": "Nile"}], "uris": None},
        {"ids": [["1"]], "documents": [["A river."]], "metadatas": [[{"title": "Nile"}]]},
    ],
)
def test_a_dump_gives_its_documents(tmp_path, content):
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(content))
    assert [(p.id, p.title, p.text) for p in read_corpus(path)] == [("1", "Nile", "A river.")]


def test_a_bulk_file_names_ids_on_lines_of_their_own(tmp_path):
    path = tmp_path / "bulk.ndjson"
    lines = [{"index": {"_id": "7"}}, DOCUMENT, {"create": {}}, {**DOCUMENT, "title": "Congo"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [(p.id, p.title) for p in read_corpus(path)]
    assert found[0] == ("7", "Nile")
    assert found[1][1] == "Congo"
    assert len(found) == 2


def test_metadata_beside_a_text_are_not_the_text():
    record = {"page_content": "A river.", "metadata": {"summary": "of a page", "title": "Nile"}}
    (passage,) = read_corpus([record])
    assert (passage.title, passage.text) == ("Nile", "A river.")


def test_documents_of_ms_marco_have_an_address(tmp_path):
    path = tmp_path / "msmarco-docs.tsv"
    path.write_text("D1\thttp://a\tNile\tA river.\nD2\thttp://b\tCairo\tA city.\n")
    found = [(p.id, p.title, p.text) for p in read_corpus(path)]
    assert found == [("D1", "Nile", "A river."), ("D2", "Cairo", "A city.")]


@pytest.mark.parametrize(
    "evidences",
    [
        [["Nile", "country", "Egypt"], ["Egypt", "capital", "Cairo"]],
        '[["Nile", "country", "Egypt"], ["Egypt", "capital", "Cairo"]]',
        {"fact": ["Nile", "Egypt"], "relation": ["country", "capital"], "entity": ["Egypt", "C"]},
        [{"fact": "Nile", "relation": "country", "entity": "Egypt"},
         {"subject": "Egypt", "predicate": "capital", "object": "Cairo"}],
    ],
)  # fmt: skip
def test_triples_of_evidence_are_queries_in_every_form(evidences):
    assert queries_in({"evidences": evidences}) == ["Nile country", "Egypt capital"]
    assert queries_in({"metadata": {"evidences": evidences}}) == ["Nile country", "Egypt capital"]


@pytest.mark.parametrize(
    ("pieces", "ids"), [((0, 1), ["d#0", "d#1"]), (("x", "y"), ["x", "y"]), ((None,), ["d"])]
)
def test_pieces_of_a_document_have_ids_of_their_own(pieces, ids):
    records = [{"doc_id": "d", "chunk_id": piece, "text": f"Text {piece}"} for piece in pieces]
    assert [passage.id for passage in read_corpus(records)] == ids


def test_pages_of_a_crawler_and_texts_of_a_converter(tmp_path):
    path = tmp_path / "c.json"
    page = {"markdown": "# Ulm\nA town.", "metadata": {"title": "Ulm"}}
    path.write_text(json.dumps({"success": True, "data": [page]}))
    assert [(p.title, p.text) for p in read_corpus(path)] == [("Ulm", "# Ulm\nA town.")]
    path.write_text(json.dumps({"schema_name": "DoclingDocument", "texts": [{"text": "A town."}]}))
    assert [p.text for p in read_corpus(path)] == ["A town."]


def test_files_of_other_kinds_in_a_folder_are_counted(tmp_path):
    (tmp_path / "a.md").write_text("A town.")
    for name in ("b.docx", "c.docx", "d.png"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"3 files of other kinds .* \.docx \(2\), \.png \(1\)"):
        assert len(read_corpus(tmp_path)) == 1
