"""Question sets as their authors publish them, and the evidence that they name."""

import gzip
import json
import shutil
import warnings
from pathlib import Path

import pytest

from calibadv_env.data import registry
from calibadv_env.data.evidence import gold_queries
from calibadv_env.data.preparing.prepare import prepare
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.data.sources.benchmarks import find_benchmark
from calibadv_env.data.sources.flashrag import FlashragFolder
from calibadv_env.errors import DataError

CASES = Path(__file__).parents[1] / "data" / "qa"
CORPUS = CASES / "corpus.jsonl"
QUESTION = "Which river flows through the home town of Ada Lorn?"
LIST = ("the Quant", "Quant")
ALL = ("the Quant", "Quant", "River Quant")


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    for name in ("_datasets", "_loaders", "_folders", "_unnamed", "_origins"):
        monkeypatch.setattr(registry, name, {})


def load(source, corpus=CORPUS, **options):
    register_dataset("case", source, corpus, overwrite=True, **options)
    dataset = get_dataset("case")
    return dataset, dataset.tasks("test")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("question_answer.jsonl", LIST[:1]),
        ("question_answers.jsonl", LIST),
        ("question_answer_list.jsonl", LIST),
        ("Question_capital.jsonl", LIST[:1]),
        ("kilt.jsonl", LIST[:1]),
        ("id_int.jsonl", LIST[:1]),
        ("no_id.jsonl", LIST[:1]),
        ("list.json", LIST[:1]),
        ("squad_original.json", LIST[:1]),
        ("squad_hf.jsonl", LIST[:1]),
        ("triviaqa_hf.jsonl", ALL),
        ("popqa.tsv", LIST),
        ("frames.tsv", LIST[:1]),
        ("bamboogle.csv", LIST[:1]),
        ("simpleqa.csv", LIST[:1]),
        ("python_list.csv", LIST),
        ("searchr1_pandas.csv", LIST),
        ("json_list_answer.csv", LIST),
        ("json_list_answers.csv", LIST),
        ("answers_number.jsonl", ("1812",)),
        ("answers_pipe_in_text.csv", ("the Quant|Quant",)),
        ("hotpot_original.json", LIST[:1]),
        ("musique_original.jsonl", ALL),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.filterwarnings("ignore:.*answers hold")
def test_questions_and_all_their_answers_are_read(tmp_path, name, answers, is_packed):
    path = CASES / name
    if is_packed:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((CASES / name).read_bytes()))
    _, tasks = load(path)
    assert [(task.question, task.golden_answers) for task in tasks] == [(QUESTION, answers)]


def test_true_and_false_are_yes_and_no():
    assert load(CASES / "strategyqa.jsonl")[1][0].golden_answers == ("yes",)


ROW = {
    "data_source": "me/my_qa",
    "prompt": [{"role": "user", "content": f"Answer. Question: {QUESTION}\n"}],
    "reward_model": {"style": "rule", "ground_truth": {"target": ["the Quant"]}},
    "extra_info": {"index": 0, "split": "train"},
}
JOINED = ROW | {
    "reward_model": {"style": "rule", "ground_truth": "the Quant, Quant"},
    "extra_info": {"answer": ["the Quant", "Quant"], "question": QUESTION},
}


@pytest.mark.parametrize(("row", "answers"), [(ROW, LIST[:1]), (JOINED, LIST)])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".jsonl", ".table", ".frame"])
def test_rows_of_verl_are_read_in_every_form(tmp_path, row, answers, suffix):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist([row])
    path = tmp_path / f"verl{suffix}"
    if suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path)
    elif suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    elif suffix == ".feather":
        import pyarrow.feather

        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    elif suffix == ".jsonl":
        path.write_text(json.dumps(row))
    elif suffix == ".table":
        path = table
    else:
        path = pytest.importorskip("pandas").DataFrame([row])
    _, tasks = load(path)
    assert (tasks[0].question, tasks[0].golden_answers) == (QUESTION, answers)


