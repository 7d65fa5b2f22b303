"""Turn rewards: those of MT-GRPO, those of MT-PPO, and RAGEN's penalty for malformed turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from annotated_types import Le

from calibadv_algo.credit.facts import fact, final_fact, is_search, task_fact
from calibadv_algo.shaping.base import RewardShaping, turn_rewards, with_rewards
from calibadv_algo.shaping.facts import well_formed_turns
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class MtGrpoRewards(RewardShaping):
    """MT-GRPO: what a search did on its turn, what the answer is worth on the last one.

    A search earns ``execution`` if it found passages and ``evidence`` if these hold an accepted
    answer. The last turn earns ``contained`` if the answer contains an accepted one, ``exact``
    if it equals one, ``form`` for a well-formed response and ``tags`` times the share of
    well-formed turns. Answers are compared as plain strings, lower-cased: articles and
    punctuation count. Outcome and turn rewards stay apart: the last turn's reward is the outcome.

    **Source:** Multi-Turn-RL-Agent, the code of "Reinforcing Multi-Turn Reasoning in LLM Agents
    via Turn-Level Reward Design" (arXiv 2505.11821); its weights.

    **Differs:** any number of searches, each rewarded on its own turn, where the original has
    exactly one and shares ``execution`` over its attempts. An answer counts as retrieved where
    it stands as whole words. ``form`` and ``tags`` grade our tags, not the original's.

    Attributes:
        execution: Worth of a search that found passages.
        evidence: Worth of retrieving an accepted answer.
        contained: Worth of an answer that contains an accepted one.
        exact: Worth of an exact answer.
        form: Worth of a well-formed response.
        tags: Worth of well-formed turns, if all are.
    """

    execution: float = 0.2
    evidence: float = 0.5
    contained: float = 0.5
    exact: float = 1.0
    form: float = 0.2
    tags: float = 0.2

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Kinds of actions, passages, and the answer."""
        return frozenset(
            {"action", "passage_ids", "answer_in_passages", "answer", "is_format_valid"}
        )

    def __call__(self, group: Group) -> Group:
        """Group with these rewards."""
        rewards = np.zeros((len(group), group.max_turns))
        for row, trajectory in enumerate(group.trajectories):
            for column, turn in enumerate(trajectory.turns[:-1]):
                if is_search(turn, _MT_GRPO):
                    has_evidence = bool(fact(turn, "answer_in_passages", _MT_GRPO))
                    rewards[row, column] = self.execution + self.evidence * has_evidence
            rewards[row, len(trajectory.turns) - 1] = self._outcome(trajectory)
        return with_rewards(group, rewards)

    def _outcome(self, trajectory: Trajectory) -> float:
        is_sound = well_formed_turns(trajectory)
        given = fact(trajectory.turns[-1], "answer", _MT_GRPO)
        answer = str(given).lower()
        accepted = () if given is None else task_fact(trajectory, "golden_answers", _MT_GRPO)
        goldens = [str(each).lower() for each in accepted]
        is_exact = any(golden.strip() == answer.strip() for golden in goldens)
        return float(
            self.contained * any(golden in answer for golden in goldens)
            + self.exact * is_exact
            + self.form * bool(final_fact(trajectory, "is_format_valid", _MT_GRPO))
            + self.tags * sum(is_sound) / len(is_sound)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MtPpoRewards(RewardShaping):
    """MT-PPO: verifiable rewards of single turns, in place of the environment's.

    A turn before the last earns ``evidence`` if its passages hold an accepted answer, ``form`` if
    it is well-formed and ``broken`` if it is not, and costs ``search_cost`` times the number of
    searches so far. The last turn earns ``exact`` for an exact match in a well-formed response,
    ``formed`` for such a response with another answer, ``ill_formed`` without one.

    **Source:** the turn-level reward design of arXiv 2505.11821 with its weights, as a reader's
    account of the whole paper gives them; the text itself was not to be had.

    **Differs:** the number of searches is that so far, which is how we read the term. An answer
    counts as retrieved where it stands as whole words. Rewards by an LLM judge are
    :class:`calibadv_algo.credit.judges.JudgeCredit`.

    Attributes:
        evidence: Worth of retrieving an accepted answer.
        form: Worth of a well-formed turn.
        broken: Worth of another turn.
        search_cost: Cost of each search so far, not negative.
        exact: Worth of an exact answer in a well-formed response.
        formed: Worth of another answer in such a response.
        ill_formed: Worth of a response that is not well-formed.
    """

    evidence: float = 0.3
    form: float = 0.1
    broken: float = -0.2
    search_cost: Annotated[float, NOT_NEGATIVE] = 0.1
    exact: float = 1.0
    formed: float = 0.2
    ill_formed: float = -1.0

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Kinds of actions, what their passages hold, and the verdicts at the end."""
        return frozenset({"action", "passage_ids", "answer_in_passages", "is_format_valid", "em"})

    def __call__(self, group: Group) -> Group:
        """Group with these rewards."""
        rewards = np.zeros((len(group), group.max_turns))
        for row, trajectory in enumerate(group.trajectories):
            searches = 0
            sound = well_formed_turns(trajectory)
            for column, turn in enumerate(trajectory.turns[:-1]):
                rewards[row, column] = self.form if sound[column] else self.broken
                if is_search(turn, _MT_PPO):
                    searches += 1
                    has_evidence = bool(fact(turn, "answer_in_passages", _MT_PPO))
                    rewards[row, column] += self.evidence * has_evidence
                rewards[row, column] -= self.search_cost * searches
            rewards[row, len(trajectory.turns) - 1] = self._outcome(trajectory)
        return with_rewards(group, rewards)

    def _outcome(self, trajectory: Trajectory) -> float:
        is_exact = final_fact(trajectory, "em", _MT_PPO) == 1
        if not final_fact(trajectory, "is_format_valid", _MT_PPO):
            return self.ill_formed
        return self.exact if is_exact else self.formed


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedPenalty(RewardShaping):
    """Adds a penalty to every turn that neither searches nor answers.

    **Source:** RAGEN (arXiv 2504.20073), format penalty -0.1, added before rewards are compared.

    Attributes:
        penalty: What such a turn gets, not positive.
    """

    penalty: Annotated[float, Le(0)] = -0.1

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every action."""
        return frozenset({"action"})

    def __call__(self, group: Group) -> Group:
        """Group with the penalties added."""
        rewards = turn_rewards(group)
        for row, trajectory in enumerate(group.trajectories):
            for column, turn in enumerate(trajectory.turns):
                if fact(turn, "action", "MalformedPenalty") == "malformed":
                    rewards[row, column] += self.penalty
        return with_rewards(group, rewards)


_MT_GRPO: Final = "MtGrpoRewards"
_MT_PPO: Final = "MtPpoRewards"
