import json
from pathlib import Path

import pytest
import tyro

from calibadv_algo.cli.data import Audit, Data, Inspect, Prepare, dataset_facts
from calibadv_env.data import prepared, reading, registry
from calibadv_env.data.base import QATask
from calibadv_env.data.reading import Reader, Row
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError

PASSAGES = [
    {"id": "p1", "contents": '"Nile"\nThe Nile is in Egypt.'},
    {"id": "p2", "contents": '"Cairo"\nCairo is the capital of Egypt.'},
]


def record(index, answer, *titles):
    facts = {"title": list(titles), "sent_id": [0] * len(titles)}
    return {
        "id": f"dev_{index}",
        "question": f"What of {' and '.join(titles)}, {index}?",
        "golden_answers": [answer],
        "metadata": {"type": "bridge", "supporting_facts": facts},
    }


RECORDS = [record(0, "Cairo", "Nile", "Cairo"), record(1, "Lima", "Nile", "Peru")]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CALIBADV_CORPUS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("_datasets", "_folders", "_unnamed"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(prepared, "_corpora", {})
    return tmp_path / "data"


@pytest.fixture
def flashrag(tmp_path):
    write(tmp_path / "FlashRAG" / "hotpotqa" / "dev.jsonl", RECORDS)
    return tmp_path / "FlashRAG"


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "wiki.jsonl", PASSAGES)


def run(*arguments):
    config = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(Data, args=[str(a) for a in arguments], config=config).run()


def test_arguments_are_read_as_the_guide_writes_them():
    data = tyro.cli(
        Data,
        args=[
            "prepare",
            "nq",
            "hotpotqa",
            "--from",
            "parquet",
            "a.parquet",
            "b.parquet",
            "--corpus",
            "wiki",
        ],
    )
    assert isinstance(data.action, Prepare)
    assert data.action.names == ("nq", "hotpotqa")
    assert data.action.source == ("parquet", "a.parquet", "b.parquet")
    assert isinstance(tyro.cli(Data, args=["inspect", "nq"]).action, Inspect)
    audit = tyro.cli(Data, args=["audit", "seven", "--top-k", "5", "--retriever", "none"]).action
    assert (audit.names, audit.top_k, audit.retriever) == (("seven",), 5, "none")


def test_prepare_inspect_and_audit_one_after_the_other(flashrag, corpus, root, capsys):
    assert run("prepare", "HotpotQA", "--from", "flashrag", flashrag, "--corpus", corpus) == 0
    out = capsys.readouterr().out
    assert "dev (eval)" in out
    assert "1 no title, 0 no sentence" in out
    assert "warning: HotpotQA dev: expected 7405 tasks, found 2" in out
    assert get_dataset("hotpotqa").tasks("eval")[0].gold_passages == (("p1",), ("p2",))

    assert run("inspect", "hotpotqa", "--tasks", "1") == 0
    out = capsys.readouterr().out
    assert "7,405" in out
    assert "2 passages, sha256" in out
    assert "there is no train.jsonl" in out
    assert '"dev_0"' in out
    assert '"dev_1"' not in out

    assert run("audit", "hotpotqa", "--top-k", "1") == 0
    out = capsys.readouterr().out
    assert "0.500 of 2" in out
    audit = json.loads((root / "hotpotqa" / "audit.json").read_text())
    coverage = audit["splits"]["dev"]["coverage"]
    assert coverage["answer_in_corpus"] == coverage["gold_in_corpus"] == 0.5
    assert coverage["chain_gold"] == 0.5


