"""Evaluation records: scores read from infos, summaries by hops, the same tasks every time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.training.evaluation import (
    EvalRecord,
    append_records,
    eval_task_indices,
    record_from_json,
    record_to_json,
    summarize,
    to_record,
)
from calibadv_algo.types import Trajectory, Turn

END = {
    "num_searches": 2,
    "answer": "Oslo",
    "em": 1.0,
    "f1": 0.8,
    "cover_em": 1.0,
    "is_format_valid": True,
}


def make_trajectory(
    info: dict[str, Any], hops: int = 2, *, is_terminated: bool = True, **reset_info: Any
) -> Trajectory:
    turn = Turn(action_ids=(1, 2), action_text="x", logprobs=(-1.0, -1.0), reward=0.5, info=info)
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(0,),
        prompt_text="",
        turns=(turn, turn),
        is_terminated=is_terminated,
        is_truncated=not is_terminated,
        reset_info={"hops": hops, **reset_info},
    )


def record(info: dict[str, Any], hops: int = 2, **options: bool) -> EvalRecord:
    return to_record(make_trajectory(info, hops, **options), update=3, split="dev")


def test_a_record_holds_the_facts_of_the_end() -> None:
    found = record(END)
    assert (found.em, found.f1, found.cover_em, found.num_searches) == (1.0, 0.8, 1.0, 2)
    assert (found.reward, found.num_turns, found.num_action_tokens) == (1.0, 2, 4)
    assert (found.hops, found.answer, found.is_format_valid, found.update) == (2, "Oslo", True, 3)


def test_a_record_names_its_cluster() -> None:
    trajectory = make_trajectory(END, cluster="Kenya")
    found = to_record(trajectory, update=3, split="dev")
    assert found.cluster == "Kenya"
    assert record_from_json(record_to_json(found)) == found
    assert record(END).cluster == ""


def test_official_f1_is_kept_beside_f1() -> None:
    info = END | {"answer": "yes they are", "f1": 0.5}
    yes = to_record(make_trajectory(info, golden_answers=("yes",)), update=0, split="dev")
    assert (yes.f1, yes.f1_official) == (0.5, 0.0)
    none = to_record(make_trajectory(info), update=0, split="dev")
    assert (none.f1, none.f1_official) == (0.5, None)
    assert summarize([yes, none])["f1_official"] == 0.0
    assert record_from_json(record_to_json(yes)) == yes


def test_an_episode_cut_off_scores_nothing() -> None:
    found = record({"num_searches": 1, "answer": None}, is_terminated=False)
    assert (found.em, found.f1, found.cover_em) == (0.0, 0.0, 0.0)
    assert found.is_format_valid is False
    assert found.is_truncated


def test_an_environment_without_scores_gives_none(tmp_path: Path) -> None:
    found = record({})
    assert found.f1 is None
    assert found.is_format_valid is None
    assert set(summarize([found])) == {
        "reward",
        "searches",
        "searches_hops_2",
        "turns",
        "truncated",
    }
    append_records(tmp_path / "deep" / "evals.jsonl", [found])
    row = json.loads((tmp_path / "deep" / "evals.jsonl").read_text())
    assert "f1" not in row
    assert row["reward"] == 1.0


def test_the_split_is_the_one_that_eval_stands_for() -> None:
    played = make_trajectory(END, split="dev")
    assert to_record(played, update=0, split="eval").split == "dev"
    assert to_record(played, update=0, split="held-out").split == "held-out"
    assert to_record(make_trajectory(END), update=0, split="eval").split == "eval"


def test_turns_cut_off_and_tokens_counted_elsewhere() -> None:
    played = make_trajectory(END)
    cut = replace(played, turns=(replace(played.turns[0], is_cut=True), played.turns[1]))
    found = to_record(cut, update=0, split="dev", count_tokens=lambda trajectory: None)
    assert (found.num_cut_turns, found.num_action_tokens) == (1, None)
    assert record(END).num_cut_turns == 0


def test_records_come_back_from_json() -> None:
    for info in (END, {}, END | {"answer": "Zürich\n\u2028"}):
        line = record_to_json(record(info))
        assert line.count("\n") == 1
        assert record_from_json(line) == record(info)
    for line, message in (
        ("[]", "JSON object"),
        ("{", "property name"),
        ('{"split": "a"}', "evaluation record"),
    ):
        with pytest.raises(ValueError, match=message):
            record_from_json(line)


def test_summaries_are_means_over_all_and_by_hops() -> None:
    wrong = END | {"f1": 0.0, "em": 0.0, "is_format_valid": False, "num_searches": 0}
    summary = summarize([record(END, 1), record(wrong, 1), record(END, 3), record(wrong, 0)])
    assert summary["f1"] == pytest.approx(0.4)
    assert summary["em"] == 0.5
    assert summary["format_valid"] == 0.5
    assert summary["searches"] == 1.0
    assert summary["f1_hops_1"] == pytest.approx(0.4)
    assert summary["f1_hops_3"] == pytest.approx(0.8)
    assert "f1_hops_0" not in summary
    with pytest.raises(ValueError, match="records must not be empty"):
        summarize([])


def test_the_tasks_are_the_same_every_time_and_nested() -> None:
    first = eval_task_indices(100, 10)
    assert first == eval_task_indices(100, 10)
    assert eval_task_indices(100, 20)[:10] == first
    assert first != list(range(10))
    assert sorted(eval_task_indices(5, 10)) == [0, 1, 2, 3, 4]


def test_records_are_appended(tmp_path: Path) -> None:
    file = tmp_path / "evals.jsonl"
    append_records(file, [record(END)])
    append_records(file, [record(END), record(END)])
    assert len(file.read_text().splitlines()) == 3
