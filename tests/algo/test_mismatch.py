"""Engine and trainer apart: weights and measures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from calibadv_algo.losses.base import NoCorrection
from calibadv_algo.losses.mismatch import SequenceTis, TokenTis, mismatch_stats

SEQUENCE = np.array([0, 0, 1])
OLD = np.array([-1.0, -2.0, -3.0])
SAMPLED = OLD - np.log([0.5, 4.0, 1.0])


def weights(correction: TokenTis | SequenceTis | NoCorrection) -> list[float] | None:
    found = correction.weights(
        torch.from_numpy(OLD), torch.from_numpy(SAMPLED), torch.from_numpy(SEQUENCE)
    )
    return None if found is None else found.tolist()


def test_weights() -> None:
    assert weights(NoCorrection()) is None
    assert weights(TokenTis()) == pytest.approx([0.5, 2.0, 1.0])
    assert weights(SequenceTis(cap=3.0)) == pytest.approx([2.0, 2.0, 1.0])
    assert weights(SequenceTis(cap=1.5)) == pytest.approx([1.5, 1.5, 1.0])


def test_measures() -> None:
    found = mismatch_stats(OLD, SAMPLED, SEQUENCE)
    assert found["mismatch_mean_abs"] == pytest.approx((math.log(2) + math.log(4)) / 3)
    assert found["mismatch_max_abs"] == pytest.approx(math.log(4))
    assert found["mismatch_k1"] == pytest.approx(-math.log(2) / 3)
    assert found["mismatch_k3"] == pytest.approx((0.5 + 4 + 1 - 3 - math.log(2)) / 3)
    assert found["mismatch_sequence_ratio_min"] == pytest.approx(1.0)
    assert found["mismatch_sequence_ratio_median"] == pytest.approx(1.5)
    assert found["mismatch_sequence_ratio_max"] == pytest.approx(2.0)
    assert 0.5 <= found["mismatch_ratio_p01"] < found["mismatch_ratio_p99"] <= 4.0


def test_equal_ones_and_none_at_all() -> None:
    found = mismatch_stats(OLD, OLD, SEQUENCE)
    assert found["mismatch_max_abs"] == found["mismatch_k3"] == 0
    assert found["mismatch_sequence_ratio_max"] == 1
    assert mismatch_stats(OLD[:0], OLD[:0], SEQUENCE[:0]) == {}


def test_infinite_differences_do_not_overflow() -> None:
    found = mismatch_stats(np.array([0.0]), np.array([-900.0]), np.array([0]))
    assert math.isfinite(found["mismatch_k3"])
    assert math.isfinite(found["mismatch_sequence_ratio_max"])
