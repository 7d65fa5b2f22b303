from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.report.reading import (
    ReportError,
    final_scores,
    read_comparison,
    read_evals,
    read_metrics,
    warm_start_scores,
)
from calibadv_algo.report.summary import Row, SplitSummary, Summary, summarise, write_summary
from calibadv_algo.report.tables import (
    Table,
    format_interval,
    hops_table,
    html_table,
    main_table,
    markdown_table,
    rich_table,
    split_tables,
)

Build = Callable[[Path, Any], Path]
TABLE = Table(
    title="A | <b>title</b>",
    header=("Policy", "F1"),
    rows=(("[red]a|b", "0.500 [0.400, 0.600]"), ("<script>", "–")),
    emphasised=frozenset({1}),
    note="A note.",
)


def _edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], list[Any]]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def _rows(split: SplitSummary) -> dict[str, Row]:
    return {row.name: row for row in split.rows}


def _evals(directory: Path, arm: str, seed: int) -> Path:
    return directory / "runs" / f"{arm}-seed{seed}" / "evals.jsonl"


@pytest.fixture
def summary(comparison_dir: Path) -> Summary:
    return summarise(read_comparison(comparison_dir), num_resamples=300)


def test_estimates_are_plain_means_of_the_last_evaluation(
    comparison_dir: Path, summary: Summary
) -> None:
    values = []
    for seed in (0, 1):
        lines = _evals(comparison_dir, "calibadv", seed).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        values += [row["f1"] for row in rows if row["update"] == 8]
    row = _rows(summary.splits[0])["calibadv"]
    assert row.scores["f1"].estimate == pytest.approx(np.mean(values))
    assert row.scores["f1"].low < np.mean(values) < row.scores["f1"].high


def test_rows_come_in_order_with_differences_that_add_up(summary: Summary) -> None:
    rows = _rows(summary.splits[0])
    assert list(rows) == [
        "warm start",
        "grpo",
        "calibadv",
        "grpo − warm start",
        "calibadv − warm start",
        "calibadv − grpo",
    ]
    difference = rows["calibadv − grpo"].scores["f1"].estimate
    levels = rows["calibadv"].scores["f1"].estimate - rows["grpo"].scores["f1"].estimate
    assert difference == pytest.approx(levels)
    chance = rows["calibadv − grpo"].probability_of_improvement
    assert chance is not None
    assert 0.5 < chance.estimate < 1.0


