"""Measured advantages against exact ones, and measurements that were interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibadv_algo.experiments.truth.log import LOG_FILE, TruthLog, TruthLogError
from calibadv_algo.experiments.truth.measuring import Measurement, Plan, measure
from calibadv_algo.experiments.truth.turns import collect_turns, truths
from calibadv_algo.experiments.truth.values import Returns, allocate
from calibadv_algo.rollout.continuations import ReplayError, ReplaySlots, play_on, walk
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.slots import ListSlots
from tests.algo.text_worlds import WORLDS, World, letters_of, make_player, stop_or_search

PLAN = Plan(group_size=4, continuations=8, block=4)


def run(
    world: World,
    folder: Path,
    plan: Plan = PLAN,
    num_questions: int = 8,
    *,
    cloneable: bool = True,
    budget_s: float | None = None,
) -> Measurement:
    log = TruthLog(folder, {"plan": repr(plan)})
    try:
        player = make_player(world, cloneable=cloneable)
        return measure(player, range(num_questions), plan, log, budget_s=budget_s)
    finally:
        log.close()


def exact_and_measured(world: World, measured: Measurement) -> tuple[np.ndarray, np.ndarray]:
    exact, found = [], []
    for each, truth in zip(measured.groups, truths(measured.groups), strict=True):
        for row, trajectory in enumerate(each.group.trajectories):
            letters = letters_of(trajectory)
            for turn in range(len(letters)):
                exact.append(world.advantage(letters[: turn + 1]))
                found.append(truth.advantages[row, turn])
    return np.array(exact), np.array(found)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("allocation", ["even", "adaptive"])
def test_measured_advantages_come_near_exact_ones(
    world: World, allocation: str, tmp_path: Path
) -> None:
    """The mean square error falls as one over the number of continuations."""
    errors = []
    for continuations in (4, 64):
        plan = Plan(group_size=4, continuations=continuations, allocation=allocation)  # type: ignore[arg-type]
        measured = run(world, tmp_path / str(continuations), plan, 6)
        exact, found = exact_and_measured(world, measured)
        errors.append(float(np.mean((exact - found) ** 2)))
    assert errors[1] < errors[0] / 6, "16 times the continuations, a sixteenth of the error"
    assert errors[1] < 0.03


def test_standard_errors_are_as_large_as_the_errors(tmp_path: Path) -> None:
    world = stop_or_search()
    measured = run(world, tmp_path, Plan(group_size=4, continuations=8), 40)
    exact, found = exact_and_measured(world, measured)
    turns = collect_turns(measured.groups)
    ratio = np.mean((exact - found) ** 2) / np.mean(turns.error**2)
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize("allocation", ["even", "adaptive"])
def test_a_measurement_that_was_cut_goes_on_to_the_same_numbers(
    allocation: str, tmp_path: Path
) -> None:
    plan = replace(PLAN, allocation=allocation)
    world = stop_or_search()
    whole = run(world, tmp_path / "whole", plan)
    run(world, tmp_path / "cut", plan)
    path = tmp_path / "cut" / LOG_FILE
    data = path.read_bytes()
    for share in (0.2, 0.55, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        again = run(world, tmp_path / "cut", plan)
        assert [g.returns for g in again.groups] == [g.returns for g in whole.groups]
        assert [g.group for g in again.groups] == [g.group for g in whole.groups]


def test_a_finished_measurement_samples_nothing(tmp_path: Path) -> None:
    first = run(stop_or_search(), tmp_path)
    log = TruthLog(tmp_path, {"plan": repr(PLAN)})
    player = make_player(stop_or_search())
    again = measure(player, range(8), PLAN, log)
    log.close()
    assert player.engine.contexts == []  # type: ignore[attr-defined]
    assert [g.returns for g in again.groups] == [g.returns for g in first.groups]


def test_replayed_states_have_the_values_of_cloned_ones(tmp_path: Path) -> None:
    world = WORLDS[3]
    cloned = run(world, tmp_path / "a", cloneable=True)
    replayed = run(world, tmp_path / "b", cloneable=False)
    assert [g.returns for g in cloned.groups] == [g.returns for g in replayed.groups]


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    run(stop_or_search(), tmp_path)
    with pytest.raises(TruthLogError, match="other settings"):
        run(stop_or_search(), tmp_path, replace(PLAN, continuations=16))


def test_a_budget_ends_after_a_whole_block(tmp_path: Path) -> None:
    measured = run(stop_or_search(), tmp_path, num_questions=12, budget_s=0.0)
    assert measured.num_questions == PLAN.block
    whole = run(stop_or_search(), tmp_path, num_questions=12)
    assert [g.returns for g in whole.groups[:4]] == [g.returns for g in measured.groups]


def test_equal_states_are_measured_once(tmp_path: Path) -> None:
    measured = run(stop_or_search(), tmp_path)
    group = measured.groups[0]
    assert len({id(row[0]) for row in group.returns}) == 1
    distinct = {letters_of(t)[:k] for t in group.group.trajectories for k in range(len(t.turns))}
    assert len({id(each) for row in group.returns for each in row}) == len(distinct)


def test_continuations_begin_with_the_sampled_tokens(tmp_path: Path) -> None:
    """Each starts from its state's tokens and plays on with the rewards of the prefix counted."""
    world = stop_or_search()
    player = make_player(world)
    spec = EpisodeSpec(task_index=0, group_id="g", seed=2)
    trajectory = next(
        each
        for seed in range(100)
        for each in player.play([replace(spec, seed=seed)]).trajectories
        if len(each.turns) == 3
    )
    nodes = walk(player.slots, [(spec, trajectory)], [(0, 2)])  # type: ignore[arg-type]
    specs = [replace(spec, seed=seed) for seed in range(20)]
    batch = play_on(player, player.slots, specs, [nodes[0, 2]] * 20)  # type: ignore[arg-type]
    rewards = [each.reward for each in batch.trajectories]
    assert all(each.turns[:2] == trajectory.turns[:2] for each in batch.trajectories)
    assert set(rewards) == {2.0, 3.0}