@pytest.mark.parametrize(
    "name",
    [
        "hotpot_original.json",
        "hotpot_original.jsonl",
        "hotpot_hf.json",
        "hotpot_hf.jsonl",
        "2wiki_original.json",
        "musique_original.jsonl",
        "flashrag_ok/hotpotqa/dev.jsonl",
        "flashrag_toplevel_evidence/hotpotqa/dev.jsonl",
        "flashrag_musique_no_support_paragraph/musique/dev.jsonl",
    ],
)
def test_files_that_carry_their_paragraphs_have_them_as_corpus_and_gold_by_hop(name):
    for corpus in (None, "own"):
        dataset, tasks = load(CASES / name, corpus)
        assert len(dataset.corpus()) == 3
        texts = [dataset.corpus().by_id(hop[0]) for hop in tasks[0].gold_passages]
        assert [text.title for text in texts] == ["Ada Lorn", "Quant"]
        assert all(len(hop) == 1 for hop in tasks[0].gold_passages)
        assert texts[0].text == "Ada Lorn is a painter. She was born in Zorbel."
    assert get_dataset(str(CASES / name)).corpus().passages[0].title == "Ada Lorn"


@pytest.mark.parametrize(
    "name",
    [
        "hotpot_original.json",
        "musique_original.jsonl",
        "flashrag_ok/hotpotqa/dev.jsonl",
        "flashrag_ok/musique/dev.jsonl",
        "flashrag_nested_metadata/musique/dev.jsonl",
        "flashrag_toplevel_evidence/hotpotqa/dev.jsonl",
        "flashrag_musique_no_support_paragraph/musique/dev.jsonl",
    ],
)
def test_gold_is_found_in_a_corpus_by_title_and_text_for_any_dataset(name):
    assert load(CASES / name)[1][0].gold_passages == (("p0",), ("p1",))


def test_a_wrong_piece_alone_under_its_title_is_no_gold_and_is_counted():
    with pytest.warns(UserWarning, match="1 of 2 pieces of evidence are not in the corpus"):
        _, tasks = load(
            CASES / "flashrag_ok" / "hotpotqa" / "dev.jsonl", CASES / "corpus_one_wrong_piece.jsonl"
        )
    assert tasks[0].gold_passages == (("p1",),)
    assert tasks[0].hops == 2


def test_triples_of_2wiki_are_gold_queries():
    _, tasks = load(CASES / "2wiki_original.json")
    assert gold_queries(tasks[0]) == (("Ada Lorn place of birth",), ("Zorbel river",))


def test_unanswerable_questions_are_left_out_and_counted():
    with pytest.warns(UserWarning, match="1 unanswerable questions left out"):
        dataset, tasks = load(CASES / "musique_full_unanswerable.jsonl", "own")
    assert len(tasks) == 1
    assert dataset.notes()["unanswerable questions left out"] == "1"


def test_a_git_lfs_pointer_is_named():
    with pytest.raises(DataError, match=r"is a Git LFS pointer.*git lfs pull"):
        load(CASES / "lfs_pointer.jsonl")


def test_a_copy_of_the_hub_keeps_all_answers(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "owner" / "musique"
    folder.mkdir(parents=True)
    shutil.copy(CASES / "musique_full_unanswerable.jsonl", folder / "validation.jsonl")
    dataset = get_dataset(f"hf:{folder}")
    with pytest.warns(UserWarning, match="1 unanswerable"):
        (task,) = dataset.tasks("dev")
    assert task.golden_answers == ALL
    assert [len(hop) for hop in task.gold_passages] == [1, 1]


def test_columns_say_what_guessing_cannot(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"nr": 3, "meta": {"frage": "Wo?", "antworten": "Ulm; Bonn"}}))
    with pytest.raises(DataError, match=r"q\.jsonl:1: .*among the keys nr, meta; --columns"):
        load(path)
    columns = {"question": "meta.frage", "answers": "meta.antworten", "id": "nr"}
    _, tasks = load(path, columns=columns, answer_separator=";")
    assert (tasks[0].id, tasks[0].question) == ("3", "Wo?")
    assert tasks[0].golden_answers == ("Ulm", "Bonn")
    with pytest.raises(ValueError, match=r"columns must map .* got 'frage'"):
        load(path, columns={"frage": "x"})


def test_made_ids_depend_on_the_content_alone(tmp_path):
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(3)]
    _, tasks = load(rows)
    _, again = load([*reversed(rows), rows[0]])
    assert [task.id for task in tasks] == [task.id for task in again][2::-1]
    assert again[3].id == f"{again[2].id}-2"


