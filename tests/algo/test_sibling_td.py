"""Values by the other episodes of a group: numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibadv_algo.advantages.rloo import Rloo
from calibadv_algo.advantages.sibling_td import LabelledSiblingTd, SiblingTd, sibling_values
from tests.algo.test_advantages_baselines import make_group, no_scores
from tests.algo.test_methods_second import with_states


def test_values_leave_the_episode_out_and_are_drawn_to_the_mean() -> None:
    states = [["root", "a"], ["root", "a"], ["root", "b"]]
    to_go = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    expected = np.full((3, 2), 0.5)
    found = sibling_values(states, to_go, expected, prior=1.0)
    by_hand = [
        [(0 + 1 + 0.5) / 3, (0 + 0.5) / 2],
        [(1 + 1 + 0.5) / 3, (1 + 0.5) / 2],
        [(1 + 0 + 0.5) / 3, 0.5],
    ]
    np.testing.assert_allclose(found, by_hand)


def test_sibling_td_by_hand() -> None:
    """Two came to a, with 1 and 0, one to b, with 1; the others' mean is .5, 1 and .5."""
    group = with_states([(["a"], 1.0), (["a"], 0.0), (["b"], 1.0)])
    found = SiblingTd(lam=0.5)(group, no_scores(group))
    for row, (reward, others, at_next) in enumerate(
        [(1.0, [0.0, 1.0], [0.0]), (0.0, [1.0, 1.0], [1.0]), (1.0, [1.0, 0.0], [])]
    ):
        mean = sum(others) / 2
        root = (sum(others) + mean) / 3
        then = (sum(at_next) + mean) / (len(at_next) + 1)
        last = reward - then
        assert found[row, 1] == pytest.approx(last)
        assert found[row, 0] == pytest.approx(then - root + 0.5 * last)


def test_where_nobody_meets_the_whole_difference_is_rloo_s() -> None:
    group = with_states([(["a"], 1.0), (["b"], 0.0), (["c"], 0.5)])
    found = SiblingTd(lam=1.0)(group, no_scores(group))
    np.testing.assert_allclose(found, Rloo()(group, no_scores(group)))


def test_a_lone_episode_keeps_its_rewards() -> None:
    group = make_group([[(0.25, 1), (1.0, 2)]])
    assert SiblingTd()(group, no_scores(group)).tolist() == [[1.25, 1.0]]


def test_labels_are_compared_within_the_group() -> None:
    group = with_states([(["a"], 1.0), (["a"], 0.0), (["b"], 1.0)])
    labels = np.array([[1.0, np.nan], [0.25, np.nan], [np.nan, np.nan]])
    plain = SiblingTd()(group, labels)
    found = LabelledSiblingTd(label_weight=0.4)(group, labels)
    np.testing.assert_allclose(found - plain, [[0.15, 0], [-0.15, 0], [0, 0]], atol=1e-12)
    assert np.array_equal(LabelledSiblingTd()(group, no_scores(group)), plain)
