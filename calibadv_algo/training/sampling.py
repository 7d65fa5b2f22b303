"""Which questions an update asks: all alike, by their number of hops, or by how they went last.

A sampler draws from the settings, the state that it is given and seeded generators alone, so that a
run that goes on from a checkpoint, which holds the state, asks what it would have asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np

from calibadv_env.common.checks import FRACTION, Checked

State = Mapping[str, Any]
"""What a sampler knows of the questions that were asked, as plain JSON."""

_POOL_STREAM: Final = 2
_HOPS_STREAM: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What questions are drawn for.

    Attributes:
        position: Number of questions that came before.
        count: How many are wanted.
        num_tasks: Size of the split.
        seed: The run's seed.
        progress: Share of the updates that are over, 0 to 1.
        hops: Number of hops of each task; empty where no sampler asks for it.
    """

    position: int
    count: int
    num_tasks: int
    seed: int
    progress: float = 0.0
    hops: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """Questions that were drawn.

    Attributes:
        tasks: Task indices, in the order in which they are asked.
        labels: What each was drawn as: a pool, a number of hops.
        state: The state after the draw.
    """

    tasks: list[int]
    labels: list[str]
    state: State


class QuestionSampling(Checked, ABC):
    """Base of the ways to choose questions."""

    __slots__ = ()

    needs_hops: ClassVar[bool] = False
    """If true, the number of hops of every task is asked of the environment first."""

    @abstractmethod
    def draw(self, wanted: Draw, state: State) -> Drawn:
        """The next questions.

        Args:
            wanted: How many, of what.
            state: Of the draws before; {} at the start.
        """

    def observe(self, state: State, rewards: Mapping[int, float]) -> State:
        """The state after groups were played.

        Args:
            state: After their draw.
            rewards: Mean reward of the group of each task.
        """
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(QuestionSampling):
    """Every question once an epoch, in an order of the epoch's own."""

    def draw(self, wanted: Draw, state: State) -> Drawn:
        """The next questions of the epoch."""
        tasks = questions_at(wanted.position, wanted.count, wanted.num_tasks, wanted.seed)
        return Drawn(tasks, [], state)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHops(QuestionSampling):
    """As many questions of each number of hops; those of one number go round in epochs."""

    needs_hops: ClassVar[bool] = True

    plan: Literal["equal", "rising"] = "equal"
    """equal: all numbers of hops from the start. rising: the fewest first, and one number more at a
    time, all of them from the middle of the training on."""

    def draw(self, wanted: Draw, state: State) -> Drawn:
        """The next questions of the numbers of hops whose turn it is.

        Raises:
            ValueError: if no task says how many hops it takes.
        """
        kinds = sorted(set(wanted.hops))
        if not any(kinds):
            raise ValueError("questions by-hops need tasks that say how many hops they take")
        if self.plan == "rising":
            kinds = kinds[: 1 + int(min(1.0, 2 * wanted.progress) * (len(kinds) - 1) + 1e-9)]
        asked = dict(state.get("asked", {}))
        tasks, labels = [], []
        for place in range(wanted.position, wanted.position + wanted.count):
            hops = kinds[place % len(kinds)]
            own = [task for task, found in enumerate(wanted.hops) if found == hops]
            number = asked.get(str(hops), 0)
            epoch, offset = divmod(number, len(own))
            order = _generator(wanted.seed, _HOPS_STREAM, hops, epoch).permutation(len(own))
            tasks.append(own[int(order[offset])])
            labels.append(f"hops_{hops}")
            asked[str(hops)] = number + 1
        return Drawn(tasks, labels, {**state, "asked": asked})


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPools(QuestionSampling):
    """Pools by the latest mean reward of a question's group: easy, hard, and between them.

    Questions that were not asked yet are in the middle pool. A pool that holds too few gives what
    it has, and the middle, then the hard, then the easy pool make up for it.

    **Source:** the difficulty pools of prime-rl (easy, normal and hard by mean reward, with
    fractions of a batch).

    **Differs:** a question moves at every visit, not for good.
    """

    easy_from: Annotated[float, FRACTION] = 0.9
    """Mean reward from which on a question is easy."""
    hard_to: Annotated[float, FRACTION] = 0.1
    """Mean reward up to which a question is hard."""
    easy_share: Annotated[float, FRACTION] = 0.1
    """Share of the questions of an update that come from the easy pool."""
    hard_share: Annotated[float, FRACTION] = 0.2
    """Share of them that comes from the hard pool."""

    def __post_init__(self) -> None:
        """Checks that pools and shares leave room for the middle."""
        Checked.__post_init__(self)
        if self.hard_to >= self.easy_from:
            raise ValueError(f"hard_to must be below easy_from, got {self.hard_to}")
        if self.easy_share + self.hard_share > 1:
            raise ValueError(
                "easy_share and hard_share must be at most 1 together, got "
                f"{self.easy_share} and {self.hard_share}"
            )

    def pool_of(self, reward: float | None) -> str:
        """The pool of a question by the latest mean reward, None for one not asked yet."""
        if reward is None:
            return "middle"
        return (
            "easy" if reward >= self.easy_from else "hard" if reward <= self.hard_to else "middle"
        )

    def draw(self, wanted: Draw, state: State) -> Drawn:
        """Questions from the pools, none of them twice unless there are too few."""
        latest: Mapping[str, float] = state.get("latest", {})
        generator = _generator(wanted.seed, _POOL_STREAM, wanted.position)
        pools: dict[str, list[int]] = {"middle": [], "hard": [], "easy": []}
        for task in generator.permutation(wanted.num_tasks).tolist():
            pools[self.pool_of(latest.get(str(task)))].append(task)
        sizes = {
            "easy": int(self.easy_share * wanted.count),
            "hard": int(self.hard_share * wanted.count),
        }
        sizes["middle"] = wanted.count - sum(sizes.values())
        chosen = {name: pools[name][: sizes[name]] for name in pools}
        for name, pool in pools.items():
            missing = wanted.count - sum(map(len, chosen.values()))
            taken = len(chosen[name])
            chosen[name] += pool[taken : taken + missing]
        picks = [(task, name) for name, found in chosen.items() for task in found]
        while len(picks) < wanted.count:
            picks += picks[: wanted.count - len(picks)]
        order = generator.permutation(len(picks)).tolist()
        return Drawn([picks[i][0] for i in order], [picks[i][1] for i in order], state)

    def observe(self, state: State, rewards: Mapping[int, float]) -> State:
        """The state with the latest mean rewards."""
        latest = {**state.get("latest", {}), **{str(task): r for task, r in rewards.items()}}
        return {**state, "latest": latest}


