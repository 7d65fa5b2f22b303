"""Passages and queries that both sides of a search are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.corpus import indexed_text


def make_texts(options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The atlas with the questions of its dev split, or words by a Zipf law."""
    return _zipf(options) if options.get("zipf") else _atlas(options)


def _atlas(options: dict[str, Any]) -> tuple[list[str], list[str]]:
    dataset = get_dataset("atlas")
    questions = dict.fromkeys(task.question for task in dataset.tasks("dev"))
    return [indexed_text(each) for each in dataset.corpus()], list(questions)[: options["queries"]]


def _zipf(options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Passages of 40 words without a stop word, and queries of 6 words of one passage each."""
    rng = np.random.default_rng(0)
    odds = 1 / np.arange(1, 50_001)
    rows = rng.choice(50_000, size=(options["zipf"], 40), p=odds / odds.sum())
    texts = [" ".join(f"w{word}" for word in row) for row in rows]
    chosen = rng.integers(options["zipf"], size=options["queries"])
    queries = [" ".join(f"w{word}" for word in rng.choice(rows[k], 6)) for k in chosen]
    return texts, queries


def batches(queries: list[str], size: int) -> list[list[str]]:
    """Queries in batches."""
    return [queries[begin : begin + size] for begin in range(0, len(queries), size)]
