"""Run files of BrowseComp-Plus and TREC runs, as their evaluations read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.cli.run_files import run_record, write_run_files
from calibadv_algo.types import Trajectory, Turn


def turn(**info: object) -> Turn:
    return Turn(action_text="", action_ids=(1,), logprobs=(0.0,), info=info)


def episode(task_id: str, *turns: Turn) -> Trajectory:
    return Trajectory(
        group_id=task_id, task_id=task_id, prompt_ids=(1,), prompt_text="", turns=turns
    )


def test_documents_stand_once_in_the_order_in_which_they_were_shown(tmp_path: Path) -> None:
    one = episode(
        "7",
        turn(action="search", query="a", calls=("search",), passage_ids=("d2#1", "d1", "d2#3")),
        turn(action="open", query=None, calls=("open", "find"), passage_ids=("d3#1",)),
        turn(action="answer", query=None, calls=(), passage_ids=(), answer="Ada"),
    )
    two = episode("q 8", turn(action="malformed", query=None, stop_reason="malformed"))
    record = run_record(one)
    assert record["tool_call_counts"] == {"search": 1, "open": 1, "find": 1}
    assert record["retrieved_docids"] == ["d2", "d1", "d3"]
    assert record["status"] == "completed"
    assert record["result"] == [{"type": "output_text", "output": "Ada"}]
    paths = write_run_files(tmp_path, [one, two], "my policy")
    assert [path.name for path in paths] == ["run_7.json", "run_q_8.json", "run.trec"]
    assert json.loads(paths[0].read_text()) == record
    assert json.loads(paths[1].read_text())["status"] == "malformed"
    rows = [line.split() for line in paths[2].read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("7", "Q0", "d2", "1", "my_policy"),
        ("7", "Q0", "d1", "2", "my_policy"),
        ("7", "Q0", "d3", "3", "my_policy"),
    ]
    assert float(rows[0][4]) > float(rows[1][4]) > float(rows[2][4])
    with pytest.raises(ValueError, match=r"share run_7\.json"):
        write_run_files(tmp_path, [one, one], "x")


def test_eval_writes_them(tmp_path: Path) -> None:
    flags = ["--env.dataset", "toy", "--episodes", "3", "--env.split", "dev"]
    assert main(["eval", "atlas-tiny", *flags, "--run-files", str(tmp_path / "runs")]) == 0
    files = sorted((tmp_path / "runs").glob("run_*.json"))
    assert len(files) == 3
    records = [json.loads(file.read_text()) for file in files]
    documents = [each for record in records for each in record["retrieved_docids"]]
    assert len((tmp_path / "runs" / "run.trec").read_text().splitlines()) == len(documents) > 0
