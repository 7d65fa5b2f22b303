"""The two methods whose advantages a report shows side by side, for any recorded group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.report.reading import Comparison
from calibadv_algo.training.parts import KINDS, from_record
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group

Matrix = Float[np.ndarray, "group turn"]

_LABELS: Final = {"grpo": "GRPO", "calibadv": "CalibAdv"}
"""Names of methods in sentences, where they differ from those of arms."""

_FAILURES: Final = (CalibadvAlgoError, ValueError, TypeError, KeyError, OSError, ImportError)
"""Errors of a method that cannot be applied to recorded groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method that gives the turns of a recorded group advantages.

    Attributes:
        label: Its name in tables and sentences.
        advantages: Advantages of a group's turns, of which silver correctness is known.
    """

    label: str
    advantages: Callable[[Group, Matrix], Matrix]


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The pair of a report.

    Attributes:
        reference: The method whose punishments are counted.
        other: The method that it is held against.
        remarks: Methods that were compared and are not shown, with the reason, in sentences.
    """

    reference: Method
    other: Method
    remarks: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, str]:
        """Both names, the reference first."""
        return self.reference.label, self.other.label


GRPO_AND_CALIBADV: Final = Methods(
    reference=Method(label="GRPO", advantages=Grpo()),
    other=Method(label="CalibAdv", advantages=CalibAdv()),
)
"""The pair of a diagnosis, and the stand-ins for methods that cannot be applied afterwards."""


def compared_methods(comparison: Comparison, example: Group | None) -> Methods:
    """The pair of a comparison: its reference, and the first other method.

    Where one cannot be applied to what was recorded (it needs a critic, or values that were
    measured while training), GRPO or CalibAdv stands in for it, and a remark says so.

    Args:
        comparison: What was compared.
        example: A recorded group to try them on, None without any.
    """
    names = (
        comparison.baseline,
        *(each for each in comparison.arms if each != comparison.baseline),
    )
    found: list[Method] = []
    remarks = []
    for name in names:
        try:
            method = _recorded_method(comparison, name)
            if example is not None:
                method.advantages(example, np.full((len(example), example.max_turns), np.nan))
        except _FAILURES as error:
            reason = str(error).partition("\n")[0]
            remarks.append(f"{name} cannot be applied to recorded groups: {reason}.")
        else:
            found.append(method)
    shown, hidden = found[:2], found[2:]
    if hidden:
        labels = ", ".join(each.label for each in hidden)
        remarks.append(f"Not shown beside the turns: {labels}.")
    for stand_in in (GRPO_AND_CALIBADV.reference, GRPO_AND_CALIBADV.other):
        if len(shown) < 2 and stand_in.label not in [each.label for each in shown]:
            shown.insert(0 if stand_in.label == "GRPO" else len(shown), stand_in)
    return Methods(reference=shown[0], other=shown[1], remarks=tuple(remarks))


def _recorded_method(comparison: Comparison, name: str) -> Method:
    """A method as the comparison recorded it.

    Raises:
        ValueError: if its classes are not known here, or have other settings now.
    """
    # Imported at need: it brings torch, which a diagnosis of other people's runs does without.
    from calibadv_algo.experiments.truth.candidates import Candidate, ScoredOnce, bare

    changes = comparison.arm_changes.get(name, {})
    config = ATLAS_TINY
    for kind in ("advantage", "credit", "shaping", "loss-mask"):
        field = KINDS[kind]
        record = _merged(comparison.config.get(field), changes.get(field))
        if kind == "advantage" and record is None:
            raise ValueError("its estimator was not recorded")
        if record is not None:
            config = replace(config, **{field: from_record(kind, record, comparison.own_parts)})
    candidate = Candidate(name=name, kind="system", config=bare(config))

    def advantages(group: Group, silver: Matrix) -> Matrix:
        [matrix] = candidate.advantages(ScoredOnce([group]))
        return matrix

    return Method(label=_LABELS.get(name, name), advantages=advantages)


def _merged(shared: Any, change: Any) -> Any:
    """Recorded settings with the changes of an arm; parts of another type are whole."""
    if change is None:
        return shared
    if not (isinstance(shared, Mapping) and isinstance(change, Mapping)) or "type" in change:
        return change
    return {**shared, **{key: _merged(shared.get(key), value) for key, value in change.items()}}
