"""Confidence in answers, calibration error and gold recall: by hand, by a slow loop, in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calibadv_algo.experiments.suite.calibration import calibration_error, calibration_gaps
from calibadv_algo.experiments.suite.result import PartResult, SuiteResult
from calibadv_algo.experiments.suite.scores import score_part
from calibadv_algo.report.suite_table import confidence_table, suite_markdown
from calibadv_algo.training.confidence import answer_probability, answer_scorer, stated_confidence
from calibadv_algo.training.evaluation import (
    EvalRecord,
    record_from_json,
    record_to_json,
    summarize,
    to_record,
)
from calibadv_algo.types import Trajectory, Turn
from tests.algo.test_suite import RECORD


class Pieces:
    """Tokenizer over a fixed list of pieces of text."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raise NotImplementedError

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(self.pieces[index] for index in token_ids)


def episode(
    pieces: Sequence[str], logprobs: Sequence[float], answer: str | None, **info: Any
) -> tuple[Trajectory, Pieces]:
    turn = Turn(
        action_ids=tuple(range(len(pieces))),
        action_text="".join(pieces),
        logprobs=tuple(logprobs),
        info={"answer": answer, **info},
    )
    played = Trajectory(group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=(turn,))
    return played, Pieces(*pieces)


def test_the_tokens_that_hold_the_answer_count_and_no_others() -> None:
    pieces = ("<think>Oslo</think>", "<answer>", " Os", "lo", "</answer>")
    played, tokenizer = episode(pieces, (-9.0, -7.0, -0.5, -0.25, -5.0), "Oslo")
    assert answer_probability(played, tokenizer) == pytest.approx(math.exp(-0.75))
    assert answer_scorer(tokenizer)(played) == answer_probability(played, tokenizer)
    # A token with a piece of a tag counts.
    joined, tokenizer = episode(("<answer", ">Os", "lo</", "answer>"), (-9, -1, -2, -9), "Oslo")
    assert answer_probability(joined, tokenizer) == pytest.approx(math.exp(-3))
    # The word of the closing tag is not taken for the answer.
    pieces = ("<answer>", "answer", "</", "answer", ">")
    word, tokenizer = episode(pieces, (-9, -1, -9, -9, -9), "answer")
    assert answer_probability(word, tokenizer) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("answer", [None, "", "not in the text"])
def test_without_an_answer_there_is_no_probability(answer: str | None) -> None:
    played, tokenizer = episode(("<answer>", "Oslo", "</answer>"), (-1.0, -1.0, -1.0), answer)
    assert answer_probability(played, tokenizer) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<confidence>0.8</confidence><answer>a</answer>", 0.8),
        ("I am sure. Confidence: 85% <answer>a</answer>", 0.85),
        ("**Confidence:** 70 <answer>a</answer>", 0.7),
        ("confidence is 1 <answer>a</answer>", 1.0),
        ("Confidence: 1 % <answer>a</answer>", 0.01),
        ("Confidence: 20% … no, confidence: 90% <answer>a</answer>", 0.9),
        ("Confidence: 250% <answer>a</answer>", None),
        ("overconfidence 90 <answer>a</answer>", None),
        ("Confidence level: 90 <answer>a</answer>", 0.9),
        ("confidence: 8/10 <answer>a</answer>", None),
        ("confidence: 3 of 10 <answer>a</answer>", None),
        ("confidence: 0,9 <answer>a</answer>", None),
        ("confidence (0-100): 90 <answer>a</answer>", None),
        ("I have confidence 2 searches suffice <answer>a</answer>", None),
        ("<think>confidence: 10</think>Confidence: 70 <answer>a</answer>", 0.7),
        ("<think>confidence: 10</think><answer>a</answer>", None),
        ("<answer>a</answer>", None),
    ],
)
def test_a_stated_confidence_is_read(text: str, value: float | None) -> None:
    played, _ = episode((text,), (0.0,), "a")
    assert stated_confidence(played) == value
    unanswered, _ = episode((text,), (0.0,), None)
    assert stated_confidence(unanswered) is None


