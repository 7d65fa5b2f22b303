"""Likelihood of an episode's turns under a policy that is told how the episode ended.

The trainer makes it where an estimator asks for it (`hindsight`), and puts it into the infos of the
turns. What is here reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import Checked

HINDSIGHT_LOGPROB: Final = "hindsight_logprob"
"""Key of a turn's info: mean log-probability of its tokens where the policy knows the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight(Checked):
    """Words in which a policy is told the outcome of an episode, behind the episode's prompt.

    Attributes:
        lead: Text before the outcome.
        closing: Text behind it.
        nothing: Outcome of an episode without an answer.
    """

    lead: str = "\n(In the end the answer given is: "
    closing: str = ")\n"
    nothing: str = "none"

    def text(self, trajectory: Trajectory) -> str:
        """The words for an episode: its own final answer."""
        answer = trajectory.final_info.get("answer")
        return self.lead + (str(answer) if answer else self.nothing) + self.closing


def hindsight_logprobs(group: Group, who: str) -> Float[np.ndarray, "group turn"]:
    """Mean log-probability of a token of every turn in hindsight, NaN where there is no turn.

    Args:
        group: Episodes that were scored.
        who: Name of the part that asks, for the message.

    Raises:
        MissingInfoKeyError: if an episode was not scored.
    """
    found = np.full((len(group), group.max_turns), np.nan)
    for row, trajectory in enumerate(group.trajectories):
        for column, turn in enumerate(trajectory.turns):
            if HINDSIGHT_LOGPROB not in turn.info:
                raise MissingInfoKeyError(
                    f"{who} needs {HINDSIGHT_LOGPROB!r} in the info of every turn, which the "
                    "trainer (and `calibadv credit` with a model on this machine) puts there; "
                    "episodes of others have none"
                )
            found[row, column] = turn.info[HINDSIGHT_LOGPROB]
    return found
