"""Baselines: published systems, and variants of them, as changes to a training configuration.

They stand in ``baselines/``, one file a system, installed as the package ``calibadv_baselines`` and
found through the entry points of the group ``calibadv_algo.baselines``; any other package may add
more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Literal, Protocol

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.parts import find_parts
from calibadv_env.common.checks import Checked

ENTRY_POINT_GROUP: Final = "calibadv_algo.baselines"
"""Where packages register their systems, by the name that command lines use."""


class Algorithm(Protocol):
    """A way to train with a line about it: an arm or a baseline."""

    @property
    def description(self) -> str:
        """One line for tables and help texts."""
        ...

    @property
    def apply(self) -> Callable[[TrainConfig], TrainConfig]:
        """Puts the algorithm on any settings."""
        ...


Kind = Literal["published", "switch", "variant"]
"""published: a system as its paper has it; switch: CalibAdv with a switch of its own code thrown;
variant: a published system with one thing changed, such as GRPO with a divergence in the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline(Checked):
    """A named way to train, with the settings of its source.

    Attributes:
        name: The name on command lines: lower case, hyphens between words.
        kind: A published system, a switch of CalibAdv's code, or a variant.
        description: One line for tables and help texts.
        source: Where it was published: title or system, with the number of the paper.
        departures: What differs from the publication, one sentence each.
        published: The settings of the publication, as far as they are known.
        apply: Puts the system's algorithm on any settings: what is sampled, filtered, rewarded,
            compared and optimised changes, while model, sizes and rates stay.
    """

    name: str
    kind: Kind
    description: str
    source: str
    departures: tuple[str, ...]
    published: TrainConfig
    apply: Callable[[TrainConfig], TrainConfig]

    def __post_init__(self) -> None:
        """Refuses unknown kinds, and what a table could not print."""
        Checked.__post_init__(self)
        for name in ("name", "description", "source"):
            if not getattr(self, name) or "\n" in getattr(self, name):
                raise ValueError(f"{name} must be one line, got {getattr(self, name)!r}")


def baseline_names() -> list[str]:
    """Names of all systems that are installed, in alphabetical order."""
    return sorted(_entry_points())


def find_baseline(name: str) -> Baseline:
    """The system of a name, of :func:`baseline_names`; only its own file is imported.

    Raises:
        ValueError: if there is no such system; the message lists those that there are.
        TypeError: if what is registered under the name is something else.
    """
    found = _entry_points()
    if not found:
        raise ValueError(
            f"baseline must be registered, got {name!r} where none is: install the package again"
        )
    if name not in found:
        raise ValueError(f"baseline must be among {', '.join(sorted(found))}; got {name!r}")
    baseline = found[name].load()
    if not isinstance(baseline, Baseline) or baseline.name != name:
        raise TypeError(
            f"entry point {name!r} must be a Baseline of that name, got {found[name].value} "
            f"which is {baseline!r:.80}"
        )
    return baseline


def find_algorithm(name: str) -> Algorithm:
    """Looks up an arm or, if there is none of the name, a baseline.

    Raises:
        ValueError: if there is neither; the message lists both.
    """
    if name in ARMS:
        return ARMS[name]
    if name in _entry_points():
        return find_baseline(name)
    others = [other for other in baseline_names() if other not in ARMS]
    raise ValueError(
        f"arms must be among {', '.join(ARMS)}"
        + (f", or the baselines {', '.join(others)}" if others else "")
        + f"; got {name!r}"
        + _as_estimator(name)
    )


def _as_estimator(name: str) -> str:
    """Says how an estimator that is no method by itself is compared; "" for other names."""
    if name not in find_parts(AdvantageEstimator):
        return ""
    return f". {name} is an estimator, which is compared under a name: --arms {name}={name}"


def _entry_points() -> dict[str, EntryPoint]:
    """The registered entry points, by name."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
