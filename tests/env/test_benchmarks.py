import gzip
import json
import pickle
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from calibadv_env.data import prepared, registry
from calibadv_env.data.names import data_root
from calibadv_env.data.prepared import open_corpus
from calibadv_env.data.preparing.prepare import prepare
from calibadv_env.data.registry import env_id_of, get_dataset
from calibadv_env.data.sources import benchmarks
from calibadv_env.data.sources.benchmarks import SEVEN, find_benchmark, size_warnings
from calibadv_env.data.sources.flashrag import FlashragFolder
from calibadv_env.errors import DataError
from calibadv_env.retrieval import MemoryRetriever

PASSAGES = [
    {"id": "p1", "contents": '"Nile"\nThe Nile is in Egypt.'},
    {"id": "p2", "contents": '"Cairo"\nCairo is the capital of Egypt.'},
]
IDS = [
    "DeepSearch-NQ-v1",
    "DeepSearch-TriviaQA-v1",
    "DeepSearch-PopQA-v1",
    "DeepSearch-HotpotQA-v1",
    "DeepSearch-2WikiMultihopQA-v1",
    "DeepSearch-MuSiQue-v1",
    "DeepSearch-Bamboogle-v1",
]
SEARCH = "<think>t</think><search>capital of Egypt</search>"
ANSWER = "<think>t</think><answer>Cairo</answer>"


def record(split, index):
    return {
        "id": f"{split}_{index}",
        "question": f"What is the capital of the country of the Nile, {split} {index}?",
        "golden_answers": ["Cairo"],
        "metadata": {
            "supporting_facts": {"title": ["Nile", "Cairo"], "sent_id": [0, 0]},
            "context": {"title": [], "sentences": []},
        },
    }


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CALIBADV_CORPUS", raising=False)
    monkeypatch.setattr(registry, "_datasets", {})
    monkeypatch.setattr(prepared, "_corpora", {})
    monkeypatch.setattr(benchmarks, "_retrievers", {})
    return tmp_path / "data"


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "wiki.jsonl", PASSAGES)


def prepare_all(tmp_path, corpus):
    sources = {}
    for benchmark in SEVEN.values():
        folder = tmp_path / "FlashRAG" / benchmark.folder_name
        for split in benchmark.sizes:
            write(folder / f"{split}.jsonl", [record(split, i) for i in range(3)])
        sources[benchmark.name] = (benchmark, FlashragFolder(folder))
    return prepare(sources, corpus)


def test_the_published_sizes_are_those_of_flashrag():
    assert {name: dict(b.sizes) for name, b in SEVEN.items()} == {
        "NQ": {"train": 79168, "dev": 8757, "test": 3610},
        "TriviaQA": {"train": 78785, "dev": 8837, "test": 11313},
        "PopQA": {"test": 14267},
        "HotpotQA": {"train": 90447, "dev": 7405},
        "2WikiMultihopQA": {"train": 15000, "dev": 12576},
        "MuSiQue": {"train": 19938, "dev": 2417},
        "Bamboogle": {"test": 125},
    }


def test_evaluation_is_on_test_else_dev():
    assert {name: b.eval_split for name, b in SEVEN.items()} == {
        "NQ": "test",
        "TriviaQA": "test",
        "PopQA": "test",
        "HotpotQA": "dev",
        "2WikiMultihopQA": "dev",
        "MuSiQue": "dev",
        "Bamboogle": "test",
    }
    for name, benchmark in SEVEN.items():
        assert get_dataset(name).eval_split == benchmark.eval_split


def test_all_seven_ids_are_registered():
    assert [env_id_of(name) for name in SEVEN] == IDS
    for env_id, name in zip(IDS, SEVEN, strict=True):
        assert gymnasium.spec(env_id).kwargs == {"dataset": name}


def test_names_are_found_in_any_case():
    assert find_benchmark("2wikimultihopqa") is SEVEN["2WikiMultihopQA"]
    assert get_dataset("hotpotqa") is get_dataset("HotpotQA")
    with pytest.raises(ValueError, match=r"benchmark must be one of NQ, .*; got 'squad'"):
        find_benchmark("squad")


