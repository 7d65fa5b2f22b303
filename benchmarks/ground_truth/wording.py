"""How the page of docs/credit names and writes what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

TITLES: Final[Mapping[str, str]] = {
    "grpo": "GRPO",
    "calibadv/gold": "CalibAdv, gold labels",
    "calibadv/silver": "CalibAdv, silver labels (as published)",
    "calibadv/answer-match": "CalibAdv, answer match",
    "calibadv/random": "CalibAdv, random labels",
    "calibadv/inverted": "CalibAdv, inverted labels",
    "query-group/relevance": "query-group, relevance labels",
    "critic-search/gold": "CriticSearch (judge by gold)",
    "turn-baseline": "turn-baseline (ours)",
    "rloo": "RLOO",
    "mt-grpo": "MT-GRPO",
    "sibling-td": "sibling-td (ours)",
    "labelled-sibling-td/silver": "labelled-sibling-td, silver labels (ours)",
    "labelled-sibling-td/answer-match": "labelled-sibling-td, answer match (ours)",
    "igpo": "IGPO",
    "a2tgpo": "A2TGPO",
    "stamp": "STAMP",
    "gagpo": "GAGPO",
    "gdpo": "GDPO",
    "hgpo": "HGPO",
    "gigpo": "GiGPO",
    "cw-grpo/silver": "CW-GRPO, silver labels",
    "ppo-gae": "PPO",
    "bi-level-gae": "bi-level GAE",
    "mt-ppo": "MT-PPO",
    "critic-steps": "the critic's own steps",
}
"""How the page names estimators; others by their own name."""

GLANCE: Final[Mapping[str, str]] = {
    "warm": "warm start, `train`, 48 questions",
    "warm-120": "warm start, `train`, 120 questions",
    "dev": "warm start, `dev`, 144 questions",
    "grpo-13": "GRPO, update 13",
    "grpo-25": "GRPO, update 25",
    "calibadv-13": "CalibAdv, update 13",
    "calibadv-25": "CalibAdv, update 25",
    "weak": "one passage a search",
    "noisy": "retrieval that misses",
}
"""Measurements of the table of all policies and worlds."""

CRITIC_TITLES: Final = {
    "critic": "ten updates, policy kept as shipped",
    "search-r1-ppo": "search-r1-ppo, update 8",
    "mt-ppo": "mt-ppo, update 8",
}
"""Measurements of critics, and how the page names them."""

WORTHS: Final = (
    ("searches correct by gold", "correct by gold"),
    ("searches wrong by gold", "wrong by gold"),
    ("search 1, correct by gold", "first, correct by gold"),
    ("search 2, correct by gold", "second, correct by gold"),
    ("searches that GRPO punishes", "punished by GRPO"),
    ("… of them correct by gold", "… of them correct by gold"),
    ("… of them wrong by gold", "… of them wrong by gold"),
)
"""Kinds of turns in the table of what searches are worth, and how it names them."""

CLUSTERS: Final = {
    "gold_entities": "entities that the chains end in",
    "cluster": "countries that the last facts are about",
    "question": "questions",
}


def two(value: float, *, signed: bool = False) -> str:
    """``.35``, ``−.12``."""
    return _number(value, 2, signed)


def three(value: float) -> str:
    """``+.058``."""
    return _number(value, 3, True)


def _number(value: float | None, digits: int, signed: bool) -> str:
    if value is None:
        return "–"
    shown = 0.0 if abs(value) < 0.5 * 10**-digits else value
    text = f"{shown:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    return text.replace("0.", ".", 1) if abs(shown) < 1 else text


def with_ends(interval: Mapping[str, float], number: Callable[[Any], str]) -> str:
    """An estimate with its interval."""
    if interval["low"] is None:
        return str(number(interval["estimate"]))
    low, high = number(interval["low"]), number(interval["high"])
    return f"{number(interval['estimate'])} [{low}, {high}]"


def title_of(estimator: str) -> str:
    """Name of an estimator on the page."""
    return TITLES.get(estimator, estimator)


def enumerated(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
