"""One content in the shapes of many systems: the same passages, groups and counts from each."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.diagnose import Diagnose
from calibadv_algo.cli.env_rules import make_rules
from calibadv_algo.cli.trace import Reading, Trace
from calibadv_algo.traces.files import log_files
from calibadv_algo.types import Group

CASES = Path(__file__).parents[1] / "data" / "traces"
REFERENCE = CASES / "ok_same_content_doc_form.jsonl"
OTHERS = sorted(path for path in CASES.iterdir() if path != REFERENCE)
RULES = make_rules()


def imported(source: Path, **settings: Any) -> list[Group]:
    reading = Reading(**settings)
    return [group for log in reading.logs(source) for group in reading.groups(log, RULES)]


def pattern(group: Group) -> list[list[list[int]]]:
    """Which passages each search of each rollout found, by the order in which they first appear."""
    numbers: dict[str, int] = {}
    return [
        [[numbers.setdefault(name, len(numbers)) for name in turn.info["passage_ids"]]
         for turn in trajectory.turns]
        for trajectory in group.trajectories
    ]  # fmt: skip


def counts_of(source: Path, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    file = tmp_path / "counts.json"
    assert Diagnose(traces=(source,), json=file, **settings).run() == 0
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_the_same_content_in_every_shape(path: Path, tmp_path: Path) -> None:
    (group,), (expected,) = imported(path), imported(REFERENCE)
    assert pattern(group) == pattern(expected) == [[[0, 1], []], [[1, 0], []]]
    for got, own in zip(group.trajectories, expected.trajectories, strict=True):
        assert got.reward == own.reward
        assert got.reset_info["question"] == own.reset_info["question"]
        assert got.reset_info["golden_answers"] == ("Quant",)
        for turn, other in zip(got.turns, own.turns, strict=True):
            for key in ("action", "query", "answer", "answer_in_passages"):
                assert turn.info[key] == other.info[key]
            texts = [text for _, text in turn.info["passages"]]
            assert all(
                text.endswith(whole)
                for text, (_, whole) in zip(texts, other.info["passages"], strict=True)
            )
    found, wanted = counts_of(path, tmp_path), counts_of(REFERENCE, tmp_path)
    for key in ("num_groups", "num_searches", "num_correct", "num_punished", "num_invalid",
                "num_answer_searches", "num_answer_punished"):  # fmt: skip
        assert found["total"][key] == wanted["total"][key], key
    assert (found["total"]["num_punished"], found["total"]["num_correct"]) == (1, 2)
    understood = found["understood"]
    assert found["withheld"] == []
    assert understood["calls_not_understood"] == {}
    assert (understood["num_results_not_split"], sum(understood["results"].values())) == (0, 2)


@pytest.mark.parametrize("name", ["openai_serper.jsonl", "inspect_log.json", "sharegpt.jsonl"])
def test_packed_files_and_folders_of_them(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / f"{name}.gz").write_bytes(gzip.compress((CASES / name).read_bytes()))
    assert len(imported(folder / f"{name}.gz")[0]) == 2
    assert len(imported(tmp_path / "runs")[0]) == 2


def test_files_of_a_folder_that_hold_no_rollouts_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(CASES / "tongyi_iters", folder)
    (folder / "summary.json").write_text(json.dumps({"accuracy": 0.5}))
    assert counts_of(folder, tmp_path)["total"]["num_punished"] == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "passed over, as they hold no rollouts: summary.json" in told
    assert "(2 files, joined)" in told


def test_trajectories_of_a_run_come_before_its_settings(tmp_path: Path) -> None:
    run = tmp_path / "grpo-seed0"
    (run / "trajectories").mkdir(parents=True)
    shutil.copy(REFERENCE, run / "trajectories" / "update-00000.jsonl")
    (run / "config.json").write_text("{}")
    assert [path.name for path in log_files(run)] == ["update-00000.jsonl"]


def test_an_import_keeps_what_was_understood(tmp_path: Path) -> None:
    output = tmp_path / "imported.jsonl"
    source = CASES / "tongyi_google_results.jsonl"
    Trace(action="import", sources=(source,), output=output).run()
    first, second = counts_of(source, tmp_path), counts_of(output, tmp_path)
    assert first["understood"] == second["understood"]
    assert first["understood"]["searches"] == {"search": 2}
