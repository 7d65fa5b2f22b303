"""GRPO at CalibAdv's size: same shape, same mass."""

from __future__ import annotations

import numpy as np

from calibadv_algo.advantages.mass_matched import match_mass

COUNTS = np.array([[4.0, 2.0], [3.0, 0.0]])


def test_the_mass_is_the_targets_and_the_shape_is_kept() -> None:
    advantages = np.array([[1.0, 1.0], [-2.0, 0.0]])  # mass 6 + 6 = 12
    target = np.array([[0.5, 0.0], [-1.0, 0.0]])  # mass 2 + 3 = 5
    result = match_mass(advantages, target, COUNTS)
    np.testing.assert_allclose(result, advantages * 5 / 12, rtol=1e-15)
    assert (np.abs(result) * COUNTS).sum() == np.float64(5.0)


def test_a_target_without_mass_gives_zeros() -> None:
    assert not match_mass(np.ones((2, 2)), np.zeros((2, 2)), COUNTS).any()


def test_advantages_without_mass_stay() -> None:
    zeros = np.zeros((2, 2))
    assert match_mass(zeros, np.ones((2, 2)), COUNTS) is zeros


def test_turns_that_do_not_exist_have_no_mass() -> None:
    advantages = np.array([[1.0, 0.0], [0.0, 7.0]])
    np.testing.assert_array_equal(match_mass(advantages, advantages, COUNTS), advantages)
