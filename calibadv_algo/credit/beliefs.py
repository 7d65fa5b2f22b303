"""Likelihood of the accepted answers under a policy, before every turn of an episode.

The trainer makes it where a part asks for it (`answer_belief`): it lets the policy score the
accepted answers as if they were given now, and puts the result into the infos of the turns. What is
here reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from annotated_types import MinLen
from jaxtyping import Float

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import Checked
from calibadv_env.info import THINK_OPEN

ANSWER_LOGPROBS: Final = "answer_logprobs"
"""Key of a turn's info: mean log-probability of a token of each accepted answer, before the turn.

A tuple with a number for each accepted answer, in their order.
"""

TAGGED_LOGPROBS: Final = "tagged_answer_logprobs"
"""Key of a turn's info: the same over the answer together with its tags."""

Scorer = Literal["policy", "start"]
"""Who scores: the policy as it is before the update, or the one that training began with."""

Answers = Literal["first", "best"]
"""Accepted answer that counts: the first of the list, or the one that is likeliest there."""

GainForm = Literal["probability", "log"]
"""Scale on which beliefs are compared: of probabilities, or of their logarithms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerBelief(Checked):
    """Form in which a policy is asked for its belief in an answer.

    The text ``lead + opening + answer + closing`` follows what the episode came to. The tokens of
    the answer are scored, and those of ``opening``, answer and ``closing`` together; the lead is
    given.

    Attributes:
        lead: Text before the answer's tag; an opening think tag that prompts give is not repeated.
        opening: Tag and space before the answer. White space at its end is tokenised together with
            the answer, as policies write it.
        closing: Tag behind the answer.
        scorer: Who scores.
    """

    lead: str = f"{THINK_OPEN}</think>"
    opening: Annotated[str, MinLen(1)] = "<answer> "
    closing: Annotated[str, MinLen(1)] = "</answer>"
    scorer: Scorer = "policy"


def belief_of(model: str, scorer: Scorer = "policy") -> AnswerBelief:
    """Form of the belief in the words of a policy.

    A policy that never writes an answer behind an empty thought finds every answer unlikely there,
    whatever it knows, so its gains in belief would be noise.

    Args:
        model: Name or path of the policy: one with "atlas" in it thinks as the shipped one does,
            and others are asked for an answer behind an empty thought.
        scorer: Who scores.
    """
    if "atlas" in model:
        return AnswerBelief(lead=THINK_OPEN, opening=" found ", closing="</think>", scorer=scorer)
    return AnswerBelief(scorer=scorer)


def answer_logprobs(
    trajectory: Trajectory, who: str, key: str = ANSWER_LOGPROBS
) -> list[Float[np.ndarray, " answer"]]:
    """Log-probabilities of the accepted answers before every turn.

    Args:
        trajectory: An episode that was scored.
        who: Name of the part that asks, for the message.
        key: `ANSWER_LOGPROBS` or `TAGGED_LOGPROBS`.

    Raises:
        MissingInfoKeyError: if the episode was not scored.
    """
    found = []
    for turn in trajectory.turns:
        if key not in turn.info:
            raise MissingInfoKeyError(
                f"{who} needs {key!r} in the info of every turn, which the trainer (and `calibadv "
                "credit` with a model on this machine) puts there where reset reports "
                "golden_answers; episodes of others have none"
            )
        found.append(np.asarray(turn.info[key], dtype=np.float64))
    return found


def information_gains(
    group: Group, who: str, *, form: GainForm = "probability", answers: Answers = "first"
) -> Float[np.ndarray, "group turn"]:
    """Growth of the belief in the accepted answer by each turn that another one follows.

    ``p_{t+1} - p_t``, where ``p_t`` is the geometric mean over the answer's tokens of their
    probability before turn t, or its logarithm.

    **Source:** IGPO (arXiv 2510.14967), eq. for the turn's reward; ``log`` is the form of
    A2TGPO's code.

    **Differs:** none in the formula; see the estimators.

    Args:
        group: Scored episodes.
        who: Name of the part that asks.
        form: Scale.
        answers: Which accepted answer counts.

    Returns:
        One number a turn, NaN at last turns and where there is no turn.

    Raises:
        MissingInfoKeyError: if the episodes were not scored.
    """
    gains = np.full((len(group), group.max_turns), np.nan)
    for row, trajectory in enumerate(group.trajectories):
        scores = answer_logprobs(trajectory, who)
        chosen = [float(each[0] if answers == "first" else each.max()) for each in scores]
        levels = chosen if form == "log" else [math.exp(each) for each in chosen]
        gains[row, : len(levels) - 1] = np.diff(levels)
    return gains


def total_potential(logprobs: Sequence[float] | Float[np.ndarray, " answer"]) -> float:
    """Logarithm of the sum of the likelihoods of all accepted answers.

    **Source:** TIPS (arXiv 2603.22293) and its code.

    **Differs:** nothing.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()))
