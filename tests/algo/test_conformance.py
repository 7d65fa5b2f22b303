"""All vectors of the authors' code agree, and a wrong formula is noticed."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.conformance import (
    ConformanceReport,
    check_vector,
    format_report,
    run_conformance,
)

PATH = Path(__file__).parent.parent / "data" / "calibadv_vectors.json"
VECTORS = json.loads(PATH.read_text(encoding="utf-8"))["vectors"]


@pytest.fixture(scope="module")
def report() -> ConformanceReport:
    return run_conformance(PATH)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_agrees(vector: dict[str, Any]) -> None:
    result = check_vector(vector)
    assert result.unsupported is None
    assert result.worst <= 1e-5, result.differences
    assert set(result.differences) == {
        "query_scores",
        "grpo_adv_per_turn",
        "adv_after_softpenalty_per_turn",
        "adv_after_rebalance_per_turn",
    }


def test_report_counts_and_puts_default_switches_first(report: ConformanceReport) -> None:
    assert report.num_vectors == report.num_compared == report.num_agreed == 72
    assert report.is_conformant
    assert 0 < report.worst_difference <= 1e-5
    families = report.by_switches()
    assert next(iter(families)) == ""
    assert len(families[""]) == 32
    assert len(families["query_score_calculator=mean"]) == 4
    assert len(families["adjust_positive=False, target_ratio=0.7"]) == 2


def test_report_as_text(report: ConformanceReport) -> None:
    lines = format_report(report).splitlines()
    assert "72 of 72 compared vectors agree within 1e-05" in lines[0]
    assert "default switches" in lines[1]
    assert "32/32" in lines[1]
    assert any("note  rand_aggressive_0" in line for line in lines)


@pytest.mark.parametrize("key", ["adv_after_rebalance_per_turn", "grpo_adv_per_turn"])
def test_a_wrong_number_is_noticed(tmp_path: Path, key: str) -> None:
    vectors = copy.deepcopy(VECTORS[:3])
    vectors[1]["expected"][0][key][0] += 0.01
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"vectors": vectors}), encoding="utf-8")
    report = run_conformance(path)
    assert report.num_agreed == 2
    assert not report.is_conformant
    assert report.worst_difference == pytest.approx(0.01, abs=1e-4)
    assert "differs  worked_2" in format_report(report)


def test_a_missing_score_is_noticed() -> None:
    vector = copy.deepcopy(VECTORS[0])
    vector["expected"][1]["query_scores"][0] = None
    assert check_vector(vector).worst == math.inf
    vector = copy.deepcopy(VECTORS[0])
    vector["expected"][0]["query_scores"][1] = 0.5
    assert check_vector(vector).worst == math.inf


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        ({"softpenalty_first": False}, "softpenalty_first=False: the original crashes"),
        ({"use_numel_ratio": True}, "unknown switch use_numel_ratio=True"),
        ({"target_ratio": 0.0}, "target_ratio must be positive"),
        (
            {"softpenalty_positive_upper_limit": True, "reset2zero": True},
            "overwrites the group's best",
        ),
        (
            {"softpenalty_positive_upper_limit": True, "only_answer": False},
            "single-precision rounding",
        ),
    ],
)
def test_unsupported_switches_are_named_and_never_agree(
    tmp_path: Path, switches: dict[str, Any], reason: str
) -> None:
    vector = copy.deepcopy(VECTORS[0])
    vector["config"]["less_negative"] |= switches
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"vectors": [vector, VECTORS[1]]}), encoding="utf-8")
    report = run_conformance(path)
    assert (report.num_vectors, report.num_compared, report.num_agreed) == (2, 1, 1)
    assert reason in format_report(report)


def test_nothing_compared_is_not_conformant(tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_text('{"vectors": []}', encoding="utf-8")
    assert not run_conformance(path).is_conformant


def test_settings_are_read_from_the_vector() -> None:
    vector = copy.deepcopy(VECTORS[0])
    vector["config"]["answer_threshold"] = 1.5
    assert check_vector(vector).worst == math.inf
    vector = copy.deepcopy(VECTORS[0])
    vector["config"]["less_negative"]["target_ratio"] = 2.0
    assert check_vector(vector).worst > 0.1
    vector = copy.deepcopy(VECTORS[0])
    vector["config"]["less_negative"]["enable"] = False
    assert check_vector(vector).worst > 0.1


@pytest.mark.parametrize("text", ["[]", "{", '{"vectors": [{"name": "x"}]}'])
def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json"):
        run_conformance(path)


def test_a_batch_without_negatives_gives_zeros_for_answers() -> None:
    vector = copy.deepcopy(VECTORS[0])
    keep = [0]
    vector["trajectories"] = [vector["trajectories"][index] for index in keep]
    vector["expected"] = [vector["expected"][index] for index in keep]
    lone = 1.0 / (1.0 + 1e-6)
    vector["expected"][0] |= {
        "grpo_adv_per_turn": [lone, lone],
        "adv_after_softpenalty_per_turn": [lone, lone],
        "adv_after_rebalance_per_turn": [lone, 0.0],
    }
    assert check_vector(vector).worst <= 1e-9
