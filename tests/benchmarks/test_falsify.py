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
from benchmarks.falsify.numbers import measure_study, write_numbers
from benchmarks.falsify.page import render_page, write_page
from benchmarks.falsify.records import RecordError, collect, record_file, restore
from benchmarks.falsify.study import FALSIFY, HARDER_WORLDS, Study, StudyPart
from calibadv_algo.cli.compare import run_comparison
from calibadv_algo.credit.labels import AnswerMatchCredit, GoldCredit
from calibadv_algo.experiments.compare import CompareConfig, plan_jobs, write_comparison
from calibadv_algo.experiments.design import Design
from calibadv_algo.report.reading import finished_seeds
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, Trajectory, Turn

NUM_UPDATES = 8
CONFIG = CompareConfig(
    train=replace(ATLAS_TINY, optim=replace(ATLAS_TINY.optim, num_updates=NUM_UPDATES)),
    design=Design(
        contrasts=("calibadv - grpo",), controls=("grpo - calibadv = lower",), split="test"
    ),
)


def _part(name: str, kind: Any) -> StudyPart:
    return StudyPart(name=name, kind=kind, label=name, question=f"Is it {name}?", config=CONFIG)


SMALL = Study(name="small", parts=(_part("labels", "labels"), _part("later", "long")))


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
    shutil.copytree(comparison_dir / "runs", directory / "labels" / "runs")
    config = SMALL.part_config(SMALL.parts[0], directory)
    write_comparison(config, {"git_commit": "0123abc", "warm_start": {}}, None)
    for job in plan_jobs(config):
        place = job.config.output_dir
        (place / "provenance.json").write_text(json.dumps({"git_commit": "0123abc"}))
        rows = [json.loads(line) for line in (place / "evals.jsonl").read_text().splitlines()]
        final = [row | {"split": "test"} for row in rows if row["update"] in (0, NUM_UPDATES)]
        (place / "final.jsonl").write_text("".join(json.dumps(row) + "\n" for row in final))
    return directory


def test_the_experiment_is_planned() -> None:
    (main,) = FALSIFY.of_kind("main")
    assert len(main.config.seeds) == 30
    assert main.config.design.contrasts == ("calibadv - grpo",)
    expected = {text.split(" = ")[1] for text in main.config.design.controls}
    assert expected == {"higher", "lower", "same"}
    (labels,) = FALSIFY.of_kind("labels")
    assert len(labels.config.seeds) == 10
    assert {"calibadv-inverted", "calibadv-random", "calibadv-gold"} <= set(labels.config.arms)
    assert tuple(part.label for part in FALSIFY.of_kind("world")) == HARDER_WORLDS
    long = [part.config.train.optim for part in FALSIFY.of_kind("long")]
    assert [optim.lr for optim in long] == [3e-4, 6e-4, 1e-3]
    assert {optim.num_updates for optim in long} == {150}
    assert {part.config.design.split for part in FALSIFY.parts} == {"test"}
    assert all(part.config.design.hypotheses for part in FALSIFY.parts)


def test_parts_share_the_runs_that_they_have_in_common(tmp_path: Path) -> None:
    files = {
        part.name: {
            record_file(job, tmp_path)
            for job in plan_jobs(FALSIFY.part_config(part, tmp_path / "runs"))
        }
        for part in FALSIFY.parts
    }
    assert len(files["main"]) == 150
    assert len(files["main"] & files["labels"]) == 20
    assert not files["main"] & files["atlas-noisy"]


def test_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = [FALSIFY.part_config(part, tmp_path).output_dir for part in FALSIFY.parts]
    assert len(set(folders)) == len(folders)
    part = FALSIFY.parts[0]
    with pytest.raises(ValueError, match="distinct names"):
        Study(name="twice", parts=(part, part))


