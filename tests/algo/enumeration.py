"""Expected gradients of estimators by enumeration of all groups of a small world."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np

from calibadv_algo.types import Group, Trajectory, Turn
from tests.algo.text_worlds import World

Advantages = Callable[[Group], np.ndarray]
Gradient = dict[str, float]
"""By history and letter: expected gradient with respect to the letter's logit there."""


def trajectory(world: World, letters: str, group_id: str = "g") -> Trajectory:
    """An episode of a world as a rollout would record it."""
    turns = []
    for number, letter in enumerate(letters):
        history = letters[: number + 1]
        is_search = letter in world.searches
        is_last = number == len(letters) - 1
        info = {
            "action": "search" if is_search else "answer",
            "query": letter if is_search else None,
            "think": "",
            "passage_ids": (f"p{history}",) if is_search else (),
            "gold_new": ("g",) if letter == "a" else (),
            "gold_recall": 0.0,
            "answer_in_passages": letter == "a",
        }
        if is_last:
            info["is_format_valid"] = True
        turns.append(
            Turn(
                action_ids=(ord(letter),),
                action_text=letter,
                logprobs=(0.0,),
                observation_ids=() if is_last else (62,),
                observation_text="" if is_last else ">",
                reward=world.reward(history),
                info=info,
            )
        )
    return Trajectory(
        group_id=group_id, task_id="0", prompt_ids=(62,), prompt_text=">", turns=tuple(turns)
    )


def groups(world: World, size: int) -> Iterator[tuple[Group, float]]:
    """All groups of a size up to their order, with their probabilities."""
    episodes = world.episodes()
    members = [trajectory(world, letters) for letters, _ in episodes]
    for chosen in combinations_with_replacement(range(len(episodes)), size):
        ways = math.factorial(size)
        for count in Counter(chosen).values():
            ways //= math.factorial(count)
        chance = ways * math.prod(episodes[i][1] for i in chosen)
        yield Group(tuple(members[i] for i in chosen)), chance


def expected_gradient(
    world: World, estimate: Advantages, size: int = 4, *, as_trees: bool = False
) -> Gradient:
    """Mean over all groups of ``sum A grad log pi`` a trajectory."""
    total: Gradient = {}
    every = tree_groups(world) if as_trees else groups(world, size)
    for group, chance in every:
        advantages = estimate(group)
        for row, each in enumerate(group.trajectories):
            letters = "".join(turn.action_text for turn in each.turns)
            for turn, taken in enumerate(letters):
                weight = chance * float(advantages[row, turn]) / len(group)
                for letter, share in world.policy(letters[:turn]).items():
                    if 0 < share < 1:
                        key = letters[:turn] + letter
                        total[key] = total.get(key, 0.0) + weight * ((letter == taken) - share)
    return total


def true_gradient(world: World) -> Gradient:
    """Gradient of the expected return."""
    found: Gradient = {}

    def visit(history: str, chance: float) -> None:
        if history and world.is_over(history):
            return
        for letter, share in world.policy(history).items():
            if 0 < share < 1:
                found[history + letter] = chance * share * world.advantage(history + letter)
            if share:
                visit(history + letter, chance * share)

    visit("", 1.0)
    return found


def cosine(first: Gradient, second: Gradient) -> float:
    """Cosine between two gradients."""
    keys = sorted(first.keys() | second.keys())
    a, b = (np.array([each.get(key, 0.0) for key in keys]) for each in (first, second))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def tree_groups(world: World) -> Iterator[tuple[Group, float]]:
    """All trees of one chain and one branch from a node drawn among its states."""
    episodes = world.episodes()
    for chain, chance in episodes:
        for start in range(len(chain)):
            inside = [(e, p) for e, p in episodes if e.startswith(chain[:start])]
            total = sum(p for _, p in inside)
            for branch, share in inside:
                leaves = [
                    replace(trajectory(world, each), reset_info={"tree_id": 0})
                    for each in (chain, branch)
                ]
                yield Group(tuple(leaves)), chance / len(chain) * share / total
