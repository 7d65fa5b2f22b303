"""Search-R1's reward with a format term, the third version of its training script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from calibadv_algo.credit.facts import fact, final_fact
from calibadv_algo.shaping.base import RewardShaping
from calibadv_algo.shaping.facts import is_well_formed_response, outcome_only
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import FRACTION

_WHO = "SearchR1Format"


def format_reward(
    *,
    is_correct: bool,
    is_format_valid: bool,
    has_answer: bool,
    has_evidence: bool,
    structure: float = 0.2,
    final: float = 0.1,
    retrieval: float = 0.0,
) -> float:
    """The reward of one response.

    Correct: 1, or ``1 - structure`` if the format is not valid. Wrong or without an answer: for
    a valid format ``structure``, plus ``retrieval`` where an accepted answer was retrieved; for
    an invalid one ``final`` if there is an answer and 0 if there is none.

    **Source:** Search-R1 (arXiv 2503.09516), ``main_ppo_format``, which the authors call v0.3.

    **Differs:** a response without an answer is told from a wrong one; the original finds the
    example answer of its own prompt there and never takes that branch.

    Args:
        is_correct: Exact match.
        is_format_valid: Whether the response is well-formed.
        has_answer: Whether there is an answer.
        has_evidence: Whether an accepted answer stands in retrieved passages.
        structure: Worth of a valid format.
        final: Worth of an answer in an invalid format.
        retrieval: Worth of retrieved evidence.

    Returns:
        0 to 1 for the published weights.
    """
    if is_correct:
        return 1.0 if is_format_valid else 1.0 - structure
    if is_format_valid:
        return structure + (retrieval if has_evidence else 0.0)
    return final if has_answer else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchR1Format(RewardShaping):
    """Exact match with a term for the format and for retrieved evidence; see `format_reward`.

    **Differs:** an accepted answer counts as retrieved where it stands as whole words; the
    original looks for it as any part of the text.

    Attributes:
        structure: Worth of a valid format, 0 to 1.
        final: Worth of an answer in an invalid format.
        retrieval: Worth of retrieved evidence.
    """

    structure: Annotated[float, FRACTION] = 0.2
    final: Annotated[float, FRACTION] = 0.1
    retrieval: Annotated[float, FRACTION] = 0.0

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Exact match, the answer, and whether passages hold an accepted one."""
        return frozenset({"em", "answer", "answer_in_passages"})

    def __call__(self, group: Group) -> Group:
        """Group with this reward on each last turn."""
        return outcome_only(group, np.array([self._reward(each) for each in group.trajectories]))

    def _reward(self, trajectory: Trajectory) -> float:
        return format_reward(
            is_correct=final_fact(trajectory, "em", _WHO) == 1,
            is_format_valid=is_well_formed_response(trajectory),
            has_answer=fact(trajectory.turns[-1], "answer", _WHO) is not None,
            has_evidence=any(fact(t, "answer_in_passages", _WHO) for t in trajectory.turns),
            structure=self.structure,
            final=self.final,
            retrieval=self.retrieval,
        )
