"""Times credit and advantages of one large batch, and an obvious token-level loop beside them.

Usage: ``python benchmarks/advantages.py [--groups 512] [--size 5] [--repeats 5]``

Both do the same work on the same synthetic batch (trajectories of 2 to 5 turns, three passages
a search, thoughts of 8 to 30 words, 20 to 200 tokens a turn): silver correctness, GRPO, soft
penalty, rebalancing. The loop goes over tokens and fills whole Levenshtein tables, as one would
write it first; their results are compared before anything is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.types import Group, Trajectory, Turn

LIMIT_MS = 100.0


def make_batch(num_groups: int, group_size: int, seed: int = 0) -> list[Group]:
    """Draws groups with the statistics of search episodes."""
    rng = np.random.default_rng(seed)
    words = [f"word{index}" for index in range(400)]
    return [
        Group(tuple(_make_trajectory(rng, words, f"g{index}") for _ in range(group_size)))
        for index in range(num_groups)
    ]


def _make_trajectory(rng: np.random.Generator, words: list[str], group_id: str) -> Trajectory:
    num_turns = int(rng.integers(2, 6))
    turns: list[Turn] = []
    thought: list[str] = []
    for index in range(num_turns):
        is_last = index == num_turns - 1
        thought = _next_thought(rng, words, thought)
        passages = tuple(f"p{number}" for number in rng.integers(0, 25, size=3))
        num_tokens = int(rng.integers(20, 201))
        turns.append(
            Turn(
                action_ids=(0,) * num_tokens,
                action_text="",
                logprobs=(0.0,) * num_tokens,
                reward=float(rng.choice([0.0, 0.0, 0.5, 1.0])) if is_last else 0.0,
                info={
                    "action": "answer" if is_last else "search",
                    "think": " ".join(thought),
                    "passage_ids": () if is_last else passages,
                    "is_format_valid": bool(rng.random() < 0.9),
                },
            )
        )
    return Trajectory(
        group_id=group_id, task_id=group_id, prompt_ids=(1,), prompt_text="", turns=tuple(turns)
    )


def _next_thought(rng: np.random.Generator, words: list[str], thought: list[str]) -> list[str]:
    """Draws a new thought, or now and then a slight rewording of the one before."""
    if thought and rng.random() < 0.2:
        reworded = list(thought)
        for place in rng.integers(0, len(thought), size=3):
            reworded[place] = str(rng.choice(words))
        return reworded
    return [str(word) for word in rng.choice(words, size=int(rng.integers(8, 31)))]


def fast(groups: list[Group]) -> list[np.ndarray]:
    """Uses the library."""
    credit, estimator = SilverCredit(), CalibAdv()
    return [estimator(group, credit(group)) for group in groups]


def obvious(groups: list[Group]) -> list[list[list[float]]]:
    """Does the same token by token; returns the advantage of each token's turn."""
    return [_obvious_group(group) for group in groups]


def _obvious_group(group: Group) -> list[list[float]]:
    rewards = [trajectory.reward for trajectory in group.trajectories]
    mean = sum(rewards) / len(rewards)
    std = statistics.stdev(rewards) if len(rewards) > 1 else 1.0
    scores = _obvious_scores(group)
    tokens: list[list[float]] = []
    for trajectory, reward, turn_scores in zip(group.trajectories, rewards, scores, strict=True):
        row: list[float] = []
        for turn, score in zip(trajectory.turns, turn_scores, strict=True):
            for _ in turn.action_ids:
                advantage = (reward - mean) / (std + 1e-6)
                if advantage < 0 and score is not None and score > SCORED_BAD:
                    advantage *= 1 - score
                row.append(advantage)
        tokens.append(row)
    positive = negative = 0.0
    for trajectory, row in zip(group.trajectories, tokens, strict=True):
        for advantage in row[len(row) - len(trajectory.turns[-1].action_ids) :]:
            positive += max(advantage, 0.0)
            negative += max(-advantage, 0.0)
    for trajectory, row in zip(group.trajectories, tokens, strict=True):
        for place in range(len(row) - len(trajectory.turns[-1].action_ids), len(row)):
            if positive == 0 or negative == 0:
                row[place] = 0.0
            elif row[place] > 0:
                row[place] *= negative / positive
    return tokens