def test_a_record_has_gold_recall_and_confidence_or_none() -> None:
    pieces = ("Confidence: 60% <answer>", "Oslo", "</answer>")
    played, tokenizer = episode(pieces, (-3.0, -0.5, -1.0), "Oslo", gold_recall=0.5)
    found = to_record(played, update=0, split="dev", score_answer=answer_scorer(tokenizer))
    assert found.gold_recall == 0.5
    assert found.answer_probability == pytest.approx(math.exp(-0.5))
    assert found.stated_confidence == 0.6
    assert record_from_json(record_to_json(found)) == found
    assert summarize([found])["gold_recall"] == 0.5
    none, _ = episode(("<answer>Oslo</answer>",), (0.0,), "Oslo", gold_recall=math.nan)
    empty = to_record(none, update=0, split="dev")
    assert (empty.gold_recall, empty.answer_probability, empty.stated_confidence) == (None,) * 3
    assert "gold_recall" not in record_to_json(empty)
    assert "gold_recall" not in summarize([empty])


def test_the_calibration_error_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        confidences = rng.random((20, 3)).round(1)
        confidences[rng.random((20, 3)) < 0.2] = np.nan
        correct = (rng.random((20, 3)) < 0.5).astype(float)
        flat = [
            (p, y) for p, y in zip(confidences.flat, correct.flat, strict=True) if not np.isnan(p)
        ]
        error = 0.0
        for place in range(10):
            inside = [(p, y) for p, y in flat if min(int(p * 10), 9) == place]
            if inside:
                gap = np.mean([y for _, y in inside]) - np.mean([p for p, _ in inside])
                error += len(inside) / len(flat) * abs(gap)
        sums = calibration_gaps(confidences, correct)
        assert float(calibration_error(sums.sum(axis=0))) == pytest.approx(error)
    assert np.isnan(calibration_error(np.zeros(11)))


def records_of(**columns: Sequence[Any]) -> list[EvalRecord]:
    return [
        replace(RECORD, **dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def test_means_are_over_what_is_known_and_nothing_is_not_zero() -> None:
    records = records_of(
        em=[1.0, 0.0, 0.0, 1.0],
        gold_recall=[1.0, 0.5, None, None],
        answer_probability=[0.95, 0.95, None, 0.85],
    )
    scores = score_part("x", records, 1)
    assert scores.means["gold_recall"].estimate == 0.75  # type: ignore[union-attr]
    assert scores.means["answer_probability"].estimate == pytest.approx(2.75 / 3)  # type: ignore[union-attr]
    # Bins .9 to 1: half right at .95; .8 to .9: right at .85.
    error = scores.means["calibration_error"]
    assert error is not None
    assert error.estimate == pytest.approx((2 * 0.45 + 0.15) / 3)
    assert 0.0 <= error.low <= error.high <= 1.0
    known = {"gold_recall": 2, "answer_probability": 3, "stated_confidence": 0}
    assert scores.num_known == known
    assert scores.means["stated_confidence"] is None
    assert scores.means["stated_calibration_error"] is None
    nothing = score_part("x", records_of(em=[None, None], answer_probability=[0.5, 0.5]), 1)
    assert nothing.means["calibration_error"] is None
    assert nothing.means["gold_recall"] is None


def test_the_interval_of_a_calibrated_policy_is_not_above_its_error() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for place in range(40):
        confidences = rng.random(200)
        em = (rng.random(200) < confidences).astype(float)
        records = records_of(em=list(em), answer_probability=list(confidences))
        error = score_part(f"x{place}", records, 1).means["calibration_error"]
        assert error is not None
        # The plain percentile interval lies above the error itself in most of these.
        covered.append(error.low < 0.02)
        assert error.low <= error.estimate
    assert np.mean(covered) > 0.8


def test_the_table_has_dashes_and_never_a_zero_for_what_is_unknown() -> None:
    def result(records: list[EvalRecord]) -> SuiteResult:
        part = PartResult(
            name="mine",
            split="test",
            split_size=2,
            published_size=None,
            scores=score_part("mine", records, 1),
            retrieval={},
            coverage=None,
        )
        return SuiteResult(model="m", suite="s", parts=(part,), skipped={}, settings={})

    unknown = result(records_of(em=[1.0, 0.0]))
    assert confidence_table(unknown).rows[0] == ("mine", *("–",) * 8)
    known = result(records_of(em=[1.0, 0.0], gold_recall=[1.0, 1.0], answer_probability=[0.9, 0.9]))
    row = confidence_table(known).rows[0]
    assert row[1].startswith("1.000")
    assert row[2] == "2"
    assert row[4].startswith("0.400")
    assert row[6:] == ("–", "–", "–")
    assert "Evidence and confidence" in suite_markdown(known)
    part = known.to_json()["parts"][0]
    assert part["means"]["calibration_error"]["estimate"] == pytest.approx(0.4)
    assert part["means"]["stated_confidence"] is None
    assert part["num_known"]["gold_recall"] == 2