Questions = Uniform | ByHops | RewardPools
"""Ways to choose questions that a run can be configured with."""


@dataclass
class Sampler:
    """Draws a run's questions and keeps what it knows of them.

    Attributes:
        sampling: The way.
        num_tasks: Size of the split.
        seed: The run's seed.
        hops: Number of hops of each task, where the way asks for it.
        state: What is known now; a checkpoint keeps it.
    """

    sampling: QuestionSampling
    num_tasks: int
    seed: int
    hops: Sequence[int] = ()
    state: State = field(default_factory=dict)

    def draw(self, position: int, count: int, progress: float) -> Drawn:
        """The next questions; see :meth:`QuestionSampling.draw`."""
        drawn = self.sampling.draw(
            Draw(
                position=position,
                count=count,
                num_tasks=self.num_tasks,
                seed=self.seed,
                progress=progress,
                hops=self.hops,
            ),
            self.state,
        )
        self.state = drawn.state
        return drawn

    def observe(self, rewards: Mapping[int, float]) -> None:
        """Takes note of the mean rewards of groups by task."""
        self.state = self.sampling.observe(self.state, rewards)


def mix_of(labels: Sequence[str]) -> dict[str, float]:
    """Share of each label among the questions of an update."""
    return {name: count / len(labels) for name, count in sorted(Counter(labels).items())}


def questions_at(position: int, count: int, num_tasks: int, seed: int) -> list[int]:
    """Which tasks come next; the order depends on the seed alone.

    Every epoch goes through all tasks in an order of its own, so no task comes twice before
    each has come once.

    Args:
        position: Number of tasks that came before.
        count: How many are wanted.
        num_tasks: Size of the split.
        seed: The run's seed.

    Returns:
        Task indices.
    """
    tasks: list[int] = []
    while len(tasks) < count:
        epoch, offset = divmod(position + len(tasks), num_tasks)
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_tasks)
        tasks.extend(int(task) for task in order[offset : offset + count - len(tasks)])
    return tasks


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
