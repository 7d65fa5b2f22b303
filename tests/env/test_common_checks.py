from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from calibadv_env.common.checks import (
    FRACTION,
    MAY_BE_INFINITE,
    NOT_NEGATIVE,
    POSITIVE,
    Checked,
    require_fraction,
    require_not_negative,
    require_positive,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Checked):
    rate: Annotated[float, POSITIVE] = 1.0
    weight: Annotated[float, NOT_NEGATIVE] = 0.0
    share: Annotated[float, FRACTION] = 0.5
    open_share: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    limit: Annotated[int | None, POSITIVE] = None
    size: Annotated[int, POSITIVE] | None = None
    mode: Literal["token", "sequence", "none"] = "token"
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], ...] = (0.9, 0.99)
    bare: float = 0.0
    maybe: float | None = None
    number: float | int | None = None
    weights: tuple[float, ...] = ()
    cap: Annotated[float, POSITIVE, MAY_BE_INFINITE] = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrower(Settings):
    depth: Annotated[int, POSITIVE] = 1


@pytest.mark.parametrize("settings", [Settings, Narrower])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "rate must be positive, got 0"),
        ({"rate": math.nan}, "rate must be positive, got nan"),
        ({"rate": "fast"}, "rate must be positive, got 'fast'"),
        ({"weight": -0.5}, "weight must not be negative, got -0.5"),
        ({"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
        ({"open_share": 1}, r"open_share must be in \(0, 1\), got 1"),
        ({"limit": 0}, "limit must be positive, got 0"),
        ({"size": -1}, "size must be positive, got -1"),
        ({"rate": math.inf}, "rate must be finite, got inf"),
        ({"weight": math.inf}, "weight must be finite, got inf"),
        ({"bare": math.nan}, "bare must be finite, got nan"),
        ({"bare": -math.inf}, "bare must be finite, got -inf"),
        ({"maybe": math.inf}, "maybe must be finite, got inf"),
        ({"number": math.nan}, "number must be finite, got nan"),
        ({"weights": (1.0, math.inf)}, r"weights must be finite, got \(1.0, inf\)"),
        ({"cap": math.nan}, "cap must be positive, got nan"),
        ({"cap": -math.inf}, "cap must be positive, got -inf"),
        ({"mode": "word"}, "mode must be token, sequence or none, got 'word'"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
    ],
)
def test_a_value_that_breaks_a_rule_is_named(
    settings: type[Settings], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_values_within_their_ranges_pass() -> None:
    Settings(rate=1e-9, weight=0, share=1, limit=3, size=None, mode="none", betas=())
    Narrower()
    with pytest.raises(ValueError, match="depth must be positive"):
        Narrower(depth=0)


@pytest.mark.parametrize(
    ("require", "good", "bad", "words"),
    [
        (require_positive, 0.1, 0.0, "be positive"),
        (require_not_negative, 0.0, -0.1, "not be negative"),
        (require_fraction, 1.0, 1.1, r"be in \[0, 1\]"),
        (require_positive, 1.0, math.inf, "be finite"),
        (require_not_negative, 0.0, math.inf, "be finite"),
    ],
)
def test_arguments_of_functions(require: Any, good: float, bad: float, words: str) -> None:
    require(one=good, other=None)
    with pytest.raises(ValueError, match=f"other must {words}, got {bad}"):
        require(one=good, other=bad)