def test_an_environment_that_does_not_repeat_itself_is_found_out() -> None:
    player = make_player(stop_or_search(), cloneable=False)
    spec = EpisodeSpec(task_index=0, group_id="g", seed=2)
    trajectory = player.play([spec]).trajectories[0]
    other = replace(trajectory, prompt_text="?>")
    with pytest.raises(ReplayError, match="another observation"):
        walk(ReplaySlots(player.slots), [(spec, other)], [(0, 0)])


def test_slots_that_move_together_cannot_replay() -> None:
    class Together(ListSlots):
        can_step_part = False  # type: ignore[assignment]

    slots = make_player(stop_or_search(), cloneable=False).slots
    slots.__class__ = Together
    with pytest.raises(ValueError, match="neither clone_state nor"):
        ReplaySlots(slots)


def test_the_second_stage_goes_where_returns_differ() -> None:
    counts = allocate([[0, 0, 0, 0], [0, 1, 0, 1]], [2, 2], 24)
    assert sum(counts) == 24
    assert counts[1] > counts[0] >= 2
    assert allocate([[0, 1], [0, 1]], [1, 16], 24)[1] > 12, "a state that many turns share"
    assert allocate([[0, 1], [0, 1]], [1, 1], 0) == [2, 2]


def test_a_value_weighs_its_stages_as_set_beforehand() -> None:
    state = Returns(pilot=(0.0, 0.0), rest=(1.0, 1.0, 1.0, 1.0), pilot_weight=0.25)
    assert state.value == 0.75
    assert (state.half(0), state.half(1)) == (0.75, 0.75)
    assert state.variance_factor() == pytest.approx(0.25**2 / 2 + 0.75**2 / 4)
