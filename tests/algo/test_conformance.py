"""All vectors of the authors' code agree, and a wrong formula is noticed."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from conformance.__main__ import Conformance, run_conformance
from conformance.calibadv import DEFAULT_SWITCHES, check_vector, variant_of
from conformance.published import check_output
from conformance.report import ConformanceReport, format_report

PATH = Path(__file__).parents[2] / "conformance" / "data" / "calibadv_vectors.json"
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


# Outputs of other systems

OTHERS_PATH = PATH.with_name("misc_vectors.json")
OTHERS = json.loads(OTHERS_PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", OTHERS["outputs"])
def test_output_agrees(name: str) -> None:
    result = check_output(name, OTHERS)
    assert result.unsupported is None
    assert result.worst <= 1e-6


def tampered(expected: Any) -> Any:
    """The same output with one number changed where the mask shows it."""
    if isinstance(expected, list) and isinstance(expected[0], list):
        return [[expected[0][0] + 0.01, *expected[0][1:]], *expected[1:]]
    if isinstance(expected, list):
        return [expected[0], {**expected[1], "actor/pg_clipfrac_lower": 0.01}]
    return expected + 0.01


@pytest.mark.parametrize("name", OTHERS["outputs"])
def test_a_wrong_output_is_noticed(name: str) -> None:
    outputs = OTHERS["outputs"]
    content = {**OTHERS, "outputs": {**outputs, name: tampered(outputs[name])}}
    assert check_output(name, content).worst > 0.005


def test_the_report_counts_all_outputs() -> None:
    report = run_conformance(OTHERS_PATH)
    assert report.num_vectors == report.num_compared == report.num_agreed == 37
    lines = format_report(report).splitlines()
    assert "37 of 37 compared vectors agree" in lines[0]
    assert any("2/2" in line and "LLDS" in line for line in lines)


def test_unknown_outputs_are_named_and_never_agree(tmp_path: Path) -> None:
    outputs = {
        "adv_grpo": OTHERS["outputs"]["adv_grpo"],
        "adv_remax": OTHERS["outputs"]["adv_grpo"],
    }
    path = tmp_path / "others.json"
    path.write_text(json.dumps({"inputs": OTHERS["inputs"], "outputs": outputs}), encoding="utf-8")
    report = run_conformance(path)
    assert (report.num_vectors, report.num_compared, report.num_agreed) == (2, 1, 1)
    assert "adv_remax: no formula of that name" in format_report(report)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("verl_gae_g.9_l.8_adv", "verl_gae_g.7_l.8_adv"),
        ("adv_reinforce_pp_g1", "adv_reinforce_pp_g0.5"),
        ("gspo_3e-4_4e-4", "gspo_0.1_0.2"),
        ("value_loss_clip0.5", "value_loss_clip0.1"),
        ("ragen_bilevel_g1_l.9_gH.95_adv", "ragen_bilevel_g1_l.5_gH.95_adv"),
        ("llds_action_gate_lambda.2_code_norm", "llds_action_gate_lambda0.4_code_norm"),
        ("llds_action_gate_lambda.2_code_norm", "llds_token_gate_lambda.2_code_norm"),
        ("llds_action_gate_lambda.2_code_norm", "llds_action_gate_lambda.2_paper_norm"),
        ("tree_grpo_default_sum", "tree_grpo_tree_inner"),
    ],
)
def test_settings_are_read_from_the_name(name: str, parameter: str) -> None:
    content = {**OTHERS, "outputs": {parameter: OTHERS["outputs"][name]}}
    result = check_output(parameter, content)
    assert result.unsupported is None
    assert result.worst > 1e-4


def test_a_row_without_tokens_changes_no_average() -> None:
    mask = [*OTHERS["inputs"]["mask"], [0.0] * 8]
    inputs = {
        name: [*rows, rows[0]] if name != "mask" else mask
        for name, rows in OTHERS["inputs"].items()
    }
    inputs["uid"] = [*OTHERS["inputs"]["uid"], "lonely"]
    names = [
        "verl_gae_g1_l1_ret",
        "adv_reinforce_pp_g1",
        "vanilla_sym_seq-mean-token-mean",
        "gspo_3e-4_4e-4",
        "ragen_bilevel_ret",
        "llds_response_gate_lambda.2_code_norm",
    ]
    for name in names:
        expected = OTHERS["outputs"][name]
        if isinstance(expected, list) and isinstance(expected[1], list):
            expected = [*expected, [0.0] * 8]
        outputs = {**OTHERS["outputs"], name: expected}
        assert check_output(name, {"inputs": inputs, "outputs": outputs}).worst <= 1e-6, name


@pytest.mark.parametrize(
    "outputs", [{"adv_grpo": [[1.0]]}, {"adv_grpo": [[math.nan] * 8] * 6}, {"kl_k1": math.nan}]
)
def test_other_shapes_and_missing_numbers_do_not_agree(outputs: dict[str, Any]) -> None:
    (name,) = outputs
    result = check_output(name, {"inputs": OTHERS["inputs"], "outputs": outputs})
    assert result.worst == math.inf


def test_a_missing_input_is_an_error_that_names_the_output(tmp_path: Path) -> None:
    path = tmp_path / "others.json"
    path.write_text('{"inputs": {}, "outputs": {"adv_grpo": [[1.0]]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="vector adv_grpo is not in the format"):
        run_conformance(path)


def test_the_command_takes_several_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(PATH, OTHERS_PATH) == 0
    out = capfd.readouterr().out
    assert "72 of 72" in out
    assert "37 of 37" in out
    assert "all files: 109 of 109 vectors agree" in out


def test_the_command_fails_if_one_file_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = {"kl_k1": OTHERS["outputs"]["kl_k1"] + 1}
    path = tmp_path / "others.json"
    path.write_text(json.dumps({"inputs": OTHERS["inputs"], "outputs": outputs}), encoding="utf-8")
    assert run(PATH, path) == 1
    assert "differs  kl_k1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, {"pools": "answers", "scope": "group", "lone": "zero"}),
        ({"enable": False}, {"pools": "none"}),
        ({"in_group": False}, {"scope": "batch", "lone": "keep-negative"}),
        ({"only_answer": False}, {"pools": "all", "lone": "zero"}),
        ({"only_answer": False, "adjust_positive": False}, {"lone": "keep-positive"}),
        ({"only_answer": False, "turn_level": True}, {"pools": "searches"}),
        (
            {"only_answer": False, "turn_level": True, "in_group": False},
            {"pools": "turns", "scope": "batch"},
        ),
        ({"only_apply_risky": True}, {"when": "risky"}),
        ({"aggressive_softpenalty": True}, {"penalty": "aggressive"}),
        ({"reset2zero": True}, {"solved": "zero"}),
    ],
)
def test_switches_name_an_estimator(switches: dict[str, Any], expected: dict[str, Any]) -> None:
    variant = variant_of({**DEFAULT_SWITCHES, **switches})
    assert {name: getattr(variant, name) for name in expected} == expected


def test_the_command_takes_the_recorded_vectors(capfd: pytest.CaptureFixture[str]) -> None:
    assert Conformance().run() == 0
    assert "all files: 109 of 109 vectors agree" in capfd.readouterr().out


def test_the_command_fails_on_a_tampered_copy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(PATH.read_text(encoding="utf-8"))
    row = document["vectors"][0]["expected"][0]["adv_after_rebalance_per_turn"]
    row[0] += 0.001
    copy = tmp_path / "tampered.json"
    copy.write_text(json.dumps(document))
    assert run(copy) == 1
    assert "71 of 72" in capfd.readouterr().out
    assert run(copy, tolerance=0.01) == 0


def run(*files: Path, tolerance: float = 1e-5) -> int:
    return Conformance(files=files, tolerance=tolerance).run()
