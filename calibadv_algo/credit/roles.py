"""Roles of search turns as labels: decisive progress, exploration, no progress, regression."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.base import SCORED_BAD, CreditRule, search_mask
from calibadv_algo.credit.facts import fact
from calibadv_algo.credit.judges import JudgeError, LlmJudge, transcript
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import Checked

Role = Literal["progress", "exploration", "no-progress", "regression"]
"""What a turn did for the task."""

CORRECTNESS: Final[Mapping[Role, float]] = {
    "progress": 1.0,
    "exploration": 0.5,
    "no-progress": 0.25,
    "regression": SCORED_BAD,
}
"""Role -> correctness that stands for it: an order, and nothing more."""

ROLE_INSTRUCTION: Final = (
    "You review, after the fact, how an agent searched for the answer to a question. Say for every "
    "search turn which of four roles it had:\n"
    "progress: it found something that the answer rests on;\n"
    "exploration: it found nothing of the kind, but ruled something out or opened a way;\n"
    "no-progress: it changed nothing;\n"
    "regression: it repeated what had failed, or led away from what was found.\n"
    "Judge each search by what the agent knew then, not by how the episode ended.\n\n"
    "Reply with one line for each search turn and nothing else, in this form:\n"
    "Turn 1: progress\n"
    "Turn 2: exploration\n"
)
"""Instruction for a language model, in our words."""

_ROLE: Final = re.compile(
    r"\bturn\s*\**\s*(\d{1,9})\s*\**\s*[:=\-]\s*\**\s*"
    r"(progress|exploration|no[- ]progress|regression)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleJudge(Checked, ABC):
    """Base of judges that name the role of every search."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset()

    @abstractmethod
    def roles(self, trajectories: Sequence[Trajectory]) -> list[list[Role | None]]:
        """One role a turn for every trajectory, None where there is none.

        Raises:
            JudgeError: if the judge failed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedRoles(RoleJudge):
    """Roles by facts of the environment, for tasks that name their evidence; no model is asked.

    A search is progress if it is the first to find a gold passage; regression if it asks what an
    earlier one asked; exploration if it found passages that none before it had; else no progress.
    """

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The facts that the roles are made of."""
        return frozenset({"gold_new", "query", "num_passages_new"})

    def roles(self, trajectories: Sequence[Trajectory]) -> list[list[Role | None]]:
        """Roles by these facts."""
        return [self._of(each) for each in trajectories]

    def _of(self, trajectory: Trajectory) -> list[Role | None]:
        roles: list[Role | None] = []
        asked: set[str] = set()
        for turn in trajectory.turns:
            query = " ".join(str(fact(turn, "query", _SCRIPTED) or "").lower().split())
            if len(fact(turn, "gold_new", _SCRIPTED)):
                roles.append("progress")
            elif query in asked:
                roles.append("regression")
            elif fact(turn, "num_passages_new", _SCRIPTED):
                roles.append("exploration")
            else:
                roles.append("no-progress")
            asked.add(query)
        return roles


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmRoles(RoleJudge):
    """Roles by a language model that reads the episode without the accepted answers.

    Attributes:
        server: Where the model is asked; its instruction is not used.
    """

    server: LlmJudge = field(default_factory=LlmJudge)

    def roles(self, trajectories: Sequence[Trajectory]) -> list[list[Role | None]]:
        """Roles by the language model.

        Raises:
            JudgeError: if the server could not be reached or did not send a completion.
        """
        texts = [transcript(each, has_answers=False) for each in trajectories]
        replies = self.server.replies(texts, ROLE_INSTRUCTION)
        return [
            read_roles(reply, len(each.turns))
            for reply, each in zip(replies, trajectories, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCredit(CreditRule):
    """Correctness that stands for the role of every search, as `CORRECTNESS` has it.

    Attributes:
        judge: Source of the roles.
    """

    judge: RoleJudge = field(default_factory=ScriptedRoles)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every action, and what the judge needs."""
        return frozenset({"action"}) | self.judge.required_info_keys

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Correctness of every search, NaN where the judge named no role.

        Raises:
            JudgeError: if the judge failed, or named a role that there is not.
        """
        is_search = search_mask(group, "RoleCredit")
        correctness = np.full(is_search.shape, np.nan)
        for row, roles in enumerate(self.judge.roles(group.trajectories)):
            for column, role in enumerate(roles):
                if role is None or not is_search[row, column]:
                    continue
                if role not in CORRECTNESS:
                    raise JudgeError(
                        f"a role must be one of {', '.join(CORRECTNESS)}, got {role!r} at turn "
                        f"{column + 1} of task {group.trajectories[row].task_id!r}"
                    )
                correctness[row, column] = CORRECTNESS[role]
        return correctness


def read_roles(reply: str, num_turns: int) -> list[Role | None]:
    """One role a turn from a reply: the last one named for it, None where there is none."""
    roles: list[Role | None] = [None] * num_turns
    names = {name: name for name in CORRECTNESS}
    for match in _ROLE.finditer(reply):
        if 1 <= int(match[1]) <= num_turns:
            roles[int(match[1]) - 1] = names[match[2].lower().replace(" ", "-")]  # type: ignore[index]
    return roles


_SCRIPTED: Final = "ScriptedRoles"
