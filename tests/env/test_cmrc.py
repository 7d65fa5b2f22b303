"""F1 of CMRC 2018, against the published definition done slowly."""

import random

import pytest

from calibadv_env.protocol.cmrc import cmrc_f1, has_han, longest_run, segments


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("《战国无双3》", ["战", "国", "无", "双", "3"]),
        ("光荣和ω-force", ["光", "荣", "和", "ωforce"]),
        ("1,000 年，3.5 %", ["1,000", "年", "3.5", "%"]),
        ("Windows 95系统。", ["windows", "95", "系", "统"]),
        ("……", ["…", "…"]),  # the script lists the pair, and looks at single signs
        ("  ", []),
    ],
)
def test_characters_and_words_are_segments_and_listed_marks_are_not(text, wanted):
    assert segments(text) == wanted


@pytest.mark.parametrize(
    ("given", "golden", "run", "lengths"),
    [
        ("北京市", "北京", 2, 5),  # 2 of 3 and 2 of 2: 0.8
        ("北市京", "北京", 1, 5),  # a bag of characters would give 0.8 here too
        ("南部岛屿", "澳大利亚南部岛屿", 4, 12),
        ("2009年8月27日", "2009年", 2, 8),
        ("大象", "老虎", 0, 4),
    ],
)
def test_f1_is_that_of_the_longest_run(given, golden, run, lengths):
    assert longest_run(segments(given), segments(golden)) == run
    assert cmrc_f1(given, [golden]) == pytest.approx(2 * run / lengths)


def test_precision_and_recall_give_the_same_number():
    given, golden = "该游戏由光荣公司开发", "光荣公司"
    precision, recall = 4 / 10, 4 / 4
    wanted = 2 * precision * recall / (precision + recall)
    assert cmrc_f1(given, ["老虎", golden]) == pytest.approx(wanted)


def slow_run(first, second):
    best = 0
    for start in range(len(first)):
        for end in range(start + 1, len(first) + 1):
            piece = first[start:end]
            if any(second[i : i + len(piece)] == piece for i in range(len(second))):
                best = max(best, len(piece))
    return best


def test_the_longest_run_is_found_wherever_it_stands():
    rng = random.Random(5)
    for _ in range(300):
        first, second = ([rng.choice("京市北") for _ in range(rng.randrange(9))] for _ in "ab")
        assert longest_run(first, second) == slow_run(first, second)


def test_what_is_no_answer_scores_nothing():
    assert cmrc_f1("", ["北京"]) == cmrc_f1("北京", []) == cmrc_f1("。", ["。"]) == 0
    assert has_han("在 Oslo")
    assert not has_han("Oslo ひらがな")
