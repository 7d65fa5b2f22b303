"""Settings of rollouts that measure the value of every state; no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from calibadv_env.common.checks import POSITIVE, Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class VineSampling(Checked):
    """Every state of every episode is played on several times; the mean return is its value.

    **Source:** VinePPO (arXiv 2410.01679), which takes nine continuations.
    """

    continuations: Annotated[int, POSITIVE] = 9
    """Continuations of each state; equal states of a group share theirs."""
