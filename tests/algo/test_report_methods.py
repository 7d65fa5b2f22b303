"""A report shows the methods that were compared, also one of a user's own file, result first."""

from __future__ import annotations

import html
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.rloo import Rloo
from calibadv_algo.experiments.compare import CompareConfig, write_comparison
from calibadv_algo.report.groups import iterate_groups
from calibadv_algo.report.methods import compared_methods
from calibadv_algo.report.page import render_page
from calibadv_algo.report.reading import read_comparison
from calibadv_algo.report.result import result_sentences
from calibadv_algo.report.summary import summarise
from calibadv_algo.report.verdict_tables import verdict_table
from calibadv_algo.training.config import config_to_dict
from calibadv_algo.training.parts import find_part, from_record, place_of

MINE = '''
from dataclasses import dataclass

import numpy as np

from calibadv_algo.advantages.base import AdvantageEstimator


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine(AdvantageEstimator):
    """Half of the reward for every turn."""

    scale: float = 0.5

    def __call__(self, group, correctness):
        rewards = [[self.scale * each.reward] * group.max_turns for each in group.trajectories]
        return np.array(rewards)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "estimator_of_mine", raising=False)
    path = tmp_path / "own" / "estimator_of_mine.py"
    path.parent.mkdir()
    path.write_text(MINE)
    return path


def as_compared(directory: Path, *arms: str) -> None:
    """Gives the made comparison the record of one between these methods."""
    path = directory / "comparison.json"
    kept = json.loads(path.read_text())
    config = CompareConfig(arms=arms, seeds=tuple(kept["seeds"]), output_dir=directory)
    path.unlink()
    write_comparison(config, {}, 1.0)
    for folder in list((directory / "runs").iterdir()):
        name, _, seed = folder.name.rpartition("-seed")
        new = list(config.algorithms)[kept["arms"].index(name)]
        folder.rename(folder.with_name(f"{new}-seed{seed}"))


def test_a_method_may_be_a_class_in_a_file(mine: Path) -> None:
    config = CompareConfig(arms=("grpo", f"{mine}:Mine"))
    assert list(config.algorithms) == ["grpo", "mine"]
    advantage = config.algorithms["mine"].apply(config.train).advantage
    assert type(advantage).__name__ == "Mine"
    assert place_of(type(advantage)) == f"{mine}:Mine"
    back = from_record("advantage", config_to_dict(advantage), {"Mine": f"{mine}:Mine"})
    assert back == advantage


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nowhere.py:Mine", "there is no such file"), ("{mine}:Other", "must be a concrete subcl")],
)
def test_a_class_that_is_not_there_is_said(mine: Path, name: str, message: str) -> None:
    from calibadv_algo.advantages.base import AdvantageEstimator

    with pytest.raises(ValueError, match=message):
        find_part(AdvantageEstimator, name.format(mine=mine))


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path: Path) -> None:
    from calibadv_algo.advantages.base import AdvantageEstimator

    path = tmp_path / "json.py"
    path.write_text(MINE)
    with pytest.raises(ValueError, match="must have another name: there is a module json already"):
        find_part(AdvantageEstimator, f"{path}:Mine")


def test_recorded_parts_are_made_again() -> None:
    inverted = CompareConfig(arms=("calibadv-inverted",)).algorithms["calibadv-inverted"]
    config = inverted.apply(CompareConfig().train)
    for kind, part in (("advantage", config.advantage), ("credit", config.credit)):
        record = json.loads(json.dumps(config_to_dict(part)))
        assert from_record(kind, record, {}) == part
    with pytest.raises(ValueError, match="Grpo has other settings than recorded"):
        from_record("advantage", {"type": "Grpo", "nothing": 1}, {})


def test_the_page_shows_the_methods_that_were_compared(comparison_dir: Path, mine: Path) -> None:
    as_compared(comparison_dir, "rloo", f"{mine}:Mine")
    comparison = read_comparison(comparison_dir)
    path = next((comparison_dir / "runs").glob("*/trajectories/*.jsonl"))
    group = next(iterate_groups(path))
    methods = compared_methods(comparison, group)
    assert methods.labels == ("rloo", "mine")
    silver = np.full((len(group), group.max_turns), np.nan)
    rewards = [each.reward for each in group.trajectories]
    expected = Rloo()(group, silver)
    np.testing.assert_allclose(methods.reference.advantages(group, silver), expected)
    np.testing.assert_allclose(methods.other.advantages(group, silver)[:, 0], np.array(rewards) / 2)
    page = render_page(comparison)
    assert '"methods":["rloo","mine"]' in page
    lead = page.split('<p class="lead">')[1].split("</p>")[0]
    assert lead.startswith("<strong>The smallest difference in F1")
    assert "F1 on 40 questions of dev, 2 seeds: rloo 0." in lead
    assert "mine − rloo is " in lead
    assert lead.index("mine − rloo") < lead.index("rloo punishes ")
    assert "GRPO" not in lead


def test_a_method_that_cannot_be_applied_is_named(comparison_dir: Path) -> None:
    as_compared(comparison_dir, "grpo", "vine")
    comparison = read_comparison(comparison_dir)
    path = next((comparison_dir / "runs").glob("*/trajectories/*.jsonl"))
    methods = compared_methods(comparison, next(iterate_groups(path)))
    assert methods.labels == ("GRPO", "CalibAdv")
    [remark] = methods.remarks
    assert remark.startswith("vine cannot be applied to recorded groups: ")
    assert remark in html.unescape(render_page(comparison))


def test_a_difference_has_the_interval_and_the_word_of_its_verdict(comparison_dir: Path) -> None:
    summary = summarise(read_comparison(comparison_dir))
    [verdict] = summary.judgement.verdicts.values()
    told = result_sentences(summary)[-1]
    table = verdict_table(summary)
    assert told.endswith(f", {verdict.word}.")
    assert table.rows[0][1].partition(" ")[2] in told  # the same interval as in the table


def test_without_a_verdict_the_sentence_says_whether_the_interval_holds_0(
    comparison_dir: Path,
) -> None:
    summary = summarise(read_comparison(comparison_dir))
    summary = replace(summary, judgement=replace(summary.judgement, verdicts={}))
    split = summary.splits[0]
    [row] = [row for row in split.rows if row.kind == "difference"]
    low, high = (replace(row.scores["f1"], low=a, high=b) for a, b in ((0.1, 0.2), (-0.1, 0.2)))
    for interval, words in ((low, "[+0.100, +0.200], which excludes 0."), (high, "holds 0")):
        changed = replace(row, scores={**row.scores, "f1": interval})
        rows = tuple(changed if each is row else each for each in split.rows)
        told = result_sentences(replace(summary, splits=(replace(split, rows=rows),)))
        assert words in told[-1]


def test_estimators_of_the_library_have_no_place() -> None:
    config = CompareConfig(arms=("grpo", "loo=rloo"))
    parts = [each.apply(config.train).advantage for each in config.algorithms.values()]
    assert parts == [Grpo(), Rloo()]
