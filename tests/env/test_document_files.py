"""Corpora as they are published, folders of texts, and long documents cut into passages."""

import gzip
import json
from pathlib import Path

import pytest

from calibadv_algo.cli.data import Prepare
from calibadv_algo.cli.index import source_of
from calibadv_algo.cli.serve import open_source
from calibadv_env.data import registry
from calibadv_env.data.cutting import Cutting, count_words
from calibadv_env.data.loading import Options
from calibadv_env.data.reading import read_corpus
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval import Corpus
from calibadv_env.retrieval.disk_corpus import write_corpus

CASES = Path(__file__).parents[1] / "data" / "qa"
TEXT = "The Quant is a river."
CORPORA = [
    ("corpus_beir.jsonl", "d1", "Quant", TEXT),
    ("corpus_beir_no_title.jsonl", "d1", "", TEXT),
    ("corpus_doc_id.jsonl", "d1", "", TEXT),
    ("corpus_int_id.jsonl", "0", "Quant", TEXT),
    ("corpus_kilt.jsonl", None, "Quant", TEXT),
    ("corpus_hipporag.json", None, "Quant", TEXT),
    ("corpus_page_content.jsonl", None, "Quant", TEXT),
    ("corpus_msmarco.tsv", "0", "", TEXT),
    ("corpus_contents_unquoted.jsonl", "1", "Quant", f"{TEXT}\nIt is long."),
    ("corpus_psgs_w100.tsv", "1", "Quant", TEXT),
]


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    for name in ("_datasets", "_loaders", "_folders", "_unnamed", "_origins"):
        monkeypatch.setattr(registry, name, {})


@pytest.mark.parametrize(("name", "wanted_id", "title", "text"), CORPORA)
def test_every_door_reads_a_published_corpus_alike(tmp_path, name, wanted_id, title, text):
    path = CASES / name
    corpus = read_corpus(path)
    first = corpus.passages[0]
    assert (first.title, first.text) == (title, text)
    assert wanted_id in (None, first.id)
    assert list(write_corpus(source_of(str(path)), tmp_path / "index")) == list(corpus)
    assert open_source(str(path), "bm25").search(["Quant"], 1)[0][0].passage == first
    task = {"question": "q?", "answer": "a", "id": "1"}
    register_dataset("doors", [task], path)
    assert get_dataset("doors").corpus() == corpus
    (tmp_path / "q.jsonl").write_text(json.dumps(task))
    source = (str(tmp_path / "q.jsonl"),)
    Prepare(names=("prepared",), source=source, corpus=str(path), shares=(1, 0, 0)).run()
    assert get_dataset("prepared").corpus() == corpus
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_corpus(packed) == corpus


def test_passages_without_text_are_left_out_and_counted():
    with pytest.warns(UserWarning, match="1 passages without any text were left out"):
        assert [p.id for p in read_corpus(CASES / "corpus_empty_text.jsonl")] == ["2"]


def test_quotes_between_tabs_are_ordinary_signs(tmp_path):
    path = tmp_path / "collection.tsv"
    path.write_text('0\t"Open quote\n1\tsecond " mark\n2\t"all of it"\n3\tlast\n')
    texts = [p.text for p in read_corpus(path)]
    assert texts == ['"Open quote', 'second " mark', "all of it", "last"]
    path.write_text('id\ttext\ttitle\n1\t"two\nlines ""quoted"""\tA\n2\tb\tB\n')
    assert [p.text for p in read_corpus(path)] == ['two\nlines "quoted"', "b"]


def test_titles_to_texts_lists_of_texts_and_equal_documents(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"Quant": ["The Quant ", "is long."], "Miral": ["A lake."]}))
    assert [(p.title, p.text) for p in read_corpus(path)] == [
        ("Quant", "The Quant is long."),
        ("Miral", "A lake."),
    ]
    path.write_text(json.dumps(["One text.", "Another."]))
    assert [p.text for p in read_corpus(path)] == ["One text.", "Another."]
    path.write_text(json.dumps([{"text": "a"}, {"text": "a"}]))
    with pytest.warns(UserWarning, match="1 documents stand twice"):
        assert len(read_corpus(path)) == 1
    path.write_text(json.dumps([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]))
    with pytest.raises(DataError, match="id '1' stands twice"):
        read_corpus(path)


def test_a_corpus_of_unknown_keys_names_them_and_takes_columns(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"nr": 4, "inhalt": {"de": "Text."}, "kopf": "T"}))
    with pytest.raises(
        DataError, match=r"c\.jsonl:1: .*keys are nr, inhalt, kopf.*--columns"
    ) as no:
        read_corpus(path)
    # `data prepare` and register_dataset read questions too, and have other words for documents.
    assert "--corpus-columns" in str(no.value)
    assert "corpus_columns={'text': KEY}" in str(no.value)
    with pytest.raises(ValueError, match=r"got 'text'; those of documents are --corpus-columns"):
        register_dataset(
            "mapped", [{"question": "q", "answer": "a"}], path, columns={"text": "inhalt.de"}
        )
    columns = {"text": "inhalt.de", "title": "kopf", "id": "nr"}
    corpus = Options(corpus_columns=columns).corpus(path)
    assert list(corpus) == [Passage("4", "T", "Text.")]
    task = {"question": "q", "answer": "a"}
    register_dataset("mapped", [task], path, corpus_columns=columns)
    assert get_dataset("mapped").corpus() == corpus


