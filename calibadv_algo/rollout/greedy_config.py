"""Settings of rollouts with a greedy episode beside every group; no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from calibadv_env.common.checks import Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyBaseline(Checked):
    """Every question is also played once greedily; the return is the baseline of its episodes.

    **Source:** ReMax (arXiv 2310.10505).
    """
