"""Actions and search results that the environments of all sides are given."""

from __future__ import annotations

import random

NUM_QUESTIONS = 64
PASSAGES = [
    (f"Place {number}", " ".join(f"word{(number * 7 + k) % 97}" for k in range(30)) + ".")
    for number in range(30)
]


def question(number: int) -> str:
    """A question."""
    return f"What lies near place {number}?"


def answer(number: int) -> str:
    """Its answer."""
    return f"name{number}"


def episode(number: int, num_searches: int) -> list[str]:
    """The turns of an episode: searches, then an answer that is right every second time."""
    rng = random.Random(number)
    think = "<think>I need to find out what word{} has to do with it now</think>"
    turns = [
        f"{think.format(rng.randrange(97))}<search>place {rng.randrange(99)} "
        f"word{rng.randrange(97)}</search>"
        for _ in range(num_searches)
    ]
    given = answer(number % NUM_QUESTIONS) if number % 2 else "nothing"
    return [*turns, f"{think.format(0)}<answer>{given}</answer>"]


def found(call: int) -> list[tuple[str, str]]:
    """Three passages, others at every call."""
    return [PASSAGES[(call + k) % len(PASSAGES)] for k in range(3)]