def test_the_same_seed_gives_the_same_summary(comparison_dir: Path) -> None:
    comparison = read_comparison(comparison_dir)
    first, again, other = (
        summarise(comparison, num_resamples=50, bootstrap_seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.splits != other.splits


def test_an_alarm_or_a_fall_makes_a_run_unstable(comparison_dir: Path) -> None:
    metrics = comparison_dir / "runs/grpo-seed0/metrics.jsonl"
    _edit_lines(metrics, lambda lines: [line | {"collapse_alarm": 1} for line in lines])
    _edit_lines(
        _evals(comparison_dir, "calibadv", 1),
        lambda lines: [line | ({"f1": 0.1} if line["update"] == 8 else {}) for line in lines],
    )
    summary = summarise(read_comparison(comparison_dir), num_resamples=20)
    stable = {(run.arm, run.seed): run.is_stable for run in summary.runs}
    assert stable == {
        ("grpo", 0): False,
        ("grpo", 1): True,
        ("calibadv", 0): True,
        ("calibadv", 1): False,
    }
    table = main_table(summary, summary.splits[0])
    assert [row[-1] for row in table.rows] == ["–", "1 of 2", "1 of 2", "–"]


def test_summary_file_is_strict_json_with_everything(comparison_dir: Path) -> None:
    header = comparison_dir / "comparison.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"wall_time_s": None}))
    path = write_summary(comparison_dir)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert path.name == "summary.json"
    assert content["wall_time_s"] is None
    assert content["baseline"] == "grpo"
    assert content["splits"]["dev"]["num_questions"] == 40
    assert set(content["splits"]["dev"]["by_hops"]) == {"1", "2", "3"}
    row = content["splits"]["dev"]["rows"][1]
    assert set(row["scores"]) == {"em", "f1", "cover_em", "num_searches", "is_format_valid"}
    assert row["stability"]["estimate"] == 1.0
    assert [run["arm"] for run in content["runs"]] == ["grpo", "grpo", "calibadv", "calibadv"]


def test_questions_by_hops_are_told_apart(comparison_dir: Path) -> None:
    for arm in ("grpo", "calibadv"):
        for seed in (0, 1):
            _edit_lines(
                _evals(comparison_dir, arm, seed),
                lambda lines: [line | {"f1": line["hops"] / 4} for line in lines],
            )
    split = summarise(read_comparison(comparison_dir), num_resamples=20).splits[0]
    table = hops_table(split)
    assert table.header == ("Policy", "1 hop (n=14)", "2 hops (n=13)", "3 hops (n=13)")
    assert [cell.split()[0] for cell in table.rows[1][1:]] == ["0.250", "0.500", "0.750"]


def test_one_seed_says_what_its_intervals_leave_out(
    tmp_path: Path, build_comparison: Build, comparison_plan: Any
) -> None:
    plan = comparison_plan(arms=("calibadv",), seeds=(3,), num_questions=4, groups_per_update=1)
    build_comparison(tmp_path, plan)
    summary = summarise(read_comparison(tmp_path), num_resamples=20)
    assert summary.baseline == "calibadv"
    assert "do not say how another seed" in main_table(summary, summary.splits[0]).note
    assert list(_rows(summary.splits[0])) == ["warm start", "calibadv", "calibadv − warm start"]


def test_without_update_0_the_recorded_warm_start_stands_in(comparison_dir: Path) -> None:
    for arm in ("grpo", "calibadv"):
        for seed in (0, 1):
            _edit_lines(
                _evals(comparison_dir, arm, seed),
                lambda lines: [line for line in lines if line["update"]],
            )
    comparison = read_comparison(comparison_dir)
    assert warm_start_scores(comparison, "dev") is None
    summary = summarise(comparison, num_resamples=20)
    first = main_table(summary, summary.splits[0]).rows[0]
    assert first[:4] == ("warm start", "–", "0.410", "–")


def test_dev_comes_before_other_splits(comparison_dir: Path) -> None:
    for arm in ("grpo", "calibadv"):
        for seed in (0, 1):
            _edit_lines(
                _evals(comparison_dir, arm, seed),
                lambda lines: lines + [line | {"split": "a-test"} for line in lines],
            )
    summary = summarise(read_comparison(comparison_dir), num_resamples=20)
    titles = [table.title for table in split_tables(summary)]
    assert [title.split(":")[0] for title in titles] == ["dev", "dev", "a-test", "a-test"]


@pytest.mark.parametrize(
    ("interval", "signed", "expected"),
    [
        (Interval(estimate=0.5, low=0.25, high=0.75), False, "0.500 [0.250, 0.750]"),
        (Interval(estimate=-0.5, low=-0.75, high=0.1), True, "−0.500 [−0.750, +0.100]"),
        (Interval(estimate=-0.0001, low=0.0, high=0.0), False, "0.000 [0.000, 0.000]"),
        (Interval(estimate=0.5, low=math.nan, high=math.nan), True, "+0.500"),
        (Interval(estimate=math.nan, low=math.nan, high=math.nan), False, "–"),
        (None, False, "–"),
    ],
)
def test_format_interval(interval: Interval | None, signed: bool, expected: str) -> None:
    assert format_interval(interval, signed=signed) == expected


def test_markdown_escapes_bars() -> None:
    lines = markdown_table(TABLE).splitlines()
    assert lines[2:5] == [
        "| Policy | F1 |",
        "| --- | ---: |",
        "| [red]a\\|b | 0.500 [0.400, 0.600] |",
    ]


def test_html_escapes_and_marks_rows() -> None:
    text = html_table(TABLE)
    assert "<script>" not in text
    assert "<b>" not in text
    assert '<tr class="emphasised"><th scope="row">&lt;script&gt;</th>' in text
    assert '<td>0.500 <span class="interval">[0.400, 0.600]</span></td>' in text


def test_rich_shows_markup_as_text() -> None:
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(rich_table(TABLE))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]a|b" in text
    assert "A note." in text


def _cut(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "comparison.json").unlink(), "is this a comparison directory"),
        (lambda d: (d / "comparison.json").write_text("[1]"), "must be an object, got list"),
        (lambda d: (d / "comparison.json").write_text('{"arms": []}'), "arms must be a list"),
        (lambda d: (d / "runs/grpo-seed1").rename(d / "x"), "grpo-seed1 is missing"),
        (lambda d: _evals(d, "grpo", 0).unlink(), "evals.jsonl is missing"),
        (lambda d: _cut(_evals(d, "grpo", 0)), r"evals\.jsonl:200: not valid JSON"),
        (lambda d: _edit_lines(_evals(d, "grpo", 0), lambda v: [[1], *v]), ":1: must be an object"),
        (
            lambda d: _edit_lines(_evals(d, "grpo", 0), lambda v: [{"update": 1, "f1": 1}, *v]),
            ":1: the evaluation row lacks split, task_id, hops, em",
        ),
        (
            lambda d: _edit_lines(
                _evals(d, "grpo", 0), lambda v: [v[0] | {"f1": math.nan}, *v[1:]]
            ),
            ":1: f1 must be finite",
        ),
        (
            lambda d: _edit_lines(_evals(d, "grpo", 0), lambda v: [*v, v[0] | {"em": 0.25}]),
            ":201: question 'q000' of split 'dev' has two different results at update 0",
        ),
        (
            lambda d: _edit_lines(
                d / "runs/grpo-seed0/metrics.jsonl", lambda v: [*v, {"reward_mean": 1}]
            ),
            "metrics.jsonl:9: update must be an integer, got None",
        ),
    ],
)
def test_a_damaged_directory_is_an_error_that_says_where(
    comparison_dir: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(comparison_dir)
    with pytest.raises(ReportError, match=message):
        read_comparison(comparison_dir)


def test_runs_must_have_answered_the_same_questions(comparison_dir: Path) -> None:
    _edit_lines(_evals(comparison_dir, "calibadv", 1), lambda lines: lines[:-1])
    with pytest.raises(ReportError, match=r"calibadv-seed1 and .* 1 are in one only.*'q039'"):
        final_scores(read_comparison(comparison_dir), "dev")


def test_lines_that_a_resumed_run_wrote_again_count_once(comparison_dir: Path) -> None:
    evals = _evals(comparison_dir, "grpo", 0)
    before = read_evals(evals)
    _edit_lines(evals, lambda lines: lines + lines[-3:])
    assert read_evals(evals) == before
    metrics = comparison_dir / "runs/grpo-seed0/metrics.jsonl"
    _edit_lines(metrics, lambda lines: [*lines, lines[3] | {"tokens_per_second": 7.0}])
    lines = read_metrics(metrics)
    assert [line["update"] for line in lines] == list(range(1, 9))
    assert lines[3]["tokens_per_second"] == 7.0
