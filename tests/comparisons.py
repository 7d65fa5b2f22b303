"""A made-up comparison directory: what training and evaluation leave behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.types import Trajectory, Turn

PLACES = ("Casablanca", "Wau", "Creston", "San Rafael", "Mercury", "Zürich", "Łódź", "Kyōto")
COUNTRIES = ("Morocco", "South Sudan", "Canada", "Argentina", "Freedonia", "Switzerland")
CURRENCIES = ("dirham", "pound", "dollar", "peso", "thaler", "franc")
QUESTION = "What is the currency of the country where the airport of {place} ({k}) lies?"


@dataclass(frozen=True)
class Plan:
    """What to make; ``hostile`` replaces every text that a policy or a corpus can write."""

    arms: tuple[str, ...] = ("grpo", "calibadv")
    seeds: tuple[int, ...] = (0, 1)
    num_updates: int = 8
    num_questions: int = 40
    groups_per_update: int = 3
    group_size: int = 4
    gain: dict[str, float] = field(default_factory=lambda: {"grpo": 0.25, "calibadv": 0.38})
    hostile: str = ""


def _write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def _metrics(plan: Plan, arm: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    lines = []
    for update in range(1, plan.num_updates + 1):
        done = update / plan.num_updates
        reward = 0.35 + plan.gain[arm] * done + rng.normal(0, 0.02)
        lines.append(
            {
                "update": update,
                "reward_mean": reward,
                "f1_mean": reward + 0.02,
                "searches_mean": 1.6 + (0.2 if arm == "grpo" else 0.7) * done + rng.normal(0, 0.05),
                "entropy": 1.1 - (0.6 if arm == "grpo" else 0.3) * done + rng.normal(0, 0.02),
                "mispenalized_share": 0.42 - 0.1 * done + rng.normal(0, 0.03),
                "format_valid_share": min(1.0, 0.9 + 0.09 * done),
                "perplexity_above_50_share": 0.01,
                "negative_to_positive_ratio": 1.1,
                "collapse_alarm": 0,
                "tokens_per_second": 4000.0 + rng.normal(0, 100),
            }
        )
    return lines


def _evals(plan: Plan, arm: str, seed: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    difficulty = np.random.default_rng(99).normal(0, 0.25, plan.num_questions)
    start = np.random.default_rng(5 + seed).random(plan.num_questions)
    rows = []
    for update in range(0, plan.num_updates + 1, 2):
        chance = 0.4 + plan.gain[arm] * update / plan.num_updates - difficulty
        draws = start if update == 0 else rng.random(plan.num_questions)
        for k, is_right in enumerate(draws < chance):
            f1 = 1.0 if is_right else float(draws[k] > 0.9) * 0.5
            rows.append(
                {
                    "update": update,
                    "split": "dev",
                    "task_id": f"q{k:03d}",
                    "hops": 1 + k % 3,
                    "em": float(is_right),
                    "f1": f1,
                    "cover_em": float(is_right),
                    "num_searches": 1 + k % 3,
                    "is_format_valid": bool(draws[k] < 0.97),
                    "seed": seed,
                }
            )
    return rows


def _passage(kind: str, k: int, hostile: str) -> tuple[str, str, str]:
    place, country = PLACES[k % 8], COUNTRIES[k % 6]
    texts = {
        "air": (f"{place} Airport (domestic)", f"{place} Airport lies in {country}."),
        "cur": (f"Economy of {country}", f"The currency of {country} is the {CURRENCIES[k % 6]}."),
        "bad": (f"Borders of {country}", f"{country} shares borders with its neighbours."),
        "odd": (f"{place} (film)", f"{place} is the title of a film."),
    }
    title, text = texts[kind]
    return f"{kind}-{k % 24}", title + hostile, text + hostile


def _search_turn(
    plan: Plan, k: int, kinds: tuple[str, ...], think: str, seen: set[str]
) -> dict[str, Any]:
    passages = [_passage(kind, k, plan.hostile) for kind in kinds]
    query = f"{PLACES[k % 8]} {kinds[0]}{plan.hostile}"
    text = f"<think>{think}{plan.hostile}</think><search>{query}</search>"
    body = "".join(f"Doc {i}(Title: {t}) {x}\n" for i, (_, t, x) in enumerate(passages, start=1))
    gold = [p for p, _, _ in passages if p[:3] in ("air", "cur") and p not in seen]
    seen.update(p for p, _, _ in passages)
    info = {
        "action": "search",
        "think": think + plan.hostile,
        "query": query,
        "answer": None,
        "passage_ids": tuple(p for p, _, _ in passages),
        "passage_scores": tuple(9.0 - i for i in range(len(passages))),
        "gold_new": tuple(gold),
        "gold_recall": 0.5,
        "answer_in_passages": "cur" in kinds,
        "stop_reason": None,
    }
    return _turn(text, info, f"<information>{body}</information>", 0.0)


def _turn(text: str, info: dict[str, Any], observation: str, reward: float) -> dict[str, Any]:
    num_tokens = max(1, len(text) // 4)
    return {
        "action_ids": tuple(range(num_tokens)),
        "action_text": text,
        "logprobs": (-0.5,) * num_tokens,
        "observation_ids": tuple(range(len(observation) // 4)),
        "observation_text": observation,
        "reward": reward,
        "info": info,
        "is_cut": False,
    }


def _trajectory(
    plan: Plan, group_id: str, k: int, update: int, rng: np.random.Generator
) -> dict[str, Any]:
    path = rng.choice(["good", "unread", "lost", "broken"], p=[0.4, 0.35, 0.2, 0.05])
    seen: set[str] = set()
    first = _search_turn(
        plan, k, ("air", "odd", "bad"), f"I first need the country of {PLACES[k % 8]}.", seen
    )
    second = _search_turn(
        plan, k, ("cur", "bad", "odd")[: 2 + k % 2], f"It lies in {COUNTRIES[k % 6]}: money?", seen
    )
    lost = _search_turn(plan, k, ("odd", "bad"), "Perhaps there is a film of it.", seen)
    turns = {"good": [first, second], "unread": [first, second], "lost": [lost], "broken": []}[path]
    right = CURRENCIES[k % 6]
    answer = right if path == "good" else CURRENCIES[(k + 1) % 6]
    reward = {"good": 1.0, "unread": 0.0, "lost": 0.0, "broken": 0.0}[path]
    text = f"<think>So it is the {answer}.</think><answer>{answer}{plan.hostile}</answer>"
    end: dict[str, Any] = {
        "action": "answer",
        "think": f"So it is the {answer}.",
        "query": None,
        "answer": answer + plan.hostile,
        "stop_reason": "answered",
    }
    if path == "broken":
        text = "I do not know <sear"
        end = {"action": "malformed", "think": "", "query": None, "answer": None}
        end["stop_reason"] = "malformed"
    end |= {"passage_ids": (), "gold_new": (), "gold_recall": 0.5, "em": reward, "f1": reward}
    end |= {"answer_in_passages": False, "is_format_valid": path != "broken"}
    question = QUESTION.format(place=PLACES[k % 8], k=k) + plan.hostile
    return {
        "group_id": group_id,
        "task_id": f"train-{k:03d}",
        "prompt_ids": (1, 2, 3),
        "prompt_text": f"Question: {question}\n",
        "turns": (*turns, _turn(text, end, "", reward)),
        "is_terminated": True,
        "is_truncated": False,
        "reset_info": {
            "task_id": f"train-{k:03d}",
            "question": question,
            "golden_answers": (right + plan.hostile,),
            "hops": 2,
        },
        "policy_version": update,
        "seed": int(rng.integers(1000)),
    }


def _record(trajectory: dict[str, Any]) -> dict[str, Any]:
    """A record as the trainer writes it: with the advantages that were used."""
    turns = tuple(Turn(**turn) for turn in trajectory["turns"])
    record: dict[str, Any] = json.loads(
        trajectory_to_json(Trajectory(**{**trajectory, "turns": turns}))
    )
    for turn in record["turns"]:
        turn["advantages"] = 0.0
    return record


def make_comparison(directory: Path, plan: Plan | None = None) -> Path:
    """Writes a comparison directory."""
    plan = plan or Plan()
    for arm in plan.arms:
        for seed in plan.seeds:
            rng = np.random.default_rng([seed, len(arm)])
            run = directory / "runs" / f"{arm}-seed{seed}"
            _write_lines(run / "metrics.jsonl", _metrics(plan, arm, rng))
            _write_lines(run / "evals.jsonl", _evals(plan, arm, seed, rng))
            for update in range(plan.num_updates):
                lines = [
                    _record(_trajectory(plan, f"{update}-{g}", int(g + 7 * update), update, rng))
                    for g in range(plan.groups_per_update)
                    for _ in range(plan.group_size)
                ]
                _write_lines(run / "trajectories" / f"update-{update:05d}.jsonl", lines)
    header = {
        "arms": list(plan.arms),
        "seeds": list(plan.seeds),
        "config": {
            "group_size": plan.group_size,
            "env": {"dataset": "atlas"},
            "note": plan.hostile,
        },
        "git_commit": "0123abc",
        "data_sha256": "f" * 64,
        "warm_start": {"path": "atlas-policy", "f1": 0.41},
        "wall_time_s": 431.7,
    }
    (directory / "comparison.json").write_text(json.dumps(header), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def comparison_plan() -> type[Plan]:
    """The settings of :func:`make_comparison`."""
    return Plan


@pytest.fixture(scope="session")
def build_comparison() -> Callable[[Path, Plan | None], Path]:
    """Makes a comparison directory of one's own."""
    return make_comparison


@pytest.fixture(scope="session")
def _made_comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_comparison(tmp_path_factory.mktemp("made") / "comparison")


@pytest.fixture
def comparison_dir(tmp_path: Path, _made_comparison: Path) -> Path:
    """Two arms, two seeds, 8 updates, 40 questions, groups of trajectories of 1 to 3 turns."""
    return Path(shutil.copytree(_made_comparison, tmp_path / "comparison"))
