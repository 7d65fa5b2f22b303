"""The count of punished correct searches, from logs of others and from records of ours."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv_algo.cli import main as cli
from calibadv_algo.cli.diagnose import Diagnose
from calibadv_algo.cli.trace import Reading, Trace
from calibadv_algo.report.assessment import Tally, assess
from calibadv_algo.report.diagnosis import Source, diagnose, render_diagnosis, table_rows
from calibadv_algo.rollout.records import trajectory_to_json

ROOT = Path(__file__).parents[2]


def load_logged() -> ModuleType:
    spec = importlib.util.spec_from_file_location("logged", Path(__file__).parent / "logged.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["logged"] = module
    spec.loader.exec_module(module)
    return module


logged = load_logged()


@pytest.fixture(scope="module")
def played() -> list[Any]:
    return list(logged.play())


@pytest.fixture
def log(played: list[Any], tmp_path: Path) -> Path:
    return Path(
        logged.write_lines(tmp_path / "run" / "1.jsonl", list(map(logged.search_r1, played)))
    )


def counts_of(*traces: Path, **settings: Any) -> dict[str, Any]:
    file = traces[0].parent / "counts.json"
    assert Diagnose(traces=traces, json=file, **settings).run() == 0
    return dict(json.loads(file.read_text()))


def expected_tally(played: list[Any]) -> Tally:
    """The same counts from the environment's own records, without their gold passages."""
    tally = Tally()
    for group in logged.groups_of(played):
        for trajectory in group.trajectories:
            for turn in trajectory.turns:
                turn.info.pop("gold_new", None)
        tally.add(assess(group))
    return tally


def test_counts_are_those_of_the_environment_s_own_records(
    played: list[Any], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    total = counts_of(log)["total"]
    expected = expected_tally(list(logged.play()))
    assert expected.num_punished > 0
    for name in ("num_groups", "num_trajectories", "num_searches", "num_correct", "num_punished"):
        assert total[name] == getattr(expected, name), name
    assert total["num_negative"] >= total["num_punished"]
    assert total["reward_mean"] == pytest.approx(sum(e.reward for e in played) / len(played))
    assert total["num_invalid"] == sum(not each.turns[-1][2]["is_format_valid"] for each in played)
    told = " ".join(capsys.readouterr().out.split())
    assert f"GRPO punishes {expected.num_punished} of {expected.num_correct} correct" in told
    assert "of invalid format; their searches have no silver score" in told


def test_logs_and_their_import_say_the_same(log: Path) -> None:
    output = log.parent / "imported.jsonl"
    Trace(action="import", sources=(log,), output=output).run()
    both = counts_of(log, output)
    first, second = both["sources"]
    assert first["steps"] == second["steps"]
    assert (first["label"], second["label"]) == ("run", "imported")
    assert list(first["steps"]) == ["0", "1"]
    assert both["total"]["num_punished"] == 2 * sum(
        step["num_punished"] for step in first["steps"].values()
    )


def test_records_of_our_own_runs(played: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "grpo-seed0" / "trajectories"
    folder.mkdir(parents=True)
    for step in (0, 1):
        lines = [trajectory_to_json(e.trajectory) for e in played if e.step == step]
        (folder / f"update-{step:05d}.jsonl").write_text("\n".join(lines))
    found = counts_of(tmp_path / "grpo-seed0")
    assert found["sources"][0]["label"] == "grpo-seed0"
    assert found["total"]["num_groups"] == 6
    assert found["total"]["num_punished"] > 0


def test_answers_that_came_to_light_are_counted(played: list[Any], log: Path) -> None:
    number = sum(
        info["answer_in_passages"] and info["action"] == "search" and not info["stop_reason"]
        for each in played
        for _, _, info in each.turns
    )
    assert number > 0
    assert counts_of(log)["total"]["num_answer_searches"] == number


def test_groups_of_one_are_left_out_and_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:5]))
    found = counts_of(log)
    assert (found["total"]["num_groups"], found["sources"][0]["num_groups_of_one"]) == (1, 1)
    assert "1 groups of one trajectory are left out" in " ".join(capsys.readouterr().out.split())
    log.write_text("\n".join(lines[::4]))
    with pytest.raises(ValueError, match=r"all 6 groups have one trajectory, .* --group-by"):
        counts_of(log)