@pytest.mark.parametrize("env_id", IDS)
def test_prepared_benchmarks_are_sound_environments(env_id, tmp_path, corpus):
    prepare_all(tmp_path, corpus)
    env = gymnasium.make(env_id, split="eval", top_k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    _, info = env.reset(seed=0)
    assert info["split"] == get_dataset(env.spec.kwargs["dataset"]).eval_split
    assert (info["num_tasks"], info["hops"], info["has_gold"]) == (3, 2, True)
    *_, step = env.step(SEARCH)
    assert step["passage_ids"] == ("p2",)
    assert step["gold_new"] == ("p2",)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step(ANSWER)[1] == env.step(ANSWER)[1] == 1.0


def test_the_vector_environment_reports_the_split_too(tmp_path, corpus):
    prepare_all(tmp_path, corpus)
    envs = gymnasium.make_vec(
        IDS[3], num_envs=2, vectorization_mode="vector_entry_point", split="eval"
    )
    _, infos = envs.reset(seed=0)
    assert infos["split"].tolist() == ["dev", "dev"]


def test_eval_is_resolved_for_every_dataset():
    assert get_dataset("toy").tasks("eval").split == "test"
    assert get_dataset("toy").tasks("eval") is get_dataset("toy").tasks("test")


def test_seven_benchmarks_share_one_corpus_and_one_index(tmp_path, corpus):
    prepare_all(tmp_path, corpus)
    datasets = [get_dataset(name) for name in SEVEN]
    assert len({id(dataset.corpus()) for dataset in datasets}) == 1
    assert len({id(dataset.retriever("bm25")) for dataset in datasets}) == 1
    assert datasets[0].retriever("memory") is not datasets[0].retriever("bm25")


def test_flashrags_own_files_will_do_without_preparation(root, corpus, monkeypatch):
    (root / "nq").mkdir(parents=True)
    lines = "".join(json.dumps(record("test", i)) + "\n" for i in range(2))
    (root / "nq" / "test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    monkeypatch.setenv("CALIBADV_CORPUS", str(corpus))
    tasks = get_dataset("nq").tasks("eval")
    assert [task.id for task in tasks] == ["test_0", "test_1"]
    assert tasks[0].gold_passages == ()
    assert [piece["title"] for piece in tasks[0].metadata["evidence"]] == ["Nile", "Cairo"]
    assert len(get_dataset("nq").corpus()) == 2


def test_missing_tasks_say_what_to_download_and_where_to_put_it(root):
    with pytest.raises(DataError) as caught:
        get_dataset("hotpotqa").tasks("eval")
    text = str(caught.value)
    assert f"{root}/hotpotqa: there is no dev.jsonl of HotpotQA here" in text
    assert "RUC-NLPIR/FlashRAG_datasets/resolve/main/hotpotqa/" in text
    assert "calibadv data prepare hotpotqa --from flashrag FlashRAG_datasets" in text


def test_a_missing_corpus_says_how_to_name_one(root, tmp_path):
    with pytest.raises(DataError, match=r"NQ has no corpus: set CALIBADV_CORPUS .*wiki-18"):
        get_dataset("nq").corpus()
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such corpus"):
        open_corpus(tmp_path / "none.jsonl")


def test_tasks_need_no_corpus_on_this_machine(tmp_path, corpus, monkeypatch):
    prepare_all(tmp_path, corpus)
    retriever = MemoryRetriever(open_corpus(corpus))
    with pytest.raises(ValueError, match="retriever must have a method search, got int"):
        get_dataset("hotpotqa").retriever(3)
    monkeypatch.setattr(registry, "_datasets", {})
    corpus.unlink()
    assert get_dataset("hotpotqa").retriever("http://127.0.0.1:9") is not None
    env = gymnasium.make(IDS[3], retriever=retriever)
    assert env.reset(seed=0)[1]["has_gold"]
    with pytest.raises(DataError, match="there is no such corpus"):
        get_dataset("hotpotqa").corpus()


def test_a_corpus_that_has_moved_will_do_and_one_that_has_changed_will_not(
    tmp_path, corpus, monkeypatch
):
    prepare_all(tmp_path, corpus)
    moved = corpus.rename(tmp_path / "moved.jsonl")
    monkeypatch.setenv("CALIBADV_CORPUS", str(moved))
    assert len(get_dataset("musique").corpus()) == 2
    other = write(tmp_path / "other.jsonl", PASSAGES[:1])
    monkeypatch.setenv("CALIBADV_CORPUS", str(other))
    with pytest.raises(DataError, match=r"gold passages of NQ were found in a corpus with sha256"):
        get_dataset("nq").corpus()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "question": "q"}\n', r"test\.jsonl:1: key 'golden_answers' is missing"),
        (json.dumps(record("test", 0)) + "\nnonsense\n", r"test\.jsonl:2: not valid JSON"),
        ((json.dumps(record("test", 0)) + "\n") * 2, r"test\.jsonl:2: id 'test_0' stands at"),
        ("", r"test\.jsonl: there is no question in it"),
    ],
)
def test_malformed_files_of_flashrag_are_named_with_their_line(root, lines, message):
    (root / "nq").mkdir(parents=True)
    (root / "nq" / "test.jsonl").write_text(lines)
    with pytest.raises(DataError, match=message):
        get_dataset("nq").tasks("test")


