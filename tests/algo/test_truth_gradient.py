"""Directions of the gradient from sketches, against whole gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calibadv_algo.experiments.truth.gradient import gradient_cosines, sketch_turns
from calibadv_algo.experiments.truth.intervals import draw_clusters
from calibadv_algo.experiments.truth.measuring import Plan
from calibadv_algo.experiments.truth.turns import collect_turns
from calibadv_algo.types import Trajectory, Turn
from tests.algo import letters
from tests.algo.test_truth_measuring import run
from tests.algo.text_worlds import stop_or_search


def episode(actions: tuple[tuple[int, ...], ...]) -> Trajectory:
    turns = tuple(
        Turn(action_ids=a, action_text="a", logprobs=(0.0,) * len(a), observation_ids=(2,))
        for a in actions
    )
    return Trajectory(group_id="g", task_id="0", prompt_ids=(4, 2), prompt_text="a>", turns=turns)


def test_sketches_keep_inner_products() -> None:
    model = letters.make_model()
    trajectories = [episode(((4, 3), (5, 3))), episode(((6,), (7, 7), (4, 3)))]
    sketches = sketch_turns(model, trajectories, size=4096)
    assert sketches.shape == (5, 4096)
    whole = []
    for each in trajectories:
        ids = list(each.prompt_ids)
        for turn in each.turns:
            start = len(ids)
            ids += turn.action_ids
            logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            chosen = [logits[start - 1 + i, t] for i, t in enumerate(turn.action_ids)]
            loss = torch.stack(chosen).sum()
            parts = torch.autograd.grad(loss, list(model.parameters()))
            whole.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
            ids += turn.observation_ids
    exact, sketched = np.stack(whole) @ np.stack(whole).T, sketches @ sketches.T
    assert np.abs(sketched - exact).max() < 0.1 * np.diag(exact).max()
    assert np.diag(sketched) == pytest.approx(np.diag(exact), rel=0.15)


def test_the_truth_points_the_right_way_and_its_opposite_the_other(tmp_path: Path) -> None:
    """Every turn has a direction of its own, so the cosine is that of the advantages."""
    measured = run(stop_or_search(), tmp_path, Plan(group_size=4, continuations=16), 24)
    turns = collect_turns(measured.groups)
    sketches = np.eye(len(turns.truth))
    rng = np.random.default_rng(0)
    estimates = {
        "half": turns.halves[0],
        "opposite": -turns.truth,
        "noise": rng.normal(size=len(turns.truth)),
    }
    weights = draw_clusters(len(turns.clusters), 0)
    cosines, ceiling = gradient_cosines(estimates, turns, sketches, weights)
    assert 0.5 < ceiling <= 1.0
    assert cosines["opposite"].scores["cosine"].estimate < -0.9
    assert abs(cosines["noise"].scores["cosine"].estimate) < 0.3
    interval = cosines["half"].scores["cosine"]
    assert interval.low <= interval.estimate <= interval.high
    assert interval.estimate > 0.7
