"""Estimators against a truth that is known: the truth itself, its negative, and themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.truth.audit import Audit, audit, redrawn_shares
from calibadv_algo.experiments.truth.candidates import Candidate, Field, library, own_candidate
from calibadv_algo.experiments.truth.intervals import Score, compare, draw_clusters
from calibadv_algo.experiments.truth.kinds import MIN_TURNS
from calibadv_algo.experiments.truth.measuring import Measurement, Plan
from calibadv_algo.experiments.truth.metrics import METRICS
from calibadv_algo.experiments.truth.turns import collect_turns, own_cluster_key
from calibadv_algo.experiments.truth.values import MeasuredGroup
from calibadv_algo.report.credit import CreditSource, board, sentences
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group
from tests.algo.test_truth_measuring import run
from tests.algo.text_worlds import WORLDS, letters_of, stop_or_search, when_to_stop

WORLD = when_to_stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(AdvantageEstimator):
    """The true advantages of the world, times a factor."""

    factor: float = 1.0

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        result = np.zeros_like(correctness)
        for row, trajectory in enumerate(group.trajectories):
            letters = letters_of(trajectory)
            for turn in range(len(letters)):
                result[row, turn] = self.factor * WORLD.advantage(letters[: turn + 1])
        return result


def candidate(name: str, advantage: AdvantageEstimator) -> Candidate:
    config = replace(ATLAS_TINY, advantage=advantage, credit=NoCredit())
    return Candidate(name=name, kind="own", config=config)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    plan = Plan(group_size=4, continuations=16)
    return run(WORLD, tmp_path_factory.mktemp("truth"), plan, 40)


@pytest.fixture(scope="module")
def result(measured: Measurement) -> Audit:
    field = Field(
        candidates=(
            candidate("grpo", Grpo()),
            candidate("again", Grpo()),
            candidate("truth", Exact()),
            candidate("opposite", Exact(factor=-3.0)),
        )
    )
    return audit(measured.groups, field)


def of(result: Audit, name: str, metric: str, part: str = "all") -> Interval:
    return result.standings[part][name].scores[metric]


def test_the_truth_scores_one_and_its_opposite_minus_one(result: Audit) -> None:
    assert of(result, "truth", "corrected").estimate == pytest.approx(1.0, abs=0.05)
    assert of(result, "opposite", "corrected").estimate == pytest.approx(-1.0, abs=0.05)
    assert of(result, "truth", "rank").estimate > 0.8
    assert of(result, "opposite", "rank").estimate < -0.8
    for metric in ("good_punished", "bad_rewarded"):
        assert of(result, "truth", metric).estimate < 0.12
        assert of(result, "opposite", metric).estimate > 0.8
    assert of(result, "truth", "wrong_mass").estimate < 0.15
    assert abs(of(result, "truth", "search_bias").estimate) < 0.1


def test_noise_draws_the_raw_correlation_towards_nought(result: Audit) -> None:
    raw, corrected = (of(result, "truth", name).estimate for name in ("correlation", "corrected"))
    assert raw < corrected
    reliability = result.reliability["all"].estimate
    assert raw == pytest.approx(np.sqrt(reliability), abs=0.05)


def test_an_estimator_against_itself_differs_by_nothing(result: Audit) -> None:
    for metric, difference in result.standings["all"]["again"].against.items():
        assert difference.interval == Interval(estimate=0.0, low=0.0, high=0.0), metric
        assert difference.verdict == "undecided"


def test_the_truth_beats_grpo_and_its_opposite_is_beaten(result: Audit) -> None:
    against = result.standings["all"]
    assert against["truth"].against["correlation"].verdict == "better"
    assert against["opposite"].against["correlation"].verdict == "worse"
    assert against["truth"].against["wrong_mass"].verdict == "better", "low is good there"
    joint = against["truth"].against["correlation"]
    assert joint.joint.low < joint.interval.low, "all comparisons at once need more room"


def test_redrawing_siblings_moves_grpo_but_not_the_truth(
    measured: Measurement, result: Audit
) -> None:
    assert result.jackknife["truth"] == pytest.approx(0.0, abs=1e-12)
    assert result.jackknife["grpo"] > 0.05
    groups = [each.group for each in measured.groups]
    pairs = [Group(each.trajectories[:2]) for each in groups]
    assert np.isnan(redrawn_shares([candidate("grpo", Grpo())], pairs, {})["grpo"])


def test_what_searches_are_worth(result: Audit) -> None:
    worth = {each.what: each for each in result.worth}
    first = worth["search 1, correct by gold"].advantage
    assert first.low <= WORLD.advantage("a") <= first.high
    assert worth["all searches"].count == result.num_turns["searches"]


def test_correlations_are_given_for_every_kind_of_turn(result: Audit) -> None:
    """But not for kinds that an estimator chose: GRPO's verdicts would favour others there."""
    for name in ("grpo", "truth", "opposite"):
        assert result.by_kind["all searches"][name] == of(result, name, "correlation", "searches")
        assert result.by_kind["last turns"][name] == of(result, name, "correlation", "answers")
    counts = {each.what: each.count for each in result.worth}
    assert result.by_kind["search 1"]["truth"].estimate > 0
    assert all(counts[kind] >= MIN_TURNS for kind in result.by_kind)
    assert "searches that GRPO punishes" in counts
    assert not any("punishe" in kind or "of them" in kind for kind in result.by_kind)
    assert set(result.to_dict()["by_kind"]) == set(result.by_kind)