def test_records_make_the_same_page_without_the_runs(study_dir: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    config = SMALL.part_config(SMALL.parts[0], study_dir)
    assert len(collect(config, records)) == 4
    assert collect(config, records) == []
    assert max(path.stat().st_size for path in (records / "runs").iterdir()) < 8000
    elsewhere = SMALL.part_config(SMALL.parts[0], tmp_path / "elsewhere")
    assert restore(elsewhere, records) == 4
    assert restore(elsewhere, records) == 0
    assert finished_seeds(elsewhere.output_dir) == (0, 1)
    before, after = measure_study(SMALL, study_dir), measure_study(SMALL, tmp_path / "elsewhere")
    assert before["label_quality"]["grpo"]["silver"]["all"]["num_searches"] > 0
    assert render_page(after) == render_page(before)
    assert collect(elsewhere, records) == []


def test_a_record_of_other_settings_is_not_taken(study_dir: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    config = SMALL.part_config(SMALL.parts[0], study_dir)
    collect(config, records)
    elsewhere = replace(config, output_dir=tmp_path / "elsewhere" / "labels")
    optim = replace(config.train.optim, lr=1e-3)
    assert restore(replace(elsewhere, train=replace(config.train, optim=optim)), records) == 0
    fewer = replace(config.design, questions=7)
    assert restore(replace(elsewhere, design=fewer), records) == 0
    for path in (records / "questions").iterdir():
        path.unlink()
    with pytest.raises(RecordError, match="is missing: records name it"):
        restore(elsewhere, records)


def test_runs_on_other_questions_are_not_recorded(study_dir: Path, tmp_path: Path) -> None:
    config = SMALL.part_config(SMALL.parts[0], study_dir)
    final = study_dir / "labels/runs/calibadv-seed1/final.jsonl"
    final.write_text(final.read_text().replace("q001", "q999"))
    with pytest.raises(RecordError, match="other questions"):
        collect(config, tmp_path / "records")


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
    second = agreement.total(lambda cell: cell.place == 2 and cell.hops == 2 and cell.update == 5)
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


def test_only_seeds_that_every_arm_finished_count(study_dir: Path) -> None:
    assert finished_seeds(study_dir / "labels") == (0, 1)
    metrics = study_dir / "labels/runs/calibadv-seed1/metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert finished_seeds(study_dir / "labels") == (0,)
    results = measure_study(SMALL, study_dir)
    assert results["parts"][0]["seeds"] == [0]
    text = render_page(results)
    assert "Not finished: labels (1 of 2 seeds)." in text
    assert "provisional until all 2 planned seeds are there" in text


def test_the_page_is_made_of_the_file_alone(study_dir: Path, tmp_path: Path) -> None:
    results = measure_study(SMALL, study_dir)
    saved = json.loads(write_numbers(results, tmp_path / "page").read_text())
    assert saved == results
    written = write_page(saved, tmp_path / "page")
    text = written[0].read_text()
    names = {path.name for path in written[1:]}
    assert names == {"differences.png", "labels-scores.png", "labels.png"}
    assert all(path.stat().st_size > 5000 for path in written[1:])
    assert all(f"]({name})" in text for name in names)
    assert "Not begun: later." in text
    (judged, control) = results["parts"][0]["differences"]
    assert f"{judged['f1']['estimate']:+.3f}" in text
    assert f"a control that must be lower: {'passed' if control['passed'] else 'failed'}" in text
    assert "The smallest difference in F1 that this design shows" in text
    assert "None" not in text
    assert "nan" not in text.lower()


def test_a_study_that_has_not_begun_has_its_plan(tmp_path: Path) -> None:
    results = measure_study(FALSIFY, tmp_path)
    (page,) = write_page(json.loads(write_numbers(results, tmp_path).read_text()), tmp_path)
    text = page.read_text()
    assert "Nothing yet: no seed is finished" in text
    assert "Judged: calibadv - grpo, gold-turns - grpo = higher" in text
    assert "Not begun: main, labels" in text


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
    part = replace(_part("labels", "labels"), config=config)
    study = Study(name="measured", parts=(part,))
    console = Console(highlight=False, width=120, file=io.StringIO())
    for part in study.parts:
        run_comparison(study.part_config(part, tmp_path), console)
    folder = tmp_path / "labels"
    results = json.loads((folder / "credit" / "credit.json").read_text())
    assert [each["label"] for each in results] == ["warm start", *arms]
    assert "calibadv/inverted" in results[0]["standings"]["searches"]
    assert "Which advantages are right" in (folder / "report.html").read_text()
    write_study(study, tmp_path, tmp_path / "page", console)
    assert (tmp_path / "page" / "README.md").is_file()
