"""The experiment on CalibAdv's claims: its plan, its numbers and its page."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.falsify.__main__ import write_study
from benchmarks.falsify.agreement import Agreement, Quality
from benchmarks.falsify.numbers import (
    contrast_rows,
    measure_study,
    stratified_resamples,
    write_numbers,
)
from benchmarks.falsify.page import render_page, verdict, write_page
from benchmarks.falsify.study import FALSIFY, LAMBDAS, Study, StudyPart
from calibadv_algo.cli.compare import run_comparison
from calibadv_algo.credit.labels import AnswerMatchCredit, GoldCredit
from calibadv_algo.experiments.compare import CompareConfig
from calibadv_algo.report.reading import ReportError, finished_seeds, read_comparison
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, Trajectory, Turn

SMALL = Study(
    name="small",
    parts=(
        StudyPart(name="labels", kind="labels", label="usual", config=CompareConfig()),
        StudyPart(name="collapse", kind="collapse", label="high lr", config=CompareConfig()),
    ),
)


def _turn(action: str, *, gold: bool = False, answer: bool = False, reward: float = 0.0) -> Turn:
    info = {
        "action": action,
        "gold_new": ("g",) if gold else (),
        "gold_recall": 0.5,
        "answer_in_passages": answer,
        "is_format_valid": True,
    }
    return Turn(action_ids=(1, 2), action_text="", logprobs=(0.0, 0.0), info=info, reward=reward)


def _trajectory(*turns: Turn) -> Trajectory:
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1,),
        prompt_text="",
        turns=turns,
        reset_info={"hops": 2},
        policy_version=7,
    )


def _group() -> Group:
    return Group(
        (
            _trajectory(
                _turn("search", gold=True, answer=True),
                _turn("search", gold=False, answer=True),
                _turn("answer", reward=1.0),
            ),
            _trajectory(_turn("search", gold=True, answer=False), _turn("answer")),
        )
    )


@pytest.fixture
def study_dir(tmp_path: Path, comparison_dir: Path) -> Path:
    """A study of which one part has run and one has not begun."""
    directory = tmp_path / "study"
    shutil.copytree(comparison_dir, directory / "labels")
    _set_updates(directory / "labels")
    return directory


def _set_updates(directory: Path) -> None:
    """Makes the plan say that the runs' last update is the last one."""
    path = directory / "comparison.json"
    record = json.loads(path.read_text())
    lines = (directory / "runs/grpo-seed0/metrics.jsonl").read_text().splitlines()
    record["config"] = {
        "model": "tiny",
        "optim": {"num_updates": json.loads(lines[-1])["update"]},
        "rollout": {"num_questions": 3, "group_size": 4},
    }
    path.write_text(json.dumps(record))


def test_the_experiment_has_the_arms_that_settle_it() -> None:
    (labels,) = FALSIFY.of_kind("labels")
    assert len(labels.config.seeds) >= 5
    assert {"grpo", "calibadv", "calibadv-gold", "calibadv-random"} <= set(labels.config.arms)
    assert {"calibadv-inverted", "grpo-equal-mass"} <= set(labels.config.arms)
    assert sorted(LAMBDAS) == [0.5, 0.75, 1.0, 1.5, 2.0]
    rates = {part.config.train.optim.lr for part in FALSIFY.of_kind("collapse")}
    assert max(rates) >= 1e-3


def test_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = [FALSIFY.part_config(part, tmp_path).output_dir for part in FALSIFY.parts]
    assert len(set(folders)) == len(folders)
    part = FALSIFY.parts[0]
    with pytest.raises(ValueError, match="distinct names"):
        Study(name="twice", parts=(part, part))


def test_agreement_is_counted_by_hand() -> None:
    agreement = Agreement()
    agreement.add(_group(), AnswerMatchCredit())
    total = agreement.total()
    # gold good and called good, gold good and called bad, gold bad and called good
    np.testing.assert_array_equal(total.counts, [[1, 1, 0], [1, 0, 0]])
    assert total.num_searches == 3
    assert total.base_rate == pytest.approx(2 / 3)
    assert total.agreement == pytest.approx(1 / 3)
    assert total.precision == pytest.approx(1 / 2)
    assert total.recall == pytest.approx(1 / 2)
    punished = agreement.total(lambda cell: cell.is_punished)
    np.testing.assert_array_equal(punished.counts, [[0, 1, 0], [0, 0, 0]])
    second = agreement.total(lambda cell: cell.place == 2 and cell.hops == 2 and cell.update == 7)
    np.testing.assert_array_equal(second.counts, [[0, 0, 0], [1, 0, 0]])


def test_gold_agrees_with_itself() -> None:
    agreement = Agreement()
    agreement.add(_group(), GoldCredit())
    total = agreement.total()
    assert (total.agreement, total.precision, total.recall, total.scored) == (1, 1, 1, 1)