def test_json_is_for_programs(flashrag, corpus, tmp_path, capsys):
    run("prepare", "hotpotqa", "--from", "flashrag", flashrag, "--corpus", corpus)
    capsys.readouterr()
    run("inspect", "hotpotqa", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["eval_split"] == "dev"
    assert facts["splits"]["dev"] == {"tasks": 2, "published": 7405, "note": ""}
    assert facts["gold"]["dev"]["tasks_complete"] == 1
    assert facts["tasks"][0]["id"] == "dev_0"
    run("audit", "hotpotqa", "--json", "--output", tmp_path / "figures.json")
    (result,) = json.loads(capsys.readouterr().out)
    assert result["split"] == "dev"
    assert json.loads((tmp_path / "figures.json").read_text())["splits"]["dev"] == result


def test_without_a_corpus_it_says_that_no_gold_was_looked_for(
    flashrag, corpus, capsys, monkeypatch
):
    run("prepare", "hotpotqa", "--from", "flashrag", flashrag)
    assert "No corpus was named" in capsys.readouterr().out
    monkeypatch.setenv("CALIBADV_CORPUS", str(corpus))
    run("prepare", "hotpotqa", "--from", "flashrag", flashrag / "hotpotqa")
    assert "No corpus was named" not in capsys.readouterr().out
    assert get_dataset("hotpotqa").tasks("eval")[0].gold_passages == (("p1",), ("p2",))


def test_parquet_files_of_search_r1_are_prepared(tmp_path, corpus, capsys):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        one | {"data_source": "hotpotqa", "extra_info": {"split": "test", "index": i}}
        for i, one in enumerate(RECORDS)
    ]
    path = tmp_path / "test.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    run("prepare", "hotpotqa", "--from", "parquet", path, "--corpus", corpus)
    assert [task.gold_passages for task in get_dataset("hotpotqa").tasks("eval")] == [
        (("p1",), ("p2",)),
        (("p1",),),
    ]


@pytest.mark.parametrize("source", [(), ("flashrag",), ("hub", "x"), ("parquet",), ("git", "x")])
def test_a_source_that_makes_no_sense_is_refused(source):
    with pytest.raises(ValueError, match="from must be flashrag FOLDER, hub, or parquet FILE"):
        Prepare(names=("nq",), source=source).run()


def test_names_and_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"benchmark must be one of NQ, .* got 'squad'"):
        Prepare(names=("squad",)).run()
    with pytest.raises(ValueError, match="names must hold at least one"):
        Prepare(names=()).run()
    with pytest.raises(DataError, match="there is no folder nq here"):
        Prepare(names=("nq",), source=("flashrag", str(tmp_path))).run()


def test_seven_stands_for_all_of_them(tmp_path, flashrag):
    with pytest.raises(DataError, match="there is no folder nq here"):
        Prepare(names=("seven",), source=("flashrag", str(flashrag))).run()
    with pytest.raises(DataError, match=r"there is no test\.jsonl of NQ here"):
        Audit(names=("seven",)).run()


def test_inspect_shows_any_dataset(capsys):
    facts = dataset_facts(get_dataset("toy"))
    assert facts["eval_split"] == "test"
    assert set(facts["splits"]) == {"train", "dev", "test"}
    Inspect(name="toy", tasks=0).run()
    assert "toy" in capsys.readouterr().out


# Datasets of one's own --------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path):
    questions, documents = tmp_path / "questions.csv", tmp_path / "documents.csv"
    rows = [f"Where is {place}?,Egypt,d{i % 2}" for i, place in enumerate("abcdefghij")]
    questions.write_text("question,answer,documents\n" + "\n".join(rows) + "\n")
    documents.write_text("id,title,text\nd0,Nile,The Nile is in Egypt.\nd1,Cairo,Also there.\n")
    return questions, documents


