"""Normal forms of answers: what counts as equal, under which name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.data.preparing.audit import measure_coverage
from calibadv_env.env import DeepSearchEnv
from calibadv_env.protocol.answers import (
    character_f1,
    contains_answer,
    contains_words,
    covers_words,
    grade_answer,
    official_f1,
    searchable_answers,
)
from calibadv_env.protocol.normalizing import fold, needs_unicode, normalize_answer, unicode_form
from calibadv_env.retrieval import Corpus, Passage


def nfd(text):
    return unicodedata.normalize("NFD", text)


EQUAL = [
    ("1990–1995", "1990-1995"),
    ("1990—1995", "1990-1995"),
    ("O’Hare", "O'Hare"),
    ("Oʼhare", "O'Hare"),
    ("“Dune”", "Dune"),
    ("„Dune“", "«Dune»"),
    (nfd("Beyoncé"), "Beyoncé"),
    (nfd("서울"), "서울"),
    ("ＡＢＢＡ", "ABBA"),
    ("１９９０", "1990"),
    ("२०१०", "2010"),
    ("Istanbul", "İstanbul"),
    ("STRASSE", "Straße"),
    ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
    ("Paris\u200b", "Paris"),
    ("\ufeffPa\u00adris", "Paris"),
    ("μ", "µ"),
    ("ﬁre", "fire"),
    ("Kleenex™", "Kleenex"),
    ("−5", "-5"),
    ("€100", "100"),
    ("$100", "100"),
    ("1,000,000", "1000000"),
    ("The Beatles", "Beatles"),
    ("U.S.", "US"),
    ("北京。", "北京"),
    ("「北京」", "北京"),
    ("カラオケ", "ｶﾗｵｹ"),
    ("ジョン・レノン", "ジョンレノン"),
    ("हिन्दी।", "हिन्दी"),
]
DIFFERENT = [
    ("3.5", "35"),
    ("3,5", "35"),
    ("-5", "5"),
    (".5", "5"),
    ("C++", "C"),
    ("C#", "C"),
    ("C#", "C++"),
    ("A+", "A"),
    ("9/11", "911"),
    ("10:30", "1030"),
    ("18+", "18"),
    ("Vitamin A", "Vitamin"),
    ("nothing", "no"),
    ("2010", "10"),
    ("Beyonce", "Beyoncé"),
    ("北京", "南京"),
    ("हिन्दी", "हिन्द"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_unicode_takes_spellings_of_one_text_for_one(one, other):
    for answer, golden in ((one, other), (other, one)):
        scores = grade_answer(answer, [golden], "unicode")
        assert (scores.em, scores.f1, scores.cover_em) == (1, 1, 1)
        assert contains_answer(
            [("", f"({answer}), it is.")], searchable_answers([golden], "unicode")
        )


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_unicode_keeps_apart_what_means_something_else(one, other):
    for answer, golden in ((one, other), (other, one)):
        scores = grade_answer(answer, [golden], "unicode")
        assert scores.em == 0
        assert scores.f1 < 1
    if one.isascii() and other not in one.split():
        assert grade_answer(one, [other], "unicode").cover_em == 0
        assert not contains_words(one, other, "unicode")


def test_squad_stays_to_the_letter():
    for answer, golden in (("3.5", "35"), ("-5", "5"), ("C++", "C"), ("Vitamin A", "vitamin")):
        assert grade_answer(answer, [golden]).em == 1
    for answer, golden in EQUAL[:3]:
        assert grade_answer(answer, [golden]).em == 0
    assert grade_answer("nothing", ["no"]).cover_em == 1
    assert normalize_answer("The  O'Hare, airport!") == "ohare airport"


@pytest.mark.parametrize("normalizer", ["squad", "unicode", "auto"])
@pytest.mark.parametrize("golden", ["A", "An", "The The", "the", "???", "...", "!!!"])
def test_answers_that_normalisation_deletes_are_right_when_given_and_wrong_when_not(
    golden, normalizer
):
    right = grade_answer(f" {golden.upper()} ", [golden], normalizer)
    assert (right.em, right.f1, right.cover_em) == (1, 1, 1)
    assert official_f1(golden, [golden], normalizer) == 1
    assert covers_words(golden, [golden], normalizer)
    others = {"A", "An", "The The", "the", "???", "...", "B", "a dog", "the answer is", ","}
    for wrong in others - {golden}:
        scores = grade_answer(wrong, [golden], normalizer)
        assert (scores.em, scores.f1, scores.cover_em) == (0, 0, 0), wrong
        assert not covers_words(wrong, [golden], normalizer)
        assert official_f1(wrong, [golden], normalizer) == 0
        assert grade_answer(golden, [wrong], normalizer).em == 0
    assert searchable_answers([golden], normalizer) == ()


@given(text=st.text(max_size=40), other=st.text(max_size=40))
def test_forms_are_stable_and_equal_spellings_stay_equal(text, other):
    assert unicode_form(nfd(text)) == unicode_form(text)
    assert unicode_form(unicodedata.normalize("NFC", text)) == unicode_form(text)
    assert fold(fold(text)) == fold(text)
    for normalizer in ("squad", "unicode", "auto"):
        scores = grade_answer(text, [other], normalizer)
        assert scores.em <= scores.f1 <= 1
        assert scores.em <= scores.cover_em
        if text.strip():
            assert grade_answer(text, [text], normalizer).em == 1


def test_auto_chooses_by_the_script_of_each_accepted_answer():
    assert [needs_unicode(text) for text in ("Oslo", "Αθήνα", "Beyoncé", "Москва")] == [False] * 4
    assert all(map(needs_unicode, ("北京", "東京タワー", "กรุงเทพ", "हिन्दी", "서울")))
    assert grade_answer("3.5", ["35"], "auto").em == 1
    assert grade_answer("北京。", ["Beijing", "北京"], "auto").em == 1
    wanted = searchable_answers(["Beijing", "北京"], "auto")
    assert contains_answer([("", "故宫位于北京市中心")], wanted)
    assert contains_answer([("", "It is in beijing!")], wanted)
    assert not contains_answer([("", "Beijingers")], wanted)


def test_f1_counts_characters_where_no_spaces_stand():
    assert grade_answer("北京市", ["北京"], "auto").f1 == pytest.approx(0.8)
    assert grade_answer("北京市", ["北京"]).f1 == 0
    assert character_f1("北京市", ["北京"]) == pytest.approx(0.8)
    assert character_f1("서울은", ["서울"]) == pytest.approx(0.8)
    assert character_f1("abc", ["abd"]) == pytest.approx(2 / 3)
    assert character_f1("", ["a"]) == character_f1("x", []) == 0


ZH = Corpus(
    [
        Passage("1", "长城", "长城是中国古代的防御工程"),
        Passage("2", "故宫", "故宫位于北京市中心"),
        Passage("3", "हिन्दी", "हिन्दी भारत की भाषा है।"),
    ]
)
TASKS = [
    QATask(id="a", question="故宫位于哪个城市", golden_answers=("北京",)),
    QATask(id="b", question="长城是什么", golden_answers=("防御工程",)),
    QATask(id="c", question="हिन्दी कहाँ?", golden_answers=("भारत",)),
]


def test_the_audit_finds_answers_in_any_script():
    assert measure_coverage(TASKS, ZH, None).answer_in_corpus == 1
    assert measure_coverage(TASKS, ZH, None, normalizer="squad").answer_in_corpus == 1 / 3


def test_environments_grade_by_the_form_of_their_version():
    calibadv_env.register_dataset("zh", TASKS, corpus=ZH, overwrite=True)
    for normalizer, expected in (("auto", 1), ("squad", 0)):
        env = DeepSearchEnv(dataset="zh", normalizer=normalizer, format_gate=False, split="test")
        _, info = env.reset(options={"task_id": "a"})
        assert info["normalizer"] == normalizer
        *_, info = env.step("<think>x</think><search>故宫</search>")
        _, reward, *_, info = env.step("<think>x</think><answer>北京。</answer>")
        assert reward == info["em"] == expected
    import gymnasium

    for version, name in enumerate(("squad", "auto")):
        assert gymnasium.spec(f"DeepSearch-Zh-v{version}").kwargs.get("normalizer", "auto") == name
    with pytest.raises(ValueError, match="normalizer must be"):
        DeepSearchEnv(dataset="zh", normalizer="nfc")
