"""Pages: places, the store, and the form in which its answers are read."""

import pickle

import pytest

from calibadv_env.protocol.pages import (
    Opened,
    Place,
    Shown,
    cut_opened,
    found_within,
    hits_within,
    opened_within,
    parse_place,
    snippet,
)
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.pages import Pages, PageStore

CORPUS = Corpus(
    [
        Passage("norway", "Norway", "A kingdom in the north. It borders [Sweden](sweden)."),
        Passage("norway#area", "Norway: Area", "total: 323,802 sq km; land: 304,282 sq km"),
        Passage("norway#rivers", "Norway: Rivers", "The Glomma is long. The Tana is wide."),
        Passage("sweden", "Sweden", "A kingdom beside [Norway](norway#area) and [Mars](mars)."),
        Passage("report#1", "Report", "One. Two."),
        Passage("report#2", "Report", "Three."),
    ]
)


@pytest.fixture
def store() -> PageStore:
    return PageStore(CORPUS, Bm25Retriever(CORPUS))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (" norway ", Place("norway")),
        ("norway#area", Place("norway", "area")),
        ("norway # area", Place("norway", "area")),
        ("norway#area@120", Place("norway", "area", 120)),
        ("norway@5", Place("norway", "", 5)),
        ("#norway", Place("norway")),
        ("", Place("")),
        ("a@b", Place("a@b")),
    ],
)
def test_places_are_read(text, place):
    assert parse_place(text) == place


def test_sections_are_grouped_into_pages(store):
    assert dict(store.sections) == {
        "norway": ("norway", "norway#area", "norway#rivers"),
        "sweden": ("sweden",),
        "report": ("report#1", "report#2"),
    }
    assert isinstance(store, Pages)


def test_a_page_is_read_from_its_beginning_and_goes_on_where_it_is_cut(store):
    whole, short = (store.open(["norway"], max_chars)[0] for max_chars in (1000, 130))
    assert [each.id for each in whole.sections] == ["norway", "norway#area", "norway#rivers"]
    assert whole.more == ""
    assert [each.id for each in short.sections] == ["norway", "norway#area"]
    assert short.more == "norway#rivers"


def test_a_section_is_opened_alone(store):
    [opened] = store.open(["norway#area"])
    assert ([each.id for each in opened.sections], opened.more) == (["norway#area"], "")
    assert [each.id for each in store.open(["report"])[0].sections] == ["report#1", "report#2"]


def test_a_section_can_be_read_piece_by_piece(store):
    place, read = "norway#area", ""
    while place:
        [opened] = store.open([place], 12)
        read += opened.sections[0].text + " "
        place = opened.more
    assert read.split() == CORPUS.by_id("norway#area").text.split()
    assert store.open(["norway#area@4000"])[0].problem
    assert store.open(["norway@30"])[0].sections[0].targets == ("sweden",)
    assert store.open(["sweden@28"])[0].sections[0].targets == ()


def test_links_to_pages_are_named_and_others_left_as_text(store):
    [opened] = store.open(["sweden"])
    assert opened.sections[0].text == "A kingdom beside Norway and [Mars](mars)."
    assert opened.sections[0].targets == ("norway#area",)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("norwy", "There is no page 'norwy'. Near: norway"),
        ("", "There is no page ''."),
        ("norway#aera", "There is no section 'aera' in norway. Near: norway#area"),
        ("norway#area@999", "norway#area ends before character 999."),
    ],
)
def test_what_is_not_there_is_said(store, place, problem):
    [opened] = store.open([place])
    assert (opened.problem, opened.sections) == (problem, ())


def test_sentences_with_most_words_are_found(store):
    [found] = store.find([("norway", "river Tana")])
    assert found.sentences == (Shown("norway#rivers", "Norway: Rivers", "The Tana is wide."),)
    [found] = store.find([("norway", "rivers")])
    assert found.sentences[0].text == "The Glomma is long. The Tana is wide."
    assert (
        store.find([("norway", "camel")])[0].problem
        == "No sentence of norway has these words: camel"
    )
    assert "no page" in store.find([("mars", "x")])[0].problem


def test_a_batch_is_answered_in_order(store):
    opened = store.open(["sweden", "norway", "sweden"])
    assert [each.page for each in opened] == ["sweden", "norway", "sweden"]
    with pytest.raises(ValueError, match="max_chars must be at least 1, got 0"):
        store.open(["sweden"], 0)


def test_a_store_pickles(store):
    assert pickle.loads(pickle.dumps(store)).open(["norway"]) == store.open(["norway"])


def test_only_the_first_section_is_cut():
    opened = Opened("p", (Shown("p", "P", "aa bb cc"), Shown("p#2", "P", "dd")))
    assert cut_opened(opened, 6) == Opened("p", (Shown("p", "P", "aa bb"),), more="p@5")
    assert cut_opened(opened, 9).more == "p#2"
    assert cut_opened(opened, 100) == opened


def test_links_of_what_was_cut_off_are_not_named():
    shown = Shown("p", "P", "see Oslo and Rome", (("Oslo", "oslo"), ("Rome", "rome")))
    assert shown.cut(10).targets == ("oslo",)


@pytest.mark.parametrize("max_chars", [100, 130, 200, 1000])
@pytest.mark.parametrize("place", ["norway", "norway#area", "norway#rivers", "sweden"])
def test_what_is_opened_keeps_to_its_room(store, place, max_chars):
    [opened] = store.open([place], 1000)
    _, text = opened_within(opened, max_chars)
    assert len(text) <= max_chars


def test_what_is_opened_is_printed_with_links_and_the_place_to_go_on(store):
    _, text = opened_within(store.open(["norway"])[0], 130)
    assert text == (
        "norway (Norway)\nA kingdom in the north. It borders Sweden.\n"
        "Links: sweden\nMore at norway#area"
    )


def test_hits_are_printed_with_snippets():
    hits = [ScoredPassage(Passage("a", "A", "word " * 40 + "goal here"), 1.0)]
    shown, text = hits_within(hits, "goal", 40)
    assert text == f"a (A) {shown[0].text}"
    assert "goal" in text
    assert len(text) <= 40
    assert hits_within([], "goal", 40) == ((), "Nothing found.")
    assert len(hits_within(hits * 9, "goal", 100)[1]) <= 100


def test_a_snippet_begins_before_the_first_word_of_the_query():
    assert snippet("one two three four five six", "five", 14) == "four five six"
    assert snippet("[Oslo](oslo) is here", "x", 50) == "Oslo is here"


def test_found_sentences_keep_to_their_room(store):
    [found] = store.find([("norway", "rivers")])
    assert found_within(found, 30)[1] == "norway#rivers: The Glomma is"