def _obvious_scores(group: Group) -> list[list[float | None]]:
    is_valid = [bool(t.turns[-1].info["is_format_valid"]) for t in group.trajectories]
    eligible = [
        trajectory
        for trajectory, valid in zip(group.trajectories, is_valid, strict=True)
        if valid and trajectory.reward >= 0.7
    ]
    best = max((trajectory.reward for trajectory in eligible), default=0.0)
    silver = {
        passage
        for trajectory in eligible
        if trajectory.reward == best
        for turn in trajectory.turns
        for passage in turn.info["passage_ids"]
    }
    result: list[list[float | None]] = []
    for trajectory, valid in zip(group.trajectories, is_valid, strict=True):
        scores: list[float | None] = [None] * len(trajectory.turns)
        if valid and eligible:
            for index in range(len(trajectory.turns) - 1):
                scores[index] = _obvious_score(trajectory.turns, index, silver)
        result.append(scores)
    return result


def _obvious_score(turns: tuple[Turn, ...], index: int, silver: set[str]) -> float:
    passages = turns[index].info["passage_ids"]
    seen = {passage for turn in turns[:index] for passage in turn.info["passage_ids"]}
    hits = {passage for passage in passages if passage in silver and passage not in seen}
    words = turns[index].info["think"].split()
    for turn in turns[:index]:
        other = turn.info["think"].split()
        if len(set(passages) & set(turn.info["passage_ids"])) > 1:
            return SCORED_BAD
        if 1 - _levenshtein(words, other) / max(len(words), len(other), 1) > 0.5:
            return SCORED_BAD
    return len(hits) / len(passages) if hits else SCORED_BAD


def _levenshtein(first: list[str], second: list[str]) -> int:
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            previous, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, previous + (left != right)),
            )
    return row[-1]


def _best_ms(
    function: Callable[[list[Group]], object], groups: list[Group], repeats: int
) -> tuple[float, float]:
    """Returns the shortest time on the clock and the least time of the core."""
    wall, core = [], []
    for _ in range(repeats):
        start_wall, start_core = time.perf_counter(), time.process_time()
        function(groups)
        core.append(1000 * (time.process_time() - start_core))
        wall.append(1000 * (time.perf_counter() - start_wall))
    return min(wall), min(core)


def _check_equal(groups: list[Group]) -> float:
    """Returns the largest difference between the two ways."""
    worst = 0.0
    for group, ours, theirs in zip(groups, fast(groups), obvious(groups), strict=True):
        for row, (trajectory, tokens) in enumerate(zip(group.trajectories, theirs, strict=True)):
            lengths = [len(turn.action_ids) for turn in trajectory.turns]
            spread = np.repeat(ours[row, : len(lengths)], lengths)
            worst = max(worst, float(np.abs(spread - np.array(tokens)).max()))
    return worst


def main() -> int:
    """Prints the times, their ratio and whether the limit is kept; 1 if it is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=512)
    parser.add_argument("--size", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    groups = make_batch(arguments.groups, arguments.size)
    worst = _check_equal(groups[:32])
    if worst > 1e-9:
        print(f"the two ways differ by {worst:g}")
        return 1
    library_wall, library_ms = _best_ms(fast, groups, arguments.repeats)
    loop_wall, loop_ms = _best_ms(obvious, groups, 1)
    num_turns = sum(len(t.turns) for group in groups for t in group.trajectories)
    num_tokens = sum(t.num_action_tokens for group in groups for t in group.trajectories)
    print(f"batch: {arguments.groups} x {arguments.size}, {num_turns} turns, {num_tokens} tokens")
    print(
        f"credit + advantages: {library_ms:.1f} ms of one core "
        f"({library_wall:.1f} ms on the clock), limit {LIMIT_MS:.0f} ms"
    )
    print(f"token-level loop:    {loop_ms:.1f} ms of one core ({loop_wall:.1f} ms on the clock)")
    print(f"ratio: {loop_ms / library_ms:.1f}x")
    return 0 if library_ms < LIMIT_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
