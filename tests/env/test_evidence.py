"""What the environment tells about the way to an answer."""

import math

import pytest

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import cluster_of, gold_entities, gold_queries, gold_texts
from calibadv_env.data.registry import get_dataset
from calibadv_env.env import DeepSearchEnv
from calibadv_env.protocol.passages import Passage
from calibadv_env.rewards import gold_similarity, tfidf_similarities

CHAIN = [
    {"subject": "Wau", "relation": "country", "object": "South Sudan"},
    {"subject": "South Sudan", "relation": "currency", "object": "pound"},
]
CORPUS = {"a": Passage("a", "Wau", "A city."), "b": Passage("b", "Money", "Pounds.")}


def task(**changes):
    values = {"id": "t", "question": "?", "golden_answers": ("pound",)}
    return QATask(**values | changes)


def test_queries_come_from_keys_then_from_the_chain():
    golds = (("a",), ("b",))
    assert gold_queries(task(gold_passages=golds, metadata={"chain": CHAIN})) == (
        ("Wau country",),
        ("South Sudan currency",),
    )
    keys = {"search_keys": ["x", ["y", "z"]], "chain": CHAIN}
    assert gold_queries(task(gold_passages=golds, metadata=keys)) == (("x",), ("y", "z"))
    assert gold_queries(task()) == ()


def test_entities():
    assert gold_entities(task(metadata={"chain": CHAIN})) == ("South Sudan", "pound")
    assert gold_entities(task(metadata={"entities": ["A", "B", "A"]})) == ("A", "B")
    evidence = {"evidence": [{"title": "T", "sentences": ["s"]}]}
    assert gold_entities(task(metadata=evidence)) == ("T",)
    assert gold_entities(task()) == ()


def test_clusters():
    assert cluster_of(task(metadata={"cluster": "Kenya", "chain": CHAIN})) == "Kenya"
    assert cluster_of(task(metadata={"chain": CHAIN})) == CHAIN[-1]["subject"]
    assert cluster_of(task(golden_answers=("The Pound",))) == "pound"
    assert cluster_of(task(golden_answers=("Yes",))) == task().id


def test_texts():
    assert gold_texts(task(gold_passages=(("a", "b"), ("b",))), CORPUS.__getitem__) == (
        "A city.",
        "Pounds.",
    )
    evidence = {"evidence": [{"title": "T", "sentences": ["s", "u"]}, {"title": "V"}]}
    assert gold_texts(task(metadata=evidence), CORPUS.__getitem__) == ("s u", "V")
    partly = task(gold_passages=((), ("b",)), metadata=evidence)
    assert gold_texts(partly, CORPUS.__getitem__) == ("s u", "Pounds.")
    assert gold_texts(task(), CORPUS.__getitem__) == ()


def test_tfidf_by_hand():
    rare, common = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    expected = common / (math.sqrt(2) * math.hypot(common, rare))
    found = tfidf_similarities("aa BB", ["aa cc", "bb bb!"])
    assert found == pytest.approx((expected, 1 / math.sqrt(2)))
    assert tfidf_similarities("aa bb", ["aa bb", "x", ""]) == pytest.approx((1.0, 0.0, 0.0))
    assert tfidf_similarities("", ["aa"]) == (0.0,)
    assert tfidf_similarities("aa", []) == ()


def test_the_nearest_passage_counts():
    assert gold_similarity(["xx", "aa bb"], ["aa bb", "yy"]) == pytest.approx((1.0, 0.0))
    assert gold_similarity([], ["aa", "bb"]) == (0.0, 0.0)
    assert gold_similarity(["aa"], []) == ()


def test_texts_are_compared_as_answers_are():
    """The reference strips articles and punctuation inside words before it counts them."""
    assert gold_similarity(["The U.S. city's a-b"], ["us citys an ab"]) == pytest.approx((1.0,))
    assert gold_similarity(["the a"], ["aa"]) == (0.0,)


def test_titles_do_not_count_as_evidence():
    env = DeepSearchEnv(dataset="toy", prompt="question", reward="step_search")
    _, info = env.reset(seed=0)
    *_, step = env.step(f"<think>t</think><search>{info['gold_queries'][0][0]}</search>")
    bodies = [text for _, text in step["passages"]]
    data = get_dataset("toy")
    golds = gold_texts(data.tasks(info["split"])[info["task_index"]], data.corpus().by_id)
    assert step["gold_similarity"] == gold_similarity(bodies, golds)


def test_the_environment_reports_similarity_only_when_asked():
    search = "<think>t</think><search>{}</search>"
    plain = DeepSearchEnv(dataset="toy", prompt="question")
    _, info = plain.reset(seed=0)
    assert "gold_similarity" not in plain.step(search.format("x"))[-1]
    env = DeepSearchEnv(dataset="toy", prompt="question", reward="step_search")
    _, info = env.reset(seed=0)
    assert len(info["gold_queries"]) == info["hops"]
    *_, step = env.step(search.format(info["gold_queries"][0][0]))
    assert len(step["gold_similarity"]) == info["hops"]
    assert step["gold_new"]
    assert max(step["gold_similarity"]) == pytest.approx(1.0)
    *_, last = env.step("<think>t</think><answer>{}</answer>".format(info["golden_answers"][0]))
    assert last["gold_similarity"] == (0.0,) * info["hops"]


def test_step_search_pays_f1():
    env = DeepSearchEnv(dataset="toy", reward="step_search", format_gate=False)
    _, info = env.reset(seed=0)
    answer = info["golden_answers"][0] + " indeed"
    reward = env.step(f"<think>t</think><answer>{answer}</answer>")[1]
    words = len(answer.split())
    assert reward == pytest.approx(2 * (words - 1) / (2 * words - 1))