def test_a_candidate_that_cannot_be_applied_is_named_with_its_reason(measured: Measurement) -> None:
    field = Field(
        candidates=(candidate("grpo", Grpo()), own_candidate("tree-grpo")),
        left_out={"judge": "needs a judge"},
    )
    left_out = audit(measured.groups, field).left_out
    assert left_out["judge"] == "needs a judge"
    assert "needs the info key" in left_out["tree-grpo"]


def test_questions_of_a_cluster_are_resampled_together(measured: Measurement) -> None:
    """By the name that the environment gives, unless one of the questions has none."""
    assert own_cluster_key(measured.groups) is None
    named = [_in_cluster(each, f"c{i % 5}") for i, each in enumerate(measured.groups)]
    assert own_cluster_key(named) == "cluster"
    assert len(collect_turns(named, "cluster").clusters) == 5
    assert len(collect_turns(named).clusters) == 40
    named[-1] = measured.groups[-1]
    assert own_cluster_key(named) is None


def _in_cluster(measured: MeasuredGroup, name: str) -> MeasuredGroup:
    """The same group, whose question names its cluster."""
    named = [
        replace(each, reset_info={**each.reset_info, "cluster": name})
        for each in measured.group.trajectories
    ]
    return replace(measured, group=Group(tuple(named)))


def test_the_reference_must_be_there(measured: Measurement) -> None:
    with pytest.raises(ValueError, match="reference must be a candidate"):
        audit(measured.groups, Field(candidates=(candidate("other", Grpo()),)))


def test_another_reference_changes_differences_alone(measured: Measurement) -> None:
    field = Field(candidates=(own_candidate("grpo"), own_candidate("rloo")))
    by_grpo = audit(measured.groups, field)
    by_rloo = audit(measured.groups, field, reference="rloo")
    assert by_rloo.worth == by_grpo.worth, "the searches that GRPO punishes are GRPO's all the same"
    assert any(each.what == "searches that GRPO punishes" for each in by_rloo.worth)
    one = by_grpo.standings["all"]["rloo"].against["correlation"]
    other = by_rloo.standings["all"]["grpo"].against["correlation"]
    assert other.joint.estimate == pytest.approx(-one.joint.estimate)
    assert other.joint.low == pytest.approx(-one.joint.high)
    source = CreditSource(
        label="p", measured=measured.groups, audit=by_rloo, facts={"questions": 1}
    )
    table = board(source, "all")
    assert table.header[1:4] == ("Correlation", "− rloo", "Verdict")
    assert [table.rows[i][0] for i in table.emphasised] == ["rloo"]
    assert sentences(source)[0].startswith("Against rloo, ")


def test_every_estimator_meets_every_label_source() -> None:
    names = {each.name for each in library().candidates}
    for labels in ("silver", "gold", "answer-match", "random", "inverted", "relevance"):
        assert {f"calibadv/{labels}", f"soft-penalty/{labels}", f"turn-group/{labels}"} <= names
    assert {"grpo", "mt-grpo", "gigpo", "rloo", "dr-grpo"} <= names
    assert "gspo" in library().left_out, "another loss, the same advantages"


def test_an_estimator_of_ones_own_by_import_path() -> None:
    mine = own_candidate("tests.algo.test_truth_audit:Exact")
    assert mine.config.advantage == Exact()
    with_labels = own_candidate("calibadv/gold")
    assert type(with_labels.config.credit).__name__ == "GoldCredit"
    with pytest.raises(ValueError, match="is no AdvantageEstimator"):
        own_candidate("nothing-like-it")


def test_joint_intervals_hold_for_all_comparisons() -> None:
    """Of many candidates without any difference hardly ever one is called better or worse."""
    rng = np.random.default_rng(0)
    wrong = 0
    for trial in range(60):
        weights = draw_clusters(30, trial, 400)
        values = rng.normal(size=(11, 30))
        samples = weights @ values.T / weights.sum(axis=1)[:, None]
        scores = {
            str(i): Score(
                interval=Interval(estimate=float(values[i].mean()), low=0, high=0),
                samples=samples[:, i],
            )
            for i in range(11)
        }
        verdicts = {each.verdict for each in compare(scores, "0").values()}
        wrong += verdicts != {"undecided"}
    assert wrong <= 10, "5 % of 60 is 3; single intervals would err in most trials"


@pytest.mark.slow
def test_intervals_cover_at_the_nominal_rate(tmp_path: Path) -> None:
    """Measure again and again: the interval of a correlation holds that of a huge measurement."""
    world = stop_or_search()
    big = run(world, tmp_path / "big", Plan(group_size=4, continuations=64), 1500)
    field = Field(candidates=(candidate("grpo", Grpo()),))
    target = of(audit(big.groups, field), "grpo", "corrected").estimate
    hits = 0
    for trial in range(100):
        plan = Plan(group_size=4, continuations=16, seed=trial)
        part = run(world, tmp_path / str(trial), plan, 48)
        interval = of(audit(part.groups, field, seed=trial), "grpo", "corrected")
        hits += interval.low <= target <= interval.high
    assert 88 <= hits <= 100


def test_metrics_have_names_of_their_own() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len(WORLDS) == 4