@pytest.fixture
def folder(tmp_path):
    notes = tmp_path / "notes"
    (notes / "sub").mkdir(parents=True)
    (notes / "a.txt").write_text("Plain words. " * 120)
    (notes / "sub" / "b.md").write_text("# The Title\n\nSome *text* here.\n")
    (notes / "c.html").write_text(
        "<html><head><title>Page</title></head><body><nav>menu</nav><article><p>"
        + "A sentence of the page that is long enough to be kept. " * 5
        + "</p></article></body></html>"
    )
    (notes / "empty.txt").write_text("  \n")
    return notes


@pytest.mark.filterwarnings("ignore:.*without any text")
def test_a_folder_of_texts_is_a_corpus_of_cut_passages(folder):
    pytest.importorskip("trafilatura")
    corpus = Options().corpus(folder)
    ids = [p.id for p in corpus]
    assert ids == ["a.txt#1", "a.txt#2", "a.txt#3", "c.html", "sub/b.md"]
    assert [p.title for p in corpus][-2:] == ["Page", "The Title"]
    assert "menu" not in corpus.by_id("c.html").text
    assert all(count_words(p.text) <= 100 for p in corpus)
    assert Options().corpus(folder) == corpus
    assert (
        open_source(str(folder), "bm25").search(["sentence page"], 1)[0][0].passage.id == "c.html"
    )
    register_dataset("notes", [{"question": "q", "answer": "a"}], folder)
    assert get_dataset("notes").corpus() == corpus


def test_of_a_dataset_s_folder_the_corpus_alone_is_read(tmp_path):
    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "A river."}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "Which river?"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    passages = [Passage("d1", "T", "A river.")]
    assert list(Options().corpus(folder)) == list(read_corpus(folder)) == passages
    (folder / "README.md").write_text("# About\n")
    with pytest.warns(UserWarning, match=r"corpus\.jsonl: taken alone; .* 1 texts .* README\.md"):
        assert list(read_corpus(folder)) == passages


def test_a_pdf_is_read_and_a_broken_one_is_named(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    notes = tmp_path / "notes"
    notes.mkdir()
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.add_metadata({"/Title": "Blank"})
    writer.write(notes / "blank.pdf")
    (notes / "a.txt").write_text("x")
    with pytest.warns(UserWarning, match="1 passages without any text"):
        assert len(read_corpus(notes)) == 1
    (notes / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    with pytest.warns(
        UserWarning, match=r"1 documents .* left out: broken\.pdf: cannot read the PDF"
    ):
        assert len(read_corpus(notes)) == 1


def test_cuts_keep_words_titles_and_order_and_overlap():
    words = [f"w{i}" for i in range(95)]
    document = Passage("d", "T", " ".join(words))
    pieces = Cutting(words=10).passages(document)
    assert [piece.id for piece in pieces] == [f"d#{i}" for i in range(1, 11)]
    assert {piece.title for piece in pieces} == {"T"}
    assert " ".join(piece.text for piece in pieces).split() == words
    overlapping = Cutting(words=10, overlap=3).passages(document)
    assert overlapping[1].text.split()[:3] == overlapping[0].text.split()[-3:]
    sentences = Passage("s", "", "One two three. Four five six. Seven eight.")
    assert [p.text for p in Cutting(words=4).passages(sentences)] == [
        "One two three.",
        "Four five six.",
        "Seven eight.",
    ]
    chinese = Passage("c", "", "\u6cb3\u6d41\u7ecf\u57ce\u5e02" * 10)
    assert all(len(p.text) <= 10 for p in Cutting(words=10).passages(chinese))
    assert Cutting().corpus(Corpus([document])).passages == (document,)
    with pytest.raises(ValueError, match="overlap must be below words"):
        Cutting(words=3, overlap=3)


def test_gold_of_a_cut_document_is_the_piece_with_the_sentence():
    filler = "Nothing of note happens in this sentence here. " * 10
    row = {
        "question": "q?",
        "answer": "x",
        "supporting_facts": [["N", 1]],
        "context": [["N", [filler, "The Quant flows through Zorbel city."]]],
    }
    register_dataset("cut", [row], "own", passage_words=20)
    dataset = get_dataset("cut")
    ((gold,),) = dataset.tasks("test")[0].gold_passages
    assert "Zorbel" in dataset.corpus().by_id(gold).text
    assert len(dataset.corpus()) > 3
