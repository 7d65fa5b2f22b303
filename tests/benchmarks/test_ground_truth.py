"""The page of docs/credit: it is what its command makes of the records beside it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tyro

from benchmarks.ground_truth.__main__ import DOCS, GroundTruth
from benchmarks.ground_truth.page import PAGE_FILE, TEMPLATE, ClaimError, Writer, render_page
from benchmarks.ground_truth.records import read_records, record_of
from benchmarks.ground_truth.study import PARTS, TRAININGS, Part
from benchmarks.ground_truth.wording import GLANCE
from calibadv_algo.cli.credit import Credit


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    return dict(read_records(DOCS))


def changed(records: dict[str, Any], name: str) -> dict[str, Any]:
    """The records, with a copy of one that may be changed."""
    return records | {name: copy.deepcopy(records[name])}


def test_the_page_is_what_the_command_makes_of_the_records(records: dict[str, Any]) -> None:
    page = (DOCS / PAGE_FILE).read_text(encoding="utf-8")
    assert page == render_page(records), "run python -m benchmarks.ground_truth --page-only"


def test_nothing_that_was_measured_is_typed_into_the_text() -> None:
    """Shares, differences and intervals stand in the text as calls alone."""
    text = re.sub(r"\{[{%].*?[%}]\}", "", TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"(?<![\w.])[+−]?\.\d+", text) == []
    assert re.findall(r"\d,\d{3}", text) == []


def test_a_number_of_a_record_is_a_number_of_the_page(records: dict[str, Any]) -> None:
    other = changed(records, "grpo-13")
    other["grpo-13"]["searches"]["grpo"]["scores"]["correlation"]["estimate"] = 0.7777
    [row] = [
        line for line in render_page(other).splitlines() if line.startswith("| GRPO, update 13")
    ]
    assert row.startswith("| GRPO, update 13 | .78 |")


def test_a_claim_that_the_records_do_not_bear_out_stops_the_page(records: dict[str, Any]) -> None:
    other = changed(records, "dev")
    other["dev"]["searches"]["calibadv/silver"]["against"]["correlation"]["verdict"] = "undecided"
    with pytest.raises(ClaimError, match="calibadv/silver is better in dev"):
        render_page(other)
    other = changed(records, "warm")
    other["warm"]["gradient"]["critic-search/gold"]["estimate"] = 0.9
    with pytest.raises(ClaimError, match="CriticSearch turns the gradient away"):
        render_page(other)


def test_the_readme_says_what_was_measured(records: dict[str, Any]) -> None:
    text = " ".join((DOCS.parents[1] / "README.md").read_text(encoding="utf-8").split())
    writer = Writer(records)
    said = [writer.difference("dev", f"calibadv/{each}") for each in ("gold", "silver", "inverted")]
    said.append(
        "`train` silver's difference was undecided, "
        + writer.difference("warm-120", "calibadv/silver")
    )
    inverted = (writer.difference(name, "calibadv/inverted") for name in ("dev", "warm-120"))
    said.append("{} on `dev`, {} on `train`".format(*(each.strip("*") for each in inverted)))
    said += [writer.worth("dev", f"… of them {each} by gold") for each in ("correct", "wrong")]
    assert [each for each in said if each.strip("*") not in text] == []
    results = (DOCS.parent / "results.md").read_text(encoding="utf-8")
    for each in ("correct", "wrong"):
        assert writer.worth("warm", f"… of them {each} by gold") in " ".join(results.split())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_commands_are_those_of_calibadv_credit(part: Part, records: dict[str, Any]) -> None:
    credit = tyro.cli(Credit, args=part.arguments())
    record = records[part.name]
    assert record["command"] == " ".join(["calibadv credit", *part.arguments()])
    # A budget of time, or a question that was lost, would leave fewer.
    assert record["facts"]["questions"] == credit.questions
    assert record["reference"] == credit.reference
    assert set(part.estimators) <= {*record["searches"], *record["left_out"]}
    named = {each.name for each in TRAININGS}
    assert not part.training or part.training in named
    assert not part.log_of or part.log_of in {each.name for each in PARTS}
    assert re.fullmatch(r"[0-9a-f]{40}", record["facts"]["sampled_at"])


def test_the_glance_has_every_policy_and_world(records: dict[str, Any]) -> None:
    assert set(GLANCE) <= set(records)
    lines = (DOCS / PAGE_FILE).read_text().partition("| measured on |")[2].splitlines()[2:11]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(GLANCE.values())


def test_a_measurement_becomes_a_record(tmp_path: Path) -> None:
    flags = ("--env.dataset", "toy", "--questions", "3", "--group-size", "3")
    part = Part(name="tried", flags=(*flags, "--continuations", "4"), estimators=("rloo",))
    study = GroundTruth(output_dir=tmp_path / "runs", docs=tmp_path)
    path = study._measure(part)
    record = json.loads(path.read_text())
    assert path.name == "tried.json"
    assert record["command"].startswith("calibadv credit atlas-tiny --env.dataset toy")
    assert set(record["searches"]) == {"grpo", "rloo"}
    assert record["facts"]["questions"] == 3
    [result] = json.loads((tmp_path / "runs" / "tried" / "credit.json").read_text())
    score = result["standings"]["answers"]["grpo"]["scores"]["correlation"]["estimate"]
    assert record["answers"]["grpo"]["estimate"] == pytest.approx(score, abs=1e-5)
    assert record["searches"].keys() == result["standings"]["searches"].keys()
    again = Part(name="again", flags=part.flags, estimators=("mt-grpo",), log_of="tried")
    other = json.loads(study._measure(again).read_text())
    assert other["worth"] == record["worth"], "the same episodes and continuations"
    assert record_of(result, "x", "y")["name"] == "x"