@pytest.mark.parametrize(
    ("document", "questions"),
    [
        ({"version": 1, "data": [{"question": "q", "answer": "a"}]}, ["q"]),
        ({"question": ["q", "r"], "answer": ["a", "b"]}, ["q", "r"]),
        ({"question": {"0": "q", "1": "r"}, "answer": {"0": "a", "1": "b"}}, ["q", "r"]),
        ({"x1": {"question": "q", "answer": "a"}, "x2": {"question": "r", "answer": "b"}}, "qr"),
        ({"columns": ["question", "answer"], "index": [0], "data": [["q", "a"]]}, ["q"]),
        ({"features": [], "rows": [{"row_idx": 0, "row": {"question": "q", "answer": "a"}}]}, "q"),
        ({"question": "q", "answer": "a"}, ["q"]),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_object_may_hold_the_records_in_several_ways(
    tmp_path, document, questions, indent
):
    path = tmp_path / "q.json"
    path.write_text(json.dumps(document, indent=indent))
    assert [task.question for task in load(path)[1]] == list(questions)


def test_objects_over_several_lines_and_faults_in_lists_have_their_line(tmp_path):
    path = tmp_path / "q.json"
    row = {"question": "q", "answer": "a"}
    path.write_text("\n".join(json.dumps(row | {"id": i}, indent=2) for i in range(3)))
    assert [task.id for task in load(path)[1]] == ["0", "1", "2"]
    path.write_text("[\n" + json.dumps(row) + ",\n" + json.dumps({"question": "r"}) + "\n]")
    with pytest.raises(DataError, match=r"q\.json:3: a row must have an answer"):
        load(path)
    path.write_text("[\n" + json.dumps(row) + ",\n{]\n")
    with pytest.raises(DataError, match=r"q\.json:3: not valid JSON"):
        load(path)
    path.write_text("[\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"q\.json:3: not valid JSON: the list has no end"):
        load(path)


def test_a_folder_says_its_splits_by_words_in_the_names(tmp_path):
    shutil.copy(CASES / "hotpot_original.json", tmp_path / "hotpot_train_v1.1.json")
    shutil.copy(CASES / "hotpot_original.json", tmp_path / "hotpot_dev_distractor_v1.json")
    dataset = get_dataset(str(tmp_path))
    assert dataset.splits == ("train", "dev")
    assert dataset.tasks("dev")[0].gold_passages
    shutil.copy(CASES / "hotpot_original.json", tmp_path / "hotpot_dev_fullwiki_v1.json")
    registry._folders.clear()
    with pytest.raises(DataError, match="the split dev must be one file, got"):
        get_dataset(str(tmp_path))


def test_a_table_without_a_header_is_read_where_its_columns_speak(tmp_path):
    path = tmp_path / "nq-test.qa.csv"
    path.write_text("who got it first\t['Ada Lorn', \"D'Or\"]\nwho then\t['Bo']\n")
    _, tasks = load(path)
    assert [task.golden_answers for task in tasks] == [("Ada Lorn", "D'Or"), ("Bo",)]
    path.write_text("1\twho got it first\n2\twho then\n")
    with pytest.raises(DataError, match=r"csv:1: .*keys 0, 1; --columns"):
        load(path)


def test_beir_is_a_whole_dataset(tmp_path):
    lines = [json.dumps({"_id": f"d{i}", "title": f"T{i}", "text": f"t {i}"}) for i in range(3)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    queries = [{"_id": "q1", "text": "one?", "metadata": {"answer": "x"}}]
    queries += [{"_id": "q2", "text": "two?", "metadata": {}}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td0\t2\nq2\td2\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(qrels)
    dataset = get_dataset(str(tmp_path))
    first, second = dataset.tasks("test")
    assert (first.question, first.golden_answers) == ("one?", ("x",))
    assert first.gold_passages == (("d1",),)
    assert (second.golden_answers, second.gold_passages) == (("T0", "T2"), (("d0", "d2"),))
    assert second.metadata["answers_are"] == "titles of relevant documents"


def test_browsecomp_plus_has_evidence_and_gold_documents(tmp_path):
    def document(number):
        return {"docid": str(number), "text": f"Text number {number}.", "url": "http://x"}

    row = {
        "query_id": "7",
        "query": "Who?",
        "answer": "Ada",
        "evidence_docs": [document(1), document(2)],
        "gold_docs": [document(2)],
        "negative_docs": [document(3)],
    }
    dataset, tasks = load([row], "own")
    assert (tasks[0].id, tasks[0].question) == ("7", "Who?")
    assert tasks[0].gold_passages == (("1",), ("2",))
    assert len(dataset.corpus()) == 3
    secret = {"problem": "Vw+0C4rLm1Hn8PjJ9Zt0x7oA", "answer": "q83vEjRWeJA=", "canary": "c"}
    with pytest.raises(ValueError, match=r"problem is encrypted .*decrypt the file first"):
        load([secret])


def test_pages_of_kilt_frames_and_strategyqa_are_evidence():
    def page(title):
        return [{"title": title, "wikipedia_id": "999"}]

    either = {"input": "q?", "output": [{"answer": "a", "provenance": page("Ada_Lorn")}]}
    either["output"].append({"provenance": page("Quant")})
    assert load([either])[1][0].gold_passages == (("p0", "p1"),)
    both = {"input": "q?", "output": [{"answer": "a", "provenance": page("Quant")}]}
    both["output"][0]["provenance"] += page("Ada Lorn")
    assert load([both])[1][0].gold_passages == (("p1",), ("p0",))
    links = ["https://en.wikipedia.org/wiki/Ada_Lorn", "https://en.wikipedia.org/wiki/Quant#X"]
    frames = {"Prompt": "q?", "Answer": "a", "wiki_links": str(links)}
    assert load([frames])[1][0].gold_passages == (("p0",), ("p1",))
    steps = [[[["Ada Lorn-1", "Quant-3"]], ["no_evidence", "operation"], [["Miral-1"]]]]
    strategy = {"question": "q?", "answer": False, "evidence": steps, "decomposition": ["a", "b"]}
    assert load([strategy])[1][0].gold_passages == (("p0", "p1"), ("p2",))


def test_evidence_that_is_named_and_cannot_be_read_is_counted(tmp_path):
    row = {"question": "q?", "answer": "a", "supporting_facts": [["Quant"], 7]}
    with pytest.warns(UserWarning, match="2 pieces of evidence that cannot be read"):
        load([row])


def test_an_answer_that_is_a_place_in_a_list_of_choices_is_the_choice():
    row = {"question": "q?", "choices": ["a", "b", "c"], "answer": 2}
    assert load([row])[1][0].golden_answers == ("c",)


def test_flashrag_records_stay_what_they_were(tmp_path):
    path = CASES / "flashrag_ok" / "hotpotqa" / "dev.jsonl"
    record = json.loads(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, (task,) = load(path)
    assert (task.id, task.question) == (record["id"], record["question"])
    assert {k: task.metadata[k] for k in record["metadata"]} == record["metadata"]


def test_a_mark_made_for_parting_answers_parts_them():
    row = ROW | {"reward_model": {"ground_truth": "t\u00fcrkiye<|answer_split|>Turkey"}}
    assert load([row])[1][0].golden_answers == ("t\u00fcrkiye", "Turkey")


def test_questions_without_an_answer_are_left_out_and_nothing_else_is_refused():
    rows = [{"question": "q", "golden_answers": answers} for answers in (["a"], [""], [])]
    with pytest.warns(UserWarning, match="2 questions without an answer .* left out"):
        assert len(load(rows)[1]) == 1
    with pytest.raises(ValueError, match=r"\[0\]: a row must have an answer .* 'answer' is blank"):
        load([{"question": "q", "answer": ""}])


def test_a_sentence_number_that_its_paragraph_lacks_is_counted(tmp_path):
    record = json.loads((CASES / "hotpot_original.json").read_text())[0]
    title, _ = record["supporting_facts"][0]
    record["supporting_facts"][0] = [title, 99]
    warned = "1 supporting facts with the number of a sentence that their paragraph does not have"
    with pytest.warns(UserWarning, match=warned):
        dataset, (task,) = load([record], "own")
    assert len(task.gold_passages) == 2
    assert any(warned[2:] in note for note in dataset.notes())
    for number in ("0", 0.0):
        record["supporting_facts"][0] = [title, number]
        _, (task,) = load([record], "own")
        assert task.metadata["evidence"][0]["sentences"]


def test_a_sentence_number_that_a_paragraph_of_flashrag_lacks_is_counted(tmp_path):
    facts = {"title": ["Quant"], "sent_id": [9]}
    context = {"title": ["Quant"], "sentences": [["One.", "Two."]]}
    metadata = {"supporting_facts": facts, "context": context}
    row = {"id": "dev_0", "question": "Wo?", "golden_answers": ["Ulm"], "metadata": metadata}
    folder = tmp_path / "hotpotqa"
    folder.mkdir()
    (folder / "dev.jsonl").write_text(json.dumps(row))
    done = prepare({"HotpotQA": (find_benchmark("hotpotqa"), FlashragFolder(folder))})[0]
    assert any("dev: 1 supporting facts with the number" in warning for warning in done.warnings)
