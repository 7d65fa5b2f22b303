"""Measurement of states' values: groups are played, then every state is played on many times.

Work goes block by block of questions. What is sampled depends on the seed, the question and the
policy alone, so that a measurement that was interrupted goes on to the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

from annotated_types import Interval

from calibadv_algo.experiments.truth.log import TruthLog
from calibadv_algo.experiments.truth.values import MeasuredGroup, Returns, allocate
from calibadv_algo.rollout.branching import Node
from calibadv_algo.rollout.continuations import (
    Place,
    StateName,
    as_cloneable,
    play_on,
    state_names,
    walk,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import EpisodeSpec, derived_seed, regroup
from calibadv_algo.rollout.slots import CloneableSlots
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import POSITIVE, Checked

_EPISODES, _CONTINUATIONS = 11, 12

PILOT_SHARE: Final = 0.25
"""Share of the continuations that all states get alike; the rest follows what these show."""

Report = Callable[[str, int, int | None], None]
"""Told of a stage, what is done of it, and all of it."""

Allocation = Literal["adaptive", "even"]
"""``even``: as many continuations from every state. ``adaptive``: a quarter so, the rest where
returns vary and where many turns share the state; the estimates stay without bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Checked):
    """Size of a measurement."""

    group_size: Annotated[int, Interval(ge=2)] = 8
    """Episodes of each question."""
    continuations: Annotated[int, Interval(ge=4)] = 16
    """Continuations of a state, on average."""
    allocation: Allocation = "adaptive"
    """Where they go: to states that are uncertain and that many turns share, or to all alike."""
    block: Annotated[int, POSITIVE] = 8
    """Questions that are played together."""
    seed: int = 0
    """Of the sampling."""

    @property
    def num_pilot(self) -> int:
        """Continuations of every state in the first stage."""
        if self.allocation == "even":
            return self.continuations
        return max(2, 2 * round(self.continuations * PILOT_SHARE / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Groups with measured states.

    Attributes:
        groups: In order of the questions.
        num_continuations: Continuations that were played, those of an earlier call included.
        num_states: Distinct states.
        num_dropped: Episodes and continuations that were given up.
        num_lost: Questions with fewer than two episodes, or a state without continuations.
        num_questions: Questions that were begun.
        wall_s: Seconds of this call, without those of the calls that it resumed.
    """

    groups: tuple[MeasuredGroup, ...]
    num_continuations: int
    num_states: int
    num_dropped: int
    num_lost: int
    num_questions: int
    wall_s: float


@dataclass(slots=True)
class _State:
    """A distinct state: where it first stood, and how many turns its value enters.

    Attributes:
        key: Place of the question, trajectory and turn.
        index: Place of the trajectory among those of the block.
        turn: The turn that follows.
        weight: Number of advantages that its value enters.
    """

    key: tuple[int, int, int]
    index: int
    turn: int
    weight: int = 0
    pilot: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)


def measure(
    player: Player,
    tasks: Sequence[int],
    plan: Plan,
    log: TruthLog,
    *,
    budget_s: float | None = None,
    report: Report = lambda *_: None,
) -> Measurement:
    """Plays groups and measures the value of every state that they came through.

    Args:
        player: Plays the episodes; its slots must be cloneable or able to replay.
        tasks: Questions, in order.
        plan: Sizes.
        log: What is known, and where it is kept.
        budget_s: Seconds after which no further block begins; the first one always does.
        report: Told of the progress.

    Returns:
        The groups of all questions that were finished.

    Raises:
        RolloutError: if every episode of a block failed.
        ReplayError: if the environment does not give the same episode for the same actions.
        EngineError: if the engine failed.
    """
    slots = as_cloneable(player.slots)
    player = replace(player, slots=slots)
    began = time.perf_counter()
    groups: list[MeasuredGroup] = []
    num_states = num_dropped = num_lost = num_done = 0
    report("questions", 0, len(tasks))
    for first in range(0, len(tasks), plan.block):
        spent = time.perf_counter() - began
        if budget_s is not None and first and spent * (1 + plan.block / first / 2) > budget_s:
            break
        chosen = tasks[first : first + plan.block]
        block = _Block(player, slots, plan, log, first, report)
        groups += block.measure(chosen)
        num_states += len(block.states)
        num_dropped += block.num_dropped
        num_done += len(chosen)
        num_lost = num_done - len(groups)
        report("questions", num_done, len(tasks))
    distinct = {id(each): each for g in groups for row in g.returns for each in row}
    return Measurement(
        groups=tuple(groups),
        num_continuations=sum(each.count for each in distinct.values()),
        num_states=num_states,
        num_dropped=num_dropped,
        num_lost=num_lost,
        num_questions=num_done,
        wall_s=time.perf_counter() - began,
    )


class _Block:
    """Some questions that are measured together."""

    def __init__(
        self,
        player: Player,
        slots: CloneableSlots,
        plan: Plan,
        log: TruthLog,
        first: int,
        report: Report,
    ) -> None:
        self._player, self._slots, self._plan, self._log = player, slots, plan, log
        self._first, self._report = first, report
        self._members: dict[int, int] = {}
        self.states: list[_State] = []
        self.num_dropped = 0

    def measure(self, tasks: Sequence[int]) -> list[MeasuredGroup]:
        """Groups of these questions with measured states."""
        plan = self._plan
        specs = [
            EpisodeSpec(
                task_index=task,
                group_id=f"{self._first + place}:{task}",
                seed=derived_seed(plan.seed, _EPISODES, self._first + place, member),
            )
            for place, task in enumerate(tasks)
            for member in range(plan.group_size)
        ]
        self._members = {spec.seed: i % plan.group_size for i, spec in enumerate(specs)}
        batch = self._player.play(specs, journal=self._log)
        self.num_dropped += len(batch.dropped)
        by_seed = {each.seed: each for each in batch.trajectories}
        episodes = [(spec, by_seed[spec.seed]) for spec in specs if spec.seed in by_seed]
        where = self._find_states(episodes)
        self._continue(episodes)
        return self._assemble(regroup(each for _, each in episodes), episodes, where)

    def _find_states(
        self, episodes: Sequence[tuple[EpisodeSpec, Trajectory]]
    ) -> dict[tuple[int, int], _State]:
        """Distinct states of the block, and which of them stands before each turn."""
        known: dict[StateName, _State] = {}
        where = {}
        for index, (spec, trajectory) in enumerate(episodes):
            place = int(spec.group_id.partition(":")[0])
            for turn, name in enumerate(state_names(spec, trajectory)):
                if name not in known:
                    known[name] = _State((place, self._members[spec.seed], turn), index, turn)
                where[index, turn] = known[name]
                known[name].weight += 2 if turn else 1
        self.states = list(known.values())
        return where

    def _continue(self, episodes: Sequence[tuple[EpisodeSpec, Trajectory]]) -> None:
        """Plays all states on, in one stage or two."""
        plan, states = self._plan, self.states
        pilot = plan.num_pilot
        places = [(state.index, state.turn) for state in states]
        nodes = walk(self._slots, episodes, places) if self._lacks(states, pilot) else None
        self._play(episodes, states, nodes, [pilot] * len(states), 0, "pilot")
        if plan.allocation == "even":
            return
        total = len(states) * (plan.continuations - pilot)
        live = [state for state in states if state.pilot]
        counts = allocate([s.pilot for s in live], [s.weight for s in live], total)
        lacking = (
            self._missing(state, range(pilot, pilot + count))
            for state, count in zip(live, counts, strict=True)
        )
        if nodes is None and any(lacking):
            nodes = walk(self._slots, episodes, places)
        self._play(episodes, live, nodes, counts, pilot, "rest")

    def _lacks(self, states: Sequence[_State], count: int) -> bool:
        return any(self._missing(state, range(count)) for state in states)

    def _missing(self, state: _State, numbers: range) -> list[int]:
        """Seeds of continuations that are not in the log."""
        seeds = [self._continuation_seed(state, number) for number in numbers]
        return [seed for seed in seeds if seed not in self._log.returns]

    def _continuation_seed(self, state: _State, number: int) -> int:
        return derived_seed(self._plan.seed, _CONTINUATIONS, *state.key, number)

    def _play(
        self,
        episodes: Sequence[tuple[EpisodeSpec, Trajectory]],
        states: Sequence[_State],
        nodes: Mapping[Place, Node] | None,
        counts: Sequence[int],
        first: int,
        stage: Literal["pilot", "rest"],
    ) -> None:
        """Plays what is missing of a stage's continuations, and gives states their returns."""
        numbers = [range(first, first + count) for count in counts]
        specs: list[EpisodeSpec] = []
        starts: list[Node] = []
        for state, own in zip(states, numbers, strict=True):
            for seed in self._missing(state, own):
                assert nodes is not None
                specs.append(replace(episodes[state.index][0], seed=seed))
                starts.append(nodes[state.index, state.turn])
        if specs:
            self._report(f"continuations ({stage})", 0, len(specs))
            journal = _Counting(self._log, self._report, stage, len(specs))
            batch = play_on(self._player, self._slots, specs, starts, journal=journal)
            self.num_dropped += len(batch.dropped)
        for state, own in zip(states, numbers, strict=True):
            seeds = [self._continuation_seed(state, number) for number in own]
            found = [self._log.returns[seed] for seed in seeds if seed in self._log.returns]
            getattr(state, stage).extend(found)

    def _assemble(
        self,
        groups: Sequence[Group],
        episodes: Sequence[tuple[EpisodeSpec, Trajectory]],
        where: Mapping[tuple[int, int], _State],
    ) -> list[MeasuredGroup]:
        """Groups all of whose states have enough continuations."""
        weight = self._plan.num_pilot / self._plan.continuations
        made = {
            state.key: Returns(
                pilot=tuple(state.pilot), rest=tuple(state.rest), pilot_weight=weight
            )
            for state in self.states
        }
        rows = {id(each): index for index, (_, each) in enumerate(episodes)}
        measured = []
        for group in groups:
            returns = tuple(
                tuple(made[where[rows[id(each)], turn].key] for turn in range(len(each.turns)))
                for each in group.trajectories
            )
            if all(each.count >= 2 for row in returns for each in row):
                measured.append(MeasuredGroup(group=group, returns=returns))
        return measured


class _Counting:
    """Keeps continuations in the log and reports how many there are."""

    def __init__(self, log: TruthLog, report: Report, stage: str, total: int) -> None:
        self._inner, self._report = log.continuations, report
        self._stage, self._total, self._done = f"continuations ({stage})", total, 0

    def find(self, spec: EpisodeSpec) -> Trajectory | None:
        return None

    def record(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        self._inner.record(spec, trajectory)
        self._done += 1
        if self._done % 64 == 0 or self._done == self._total:
            self._report(self._stage, self._done, self._total)