def test_another_scale_of_rewards_is_asked_for(log: Path) -> None:
    plain = counts_of(log)["total"]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    logged.write_lines(log, [{**row, "score": row["score"] * 2 - 1} for row in rows])
    with pytest.raises(ValueError, match=r"got -1 to 1: .* --reward-range -1 1"):
        counts_of(log)
    scaled = counts_of(log, reward_range=(-1.0, 1.0))["total"]
    assert scaled["num_punished"] == plain["num_punished"]
    assert scaled["grpo_penalty"] == pytest.approx(plain["grpo_penalty"], rel=1e-4)
    by_f1 = counts_of(log, reading=Reading(reward="f1"))["total"]
    assert by_f1["num_correct"] >= plain["num_correct"]


def test_a_run_without_success_says_why_nothing_is_correct(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    logged.write_lines(log, [{**row, "score": row["score"] / 2} for row in rows])
    assert counts_of(log)["total"]["num_correct"] == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "In 6 of 6 groups no trajectory of valid format has a reward of 0.7 or more" in told
    assert "No count of punished correct searches is given" in told
    assert "ended worse than its group" not in told


def test_a_bad_line_leaves_no_file_behind(log: Path) -> None:
    log.write_text(log.read_text() + "{")
    with pytest.raises(Exception, match=r"1\.jsonl:25: not valid JSON"):
        counts_of(log, output=log.parent / "page.html")
    assert [path.name for path in log.parent.iterdir()] == ["1.jsonl"]
    with pytest.raises(ValueError, match="at least one file"):
        Diagnose(traces=()).run()


def test_sources_of_the_same_name_are_told_apart(log: Path) -> None:
    found = counts_of(log, log, log)
    assert len({source["label"] for source in found["sources"]}) == 3


def test_the_table_has_a_row_a_step_and_the_sum(played: list[Any]) -> None:
    source = Source(label="x")
    source.add(logged.groups_of(played))
    rows = table_rows(diagnose([source]))
    assert [row[:2] for row in rows] == [("x", "0"), ("x", "1"), ("all", "")]
    for column in (2, 3, 4, 5):
        assert int(rows[0][column]) + int(rows[1][column]) == int(rows[2][column])
    assert len(table_rows(diagnose([source]), max_steps=1)) == 2


def test_the_page_is_whole_and_holds_no_markup_of_the_log(
    played: list[Any], tmp_path: Path
) -> None:
    hostile = "</script><script>window.owned=1</script>"
    rows = [logged.search_r1(each) for each in played]
    for row in rows:
        row["output"] = row["output"].replace("perhaps", hostile)
    log = logged.write_lines(tmp_path / "1.jsonl", rows)
    page = tmp_path / "page.html"
    counts_of(log, output=page)
    text = page.read_text(encoding="utf-8")
    assert hostile not in text
    assert "http://" not in re.sub(r"http://www\.w3\.org", "", text)
    assert text.count("<script") == 2
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert len(data["groups"]) == 6
    assert [panel["key"] for panel in data["panels"]] == ["punished_share", "reward_mean"]
    source = Source(label="x")
    source.add(logged.groups_of(played))
    with pytest.raises(ValueError, match="max_groups must be positive"):
        render_diagnosis(diagnose([source]), max_groups=0)


def test_from_the_command_line(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind in (("diagnose", "Diagnose"), ("trace", "Trace")):
        monkeypatch.setitem(cli.COMMANDS, name, (name, kind, "help"))
    output = str(log.parent / "out.jsonl")
    assert cli.main(["trace", "import", str(log), "--output", output, "--format", "search-r1"]) == 0
    assert cli.main(["diagnose", output, "--json", str(log.parent / "counts.json")]) == 0
    assert "GRPO punishes" in capsys.readouterr().out
    assert cli.main(["trace", "import", str(log), "--output", output]) == 1
    assert "is there already; see --overwrite" in capsys.readouterr().err
    assert cli.main(["diagnose", str(log), "--format", "messages"]) == 1
    assert "1.jsonl:1: needs a list of messages" in capsys.readouterr().err


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert 20 <= len(block.splitlines()) <= 36
    exec(compile(block, "docs/diagnose.md", "exec"), {})
    assert "1 of 2 correct searches are punished" in capsys.readouterr().out
