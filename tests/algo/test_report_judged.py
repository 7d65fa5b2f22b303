"""One interval a difference, controls in words, and what was asked: the report of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv_algo.experiments.design import Design, plan_record
from calibadv_algo.report.reading import read_comparison
from calibadv_algo.report.result import result_sentences
from calibadv_algo.report.summary import Summary, summarise
from calibadv_algo.report.tables import format_interval, main_table
from calibadv_algo.report.verdict_tables import (
    all_tables,
    asked_table,
    controls_sentences,
    verdict_table,
)


def _with_design(directory: Path, design: Design) -> Summary:
    path = directory / "comparison.json"
    header = json.loads(path.read_text())
    header["plan"] = plan_record(design, header["arms"], header["seeds"], {})
    path.write_text(json.dumps(header))
    return summarise(read_comparison(directory), num_resamples=200)


def test_a_judged_difference_has_one_interval_on_the_whole_page(comparison_dir: Path) -> None:
    summary = _with_design(comparison_dir, Design(split="dev"))
    judged = verdict_table(summary).rows[0][1]
    table = main_table(summary, summary.splits[0])
    (row,) = [row for row in table.rows if row[0] == "calibadv − grpo"]
    assert row[table.header.index("F1")] == judged
    assert "[" in judged
    assert "have the interval of their verdict in its column: 95 %" in table.note
    assert judged.split()[0].replace("+", "") in result_sentences(summary)[1]
    low = judged.split("[")[1].split(",")[0]
    assert low in result_sentences(summary)[1]
    (found,) = [row for row in summary.splits[0].rows if row.kind == "difference"]
    assert format_interval(found.scores["f1"], signed=True) == judged


def test_a_look_names_the_level_of_its_intervals(comparison_dir: Path) -> None:
    design = Design(split="dev", until_decided=True, block=2, most_seeds=4)
    summary = _with_design(comparison_dir, design)
    note = main_table(summary, summary.splits[0]).note
    level = next(iter(summary.judgement.verdicts.values())).level
    assert level < 0.01
    assert f"{100 * (1 - level):.4g} %" in note


@pytest.mark.parametrize(
    ("expected", "outcome", "words"),
    [("same", "passed", "passed, 1 of 1 controls"), ("lower", "failed", "pass, 0 of 1 controls")],
)
def test_controls_say_what_they_must_show_and_showed(
    comparison_dir: Path, expected: str, outcome: str, words: str
) -> None:
    control = f"calibadv - grpo = {expected}"
    summary = _with_design(
        comparison_dir, Design(split="dev", contrasts=("grpo - calibadv",), controls=(control,))
    )
    (sentence,) = controls_sentences(summary)
    (result,) = summary.judgement.controls.values()
    must = {"same": "must not differ", "lower": "must lose"}[expected]
    assert f"calibadv − grpo {must}: " in sentence
    assert f"{result.verdict.word}, {outcome}" in sentence
    assert words in sentence


def test_what_was_asked_stands_in_the_report(comparison_dir: Path) -> None:
    assert asked_table(summarise(read_comparison(comparison_dir), num_resamples=20)) is None
    for path in comparison_dir.glob("runs/grpo-*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["groups_with_signal_share"] = 0.2 if line["update"] <= 2 else 0.6
            line["question_share_hard"] = 0.5 if line["update"] > 6 else 0.0
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = summarise(read_comparison(comparison_dir), num_resamples=20)
    table = all_tables(summary)[-1]
    assert table.header[-1] == "hard pool: at first → at last"
    assert table.rows == (
        ("grpo", "0.50", "0.20 → 0.60", "0.00 → 0.50"),
        ("calibadv", "–", "–", "–"),
    )