def test_prepared_files_that_were_meddled_with_are_refused(root, tmp_path, corpus):
    prepare_all(tmp_path, corpus)
    with (root / "nq" / "test.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "x", "question": "q", "golden_answers": ["a"]}) + "\n")
    with pytest.raises(DataError, match=r"prepared\.json says 3 tasks, the file holds 4"):
        get_dataset("nq").tasks("test")
    (root / "popqa" / "prepared.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"prepared\.json: format must be 1"):
        get_dataset("popqa").tasks("test")
    (root / "popqa" / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared\.json: cannot read the file"):
        get_dataset("popqa").tasks("test")


def test_sizes_that_are_not_the_published_ones_are_named():
    benchmark = SEVEN["HotpotQA"]
    assert size_warnings(benchmark, {"train": 90447, "dev": 7405}) == []
    assert size_warnings(benchmark, {"dev": 7000, "test": 9}) == [
        "HotpotQA train: expected 90447 tasks, found no file",
        "HotpotQA dev: expected 7405 tasks, found 7000",
        "HotpotQA test: expected no such split, found 9 tasks",
    ]


def test_the_data_lie_in_a_folder_of_the_users_unless_it_is_named(monkeypatch, root):
    assert data_root() == root
    monkeypatch.delenv("CALIBADV_DATA")
    assert data_root().name == "calibadv"


def test_a_user_may_take_the_name_of_a_benchmark_in_another_case(monkeypatch, tmp_path):
    before = dict(gymnasium.registry)
    tasks = [{"id": "a", "question": "q", "golden_answers": ["a"]}]
    env_id = registry.register_dataset("nq", tasks, [{"id": "p", "title": "", "text": "t"}])
    assert env_id == "DeepSearch-Nq-v1"
    assert get_dataset("nq").name == "nq"
    assert get_dataset("NQ").name == "NQ"
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_an_index_is_a_corpus_and_brings_its_own_search(tmp_path, corpus):
    build = pytest.importorskip("calibadv_env.retrieval.bm25.build")
    from calibadv_env.retrieval.bm25.index import Bm25Index

    index = tmp_path / "index"
    build.build_bm25_index(corpus, index)
    prepare_all(tmp_path, index)
    dataset = get_dataset("hotpotqa")
    assert isinstance(dataset.retriever("bm25"), Bm25Index)
    assert dataset.corpus().sha256 == open_corpus(corpus).sha256
    assert dataset.tasks("dev")[0].gold_passages == (("p1",), ("p2",))
    env = gymnasium.make(IDS[3], split="eval", top_k=1)
    env.reset(seed=0)
    assert env.step(SEARCH)[4]["passage_ids"] == ("p2",)


def test_an_index_that_points_to_others_has_their_corpus(tmp_path, corpus):
    build = pytest.importorskip("calibadv_env.retrieval.bm25.build")
    from calibadv_env.retrieval.hybrid import write_hybrid

    build.build_bm25_index(corpus, tmp_path / "index")
    write_hybrid([tmp_path / "index"] * 2, tmp_path / "hybrid")
    prepare_all(tmp_path, tmp_path / "hybrid")
    dataset = get_dataset("musique")
    assert len(dataset.corpus()) == 2
    hits = dataset.retriever(str(tmp_path / "hybrid")).search(["capital of Egypt"], 1)
    assert hits[0][0].passage.id == "p2"
    with pytest.raises(DataError, match="there is no index here"):
        open_corpus(tmp_path)