def test_searches_without_a_label_are_missed_but_do_not_disagree() -> None:
    quality = Quality(np.array([[2.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    assert quality.recall == 0.5
    assert quality.agreement == 1.0
    assert quality.scored == pytest.approx(3 / 5)


def test_shares_of_nothing_are_unknown() -> None:
    empty = Agreement().total()
    assert empty.num_searches == 0
    assert math.isnan(empty.precision)
    assert math.isnan(empty.recall)


def test_each_stratum_keeps_its_share() -> None:
    strata = [1, 1, 1, 2, 2, 3]
    drawn = stratified_resamples(
        strata, num_seeds=3, num_resamples=50, rng=np.random.default_rng(0)
    )
    for stratum, size in ((1, 3), (2, 2), (3, 1)):
        weights = drawn.questions[:, [i for i, s in enumerate(strata) if s == stratum]]
        np.testing.assert_allclose(weights.sum(axis=1), size)
    assert drawn.seeds.shape == (50, 3)
    assert len(np.unique(drawn.questions, axis=0)) > 1


def test_a_contrast_is_the_paired_difference(study_dir: Path) -> None:
    comparison = read_comparison(study_dir / "labels")
    (row,) = contrast_rows(comparison, [("calibadv", "grpo"), ("calibadv", "absent")])
    assert row["f1"]["estimate"] == pytest.approx(np.mean(row["by_seed"]))
    (turned,) = contrast_rows(comparison, [("grpo", "calibadv")])
    assert turned["f1"]["estimate"] == pytest.approx(-row["f1"]["estimate"])
    assert turned["probability_of_improvement"]["estimate"] == pytest.approx(
        1 - row["probability_of_improvement"]["estimate"]
    )


def test_only_seeds_that_every_arm_finished_count(study_dir: Path) -> None:
    assert finished_seeds(study_dir / "labels") == (0, 1)
    metrics = study_dir / "labels/runs/calibadv-seed1/metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert finished_seeds(study_dir / "labels") == (0,)
    results = measure_study(SMALL, study_dir)
    assert results["parts"][0]["seeds"] == [0]
    assert results["arms"][1]["survived"]["of"] == 1
    assert "Not run with all planned seeds: labels." in render_page(results)


def test_the_page_is_made_of_the_file_alone(study_dir: Path, tmp_path: Path) -> None:
    results = measure_study(SMALL, study_dir)
    saved = json.loads(write_numbers(results, tmp_path / "page").read_text())
    assert saved == results
    written = write_page(saved, tmp_path / "page")
    text = written[0].read_text()
    names = {path.name for path in written[1:]}
    assert names == {"arms.png", "contrasts.png", "labels.png", "collapse.png"}
    assert all(path.stat().st_size > 5000 for path in written[1:])
    assert all(f"]({name})" in text for name in names)
    assert "Not run: collapse." in text
    assert f"{results['contrasts'][0]['f1']['estimate']:+.3f}" in text
    assert "None" not in text
    assert "nan" not in text.lower()


def test_a_study_without_a_finished_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no part of the study"):
        measure_study(SMALL, tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.2, "higher"), (-0.2, -0.01, "lower"), (-0.1, 0.1, "not resolvable")],
)
def test_verdicts_follow_the_interval(low: float, high: float, words: str) -> None:
    interval: dict[str, Any] = {"estimate": (low + high) / 2, "low": low, "high": high}
    assert verdict({"f1": interval}).startswith(words)
    assert verdict({"f1": interval, "word": "equivalent", "reason": "why"}) == "equivalent; why"


def test_a_verdict_says_when_the_published_gain_is_left_out() -> None:
    interval = {"estimate": 0.0, "low": -0.04, "high": 0.03}
    assert "leaves out the paper's gain of +0.0755" in verdict({"f1": interval})
    assert "paper" not in verdict({"f1": interval | {"high": 0.08}})


def test_the_recorded_page_is_the_one_that_the_program_writes() -> None:
    folder = Path(__file__).parents[2] / "docs" / "falsify"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    pictures = frozenset(path.name for path in folder.glob("*.png"))
    assert render_page(results, pictures) == (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_part_of_a_study_can_measure_credit(tmp_path: Path) -> None:
    """As `--credit` does: the part's report has the table, and the study its page."""
    train = replace(
        ATLAS_TINY,
        env=replace(ATLAS_TINY.env, dataset="toy"),
        rollout=replace(ATLAS_TINY.rollout, num_questions=2, group_size=3, max_tokens=24),
        optim=replace(ATLAS_TINY.optim, num_updates=1),
        evaluation=replace(ATLAS_TINY.evaluation, episodes=4),
    )
    arms = ("grpo", "calibadv")
    config = CompareConfig(arms=arms, seeds=(0,), train=train, credit=True, credit_questions=2)
    study = Study(
        name="measured",
        parts=(StudyPart(name="labels", kind="labels", label="usual", config=config),),
    )
    console = Console(highlight=False, width=120, file=io.StringIO())
    for part in study.parts:
        run_comparison(study.part_config(part, tmp_path), console)
    folder = tmp_path / "labels"
    results = json.loads((folder / "credit" / "credit.json").read_text())
    assert [each["label"] for each in results] == ["warm start", *arms]
    assert "calibadv/inverted" in results[0]["standings"]["searches"]
    assert "Which advantages are right" in (folder / "report.html").read_text()
    write_study(study, tmp_path, console)
    assert (tmp_path / "page" / "README.md").is_file()