def test_a_csv_becomes_a_dataset_that_can_be_inspected_and_audited(tables, root, capsys):
    questions, documents = tables
    assert run("prepare", "Rivers", "--from", "csv", questions, "--corpus", documents) == 0
    out = capsys.readouterr().out
    assert "2 documents, 2 passages; 10 questions name theirs" in out
    assert f"folder: {root / 'rivers'}" in out
    assert "use it as: --env.dataset Rivers" in out
    run("inspect", "rivers", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dataset"], facts["eval_split"]) == ("Rivers", "test")
    assert facts["source"] == str(questions)
    assert {split: one["tasks"] for split, one in facts["splits"].items()} == {
        "train": 8,
        "dev": 1,
        "test": 1,
    }
    run("audit", "rivers", "--split", "train", "--top-k", "1")
    assert "1.000 of 8" in capsys.readouterr().out
    assert (root / "rivers" / "audit.json").is_file()


def test_a_path_flags_and_missing_documents(tables, tmp_path, capsys):
    questions, _ = tables
    target = tmp_path / "mine" / "rivers"
    flags = ["--shares", "0.5", "0", "0.5", "--seed", "3"]
    assert run("prepare", target, "--from", "csv", questions, *flags) == 0
    assert "No documents were named" in capsys.readouterr().out
    assert len(get_dataset(str(target)).tasks("train")) == 5
    run("inspect", target, "--tasks", "1")
    assert "has no corpus" in capsys.readouterr().out


def test_wrong_requests_for_a_dataset_of_ones_own_are_refused(tables):
    questions, documents = map(str, tables)
    with pytest.raises(ValueError, match="names must be one new name or path, got 'a b'"):
        run("prepare", "a", "b", "--from", "csv", questions)
    with pytest.raises(ValueError, match="sources must name at least one file"):
        run("prepare", "a", "--from", "csv")
    with pytest.raises(ValueError, match="built-in dataset, got 'nq'"):
        run("prepare", "nq", "--from", "csv", questions, "--corpus", documents)
    with pytest.raises(ValueError, match="must be named hf:owner/name"):
        run("prepare", "a", "--from", "hf", "name")
    with pytest.raises(ValueError, match="benchmark must be one of"):
        run("prepare", "rivers", "--corpus", documents)


def test_the_format_of_another_package_is_a_source(tmp_path, root, monkeypatch, capsys):
    class LineReader(Reader):
        name = "lines"
        suffixes = (".lines",)

        def rows(self, source, split=""):
            for i, line in enumerate(Path(source).read_text().splitlines()):
                task = QATask(id=str(i), question=line, golden_answers=("x",))
                yield Row(place=f"{source}:{i + 1}", task=task)

    monkeypatch.setattr(reading, "_plugins", lambda: [LineReader()])
    (tmp_path / "quiz.lines").write_text("Who?\nWhere?\nWhen?\n")
    run("prepare", "quiz", "--from", "lines", tmp_path / "quiz.lines")
    assert "use it as: --env.dataset quiz" in capsys.readouterr().out
    assert len(get_dataset("quiz").tasks("train")) == 1


def test_merged_datasets_are_inspected_and_audited_as_one(tables, root, capsys):
    questions, documents = tables
    for name in ("one", "two"):
        run("prepare", name, "--from", "csv", questions, "--corpus", documents)
    run("inspect", "one+two", "--json", "--tasks", "1")
    out = capsys.readouterr().out
    facts = json.loads(out[out.index("{") :])
    assert facts["splits"]["train"]["tasks"] == 16
    assert facts["tasks"][0]["id"].startswith("one:q-")
    run("audit", "one+two", "--top-k", "1")
    assert "one+two test" in capsys.readouterr().out
    assert (root / "one+two" / "audit.json").is_file()


CASES = Path(__file__).parents[1] / "data" / "qa"


def test_a_benchmark_is_prepared_from_the_file_of_its_authors(root, capsys, tmp_path):
    file = str(CASES / "hotpot_original.json")
    Prepare(names=("hotpotqa",), source=(file,), corpus="own").run()
    (task,) = get_dataset("HotpotQA").tasks("dev")
    corpus = get_dataset("HotpotQA").corpus()
    assert [corpus.by_id(hop[0]).title for hop in task.gold_passages] == ["Ada Lorn", "Quant"]
    capsys.readouterr()
    Prepare(names=("musique",), source=(str(CASES / "musique_original.jsonl"),), corpus=None).run()
    assert "question read from: question" in capsys.readouterr().out
    assert get_dataset("MuSiQue").tasks("dev")[0].golden_answers[1:] == ("Quant", "River Quant")


def test_own_questions_are_prepared_from_a_path_with_their_paragraphs(root, capsys):
    file = str(CASES / "musique_full_unanswerable.jsonl")
    with pytest.warns(UserWarning, match="unanswerable"):
        Prepare(names=("mine",), source=(file,), corpus="own", shares=(0, 0, 1)).run()
    out = capsys.readouterr().out
    assert "unanswerable questions left out: 1" in out
    (task,) = get_dataset("mine").tasks("test")
    assert [len(hop) for hop in task.gold_passages] == [1, 1]
    assert "paragraphs" not in task.metadata


def test_inspect_shows_what_was_guessed_and_takes_columns(capsys, tmp_path):
    Inspect(name=str(CASES / "frames.tsv")).run()
    out = capsys.readouterr().out
    assert "question read from: Prompt" in out
    assert "ids made of the content: 1" in out
    (tmp_path / "q.csv").write_text("Frage,Antwort\nWo?,Ulm/Bonn\n")
    with pytest.raises(DataError, match="--columns question=KEY"):
        Inspect(name=str(tmp_path / "q.csv")).run()
    flags = {"columns": "question=Frage,answers=Antwort", "answer_separator": "/"}
    Inspect(name=str(tmp_path / "q.csv"), json=True, **flags).run()
    record = json.loads(capsys.readouterr().out)
    assert record["tasks"][0]["golden_answers"] == ["Ulm", "Bonn"]
    with pytest.raises(ValueError, match="columns must be NAME=KEY"):
        Inspect(name=str(tmp_path / "q.csv"), columns="question").run()


def test_a_benchmark_whose_evidence_is_not_in_the_corpus_is_warned_about(tmp_path, capsys):
    write(tmp_path / "wiki.jsonl", [{"id": "x", "title": "Other", "text": "Nothing."}])
    Prepare(
        names=("hotpotqa",),
        source=("flashrag", str(CASES / "flashrag_ok")),
        corpus=str(tmp_path / "wiki.jsonl"),
    ).run()
    assert "2 of 2 pieces of evidence are not in the corpus" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        (
            "c.jsonl",
            '{"id": "1", "text": "Ulm."}\n{"id": "2", "text": "Bern."}\n',
            ["Ulm.", "Bern."],
        ),
        ("c.tsv", "1\tUlm is a city of the land.\tUlm\n", ["Ulm is a city of the land."]),
        ("c.json", '[{"page_content": "Ulm.", "metadata": {"source": "a"}}]', ["Ulm."]),
        ("c.md", "# Ulm\n\nA city.", ["# Ulm"]),
        ("notes/a.txt", "A city.", ["A city."]),
        ("set/corpus.jsonl", '{"title": "Ulm", "text": "A city."}', ["A city."]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no header")
def test_inspect_says_of_a_corpus_that_it_is_one(tmp_path, capsys, name, content, texts):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    shown = path if path.parent == tmp_path else path.parent
    run("inspect", str(shown))
    said = capsys.readouterr().out
    assert f"a corpus of {len(texts)} documents; it holds no questions" in said
    assert all(text in said for text in texts)
    assert f"data prepare NAME --from QUESTIONS --corpus {shown}" in said
    run("inspect", str(shown), "--json")
    assert json.loads(capsys.readouterr().out)["documents"] == len(texts)


def test_inspect_takes_the_columns_of_a_corpus(tmp_path, capsys):
    path = write(tmp_path / "c.jsonl", [{"nr": 1, "inhalt": "Ulm."}])
    run("inspect", str(path), "--columns", "text=inhalt,id=nr")
    said = capsys.readouterr().out
    assert "text read from: inhalt" in said
    assert f"--corpus {path} --corpus-columns text=inhalt,id=nr" in said


@pytest.mark.parametrize("row", [{"question": "q?", "context": "A text."}, {"nr": 1}])
def test_inspect_takes_no_questions_for_a_corpus(tmp_path, row):
    with pytest.raises(DataError, match=r"q\.jsonl:1: .*(answer|question)"):
        run("inspect", str(write(tmp_path / "q.jsonl", [row])))
