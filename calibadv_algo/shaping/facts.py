"""Facts of whole trajectories that shapings share: rewards at the end, and the format."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from calibadv_algo.shaping.base import with_rewards
from calibadv_algo.types import Group, Trajectory
from calibadv_env.info import THINK_OPEN
from calibadv_env.protocol.actions import is_turn_well_formed, parse_action
from calibadv_env.protocol.prompts import grammar_of


def outcome_only(group: Group, outcomes: Float[np.ndarray, " group"]) -> Group:
    """The group with one reward a trajectory, on its last turn, and 0 on all others."""
    rewards = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards[row, len(trajectory.turns) - 1] = outcomes[row]
    return with_rewards(group, rewards)


def whole_actions(trajectory: Trajectory) -> list[str]:
    """The text of every turn, with an opening think tag that was given to the policy put back."""
    prompt = trajectory.prompt_text
    # Under the markers of R1-Searcher the prompt opens one thought for the whole episode.
    is_given = prompt.endswith(THINK_OPEN) and grammar_of(prompt) == "tags"
    return [is_given * THINK_OPEN + turn.action_text for turn in trajectory.turns]


def well_formed_turns(trajectory: Trajectory) -> list[bool]:
    """The environments' verdict on the format of every turn, from its text."""
    grammar = grammar_of(trajectory.prompt_text)
    return [
        is_turn_well_formed(text, parse_action(text, grammar).kind, grammar)
        for text in whole_actions(trajectory)
    ]


def is_well_formed_response(trajectory: Trajectory) -> bool:
    """True if every turn is well-formed, all but the last are searches and the last answers.

    **Source:** the state machine of Search-R1's ``main_ppo_format`` (v0.3): rounds of think,
    search, information, then think and answer. A response without any search can be valid.

    **Differs:** decided turn by turn on what the policy wrote, so that a tag in a retrieved
    passage cannot break a response.
    """
    if not all(well_formed_turns(trajectory)):
        return False
    is_answer = [text.rstrip().endswith("</answer>") for text in whole_actions(trajectory)]
    return is_answer[-1] and not any(is_answer[:-1])
