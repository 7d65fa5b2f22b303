"""Steps of the optimiser: loss scaling changes no gradient, and survives an overflow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.optimizer import Stepper, lr_factor


def make_stepper(**changes: Any) -> tuple[nn.Parameter, Stepper]:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    return parameter, Stepper([parameter], OptimConfig(lr=0.1, **changes))


def test_scaling_does_not_change_the_step() -> None:
    found = []
    for dtype in ("fp32", "fp16"):
        parameter, stepper = make_stepper(dtype=dtype)
        for _ in range(3):
            stepper.backward((parameter**2).sum())
            norm = stepper.step()
        found.append((parameter.tolist(), norm))
    assert found[0] == found[1]


def test_an_overflow_halves_the_scale_and_is_left_out() -> None:
    parameter, stepper = make_stepper(dtype="fp16")
    before = stepper.loss_scale
    assert before == 2.0**16
    stepper.backward(parameter.sum() * math.inf)
    assert not math.isfinite(stepper.step())
    assert parameter.tolist() == [1.0, 2.0]
    assert stepper.loss_scale == before / 2
    stepper.backward(parameter.sum())
    assert stepper.step() == pytest.approx(math.sqrt(2))
    assert parameter.tolist() != [1.0, 2.0]


def test_the_scale_grows_after_its_interval() -> None:
    parameter, stepper = make_stepper(dtype="fp16")
    for _ in range(400):
        assert stepper.loss_scale == 2.0**16
        stepper.backward(parameter.sum())
        stepper.step()
    assert stepper.loss_scale == 2.0**17


def test_the_scale_goes_on_from_a_checkpoint() -> None:
    parameter, stepper = make_stepper(dtype="fp16")
    stepper.backward(parameter.sum() * math.inf)
    stepper.step()
    other_parameter, other = make_stepper(dtype="fp16")
    other.load_scaler_state(stepper.scaler_state())
    assert other.scaler_state() == stepper.scaler_state()
    assert other.loss_scale == stepper.loss_scale
    other.backward(other_parameter.sum())
    assert other.step() == pytest.approx(math.sqrt(2))


def test_without_fp16_there_is_no_scale() -> None:
    _, stepper = make_stepper(dtype="bf16")
    assert stepper.loss_scale is None
    assert stepper.scaler_state() == {}
    stepper.load_scaler_state({})


def test_an_update_without_a_loss_is_a_step_of_nothing() -> None:
    parameter, stepper = make_stepper(dtype="fp16")
    assert stepper.step() == 0
    assert parameter.tolist() == [1.0, 2.0]


def test_a_stepper_may_have_a_rate_of_its_own() -> None:
    parameter = nn.Parameter(torch.ones(1))
    config = OptimConfig(lr=0.1, num_updates=10)
    stepper = Stepper([parameter], config, lr=0.5, warmup_fraction=0.2)
    stepper.begin_update(0)
    assert stepper.lr == 0.25
    stepper.begin_update(5)
    assert stepper.lr == 0.5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    config = OptimConfig(
        num_updates=6, warmup_fraction=1 / 3, schedule=schedule, final_lr_fraction=0.1
    )
    factors = [lr_factor(update, config) for update in range(6)]
    assert factors == pytest.approx(expected)


def test_a_schedule_may_be_longer_than_the_run() -> None:
    """A run that ends early has the rates of the first part of the schedule, warm-up included."""
    whole = OptimConfig(num_updates=10, warmup_fraction=0.2, schedule="cosine")
    part = replace(whole, num_updates=5, schedule_updates=10)
    expected = [lr_factor(update, whole) for update in range(10)]
    assert [lr_factor(update, part) for update in range(10)] == expected
    assert lr_factor(4, replace(part, schedule_updates=None)) == 0
