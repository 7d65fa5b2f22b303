"""The tables of docs/credit hold the numbers of the measurements that are kept beside the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "credit"
NAMES = {
    "query-group, relevance labels": "query-group/relevance",
    "query-group, inverted labels": "query-group/inverted",
    "CriticSearch, answer-match labels": "critic-search/answer-match",
    "CriticSearch (judge by gold)": "critic-search/gold",
    "turn-group, silver labels": "turn-group/silver",
    "CalibAdv, gold labels": "calibadv/gold",
    "CalibAdv, silver labels (as published)": "calibadv/silver",
    "CalibAdv, answer match": "calibadv/answer-match",
    "CalibAdv, random labels": "calibadv/random",
    "CalibAdv, inverted labels": "calibadv/inverted",
    "turn-baseline (ours, docs/paper_map.md)": "turn-baseline",
    "turn-baseline": "turn-baseline",
    "RLOO, Dr. GRPO": "rloo",
    "RLOO": "rloo",
    "MT-GRPO": "mt-grpo",
    "GRPO": "grpo",
    "GiGPO": "gigpo",
    "calibadv-upper-limit": "calibadv-upper-limit",
    "sibling-td (ours)": "sibling-td",
    "labelled-sibling-td, silver labels (ours)": "labelled-sibling-td/silver",
    "labelled-sibling-td, answer match (ours)": "labelled-sibling-td/answer-match",
    "IGPO": "igpo",
    "A2TGPO": "a2tgpo",
    "STAMP": "stamp",
    "GAGPO": "gagpo",
    "GDPO": "gdpo",
    "HGPO": "hgpo",
    "CW-GRPO, silver labels": "cw-grpo/silver",
}
"""Candidate by its name in the tables."""


def recorded() -> dict[str, dict[str, Any]]:
    """Estimators of every measurement by the heading of its section."""
    first = json.loads((FOLDER / "results.json").read_text())
    calibadv, weaker, _, dev = json.loads((FOLDER / "more_results.json").read_text())
    middle = json.loads((FOLDER / "grpo_middle_results.json").read_text())
    end = json.loads((FOLDER / "grpo_end_results.json").read_text())
    noisy = json.loads((FOLDER / "noisy_results.json").read_text())
    before = json.loads((FOLDER / "calibadv_middle_results.json").read_text())
    own = json.loads((FOLDER / "own_results.json").read_text())
    assert weaker["facts"]["top_k"] == 1
    assert noisy["facts"]["dataset"] == "atlas-noisy"
    assert dev["facts"]["split"] == "dev"
    return {
        "The answer so far": first["searches"],
        "On 144 questions of `dev`": dev["searches"],
        "Our own estimators and newer ones": own["searches"],
        "In the middle of a GRPO run": middle["searches"],
        "After a GRPO run": end["searches"],
        "In the middle of a CalibAdv run": before["searches"],
        "After a CalibAdv run": calibadv["searches"],
        "With weaker retrieval": weaker["searches"],
        "With retrieval that misses": noisy["searches"],
    }


def rows(heading: str) -> list[list[str]]:
    """Cells of a section's table of estimators."""
    page = (FOLDER / "README.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert lines[0].startswith("| estimator and labels |")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(cell: str) -> list[float]:
    """Numbers of a cell, in order."""
    found = re.findall(r"[+−]?\d*\.\d+", cell)
    return [float(each.replace("−", "-")) for each in found]


def ends(interval: dict[str, float]) -> list[float]:
    return [interval["estimate"], interval["low"], interval["high"]]


@pytest.mark.parametrize("heading", list(recorded()))
def test_tables_say_what_was_measured(heading: str) -> None:
    searches = recorded()[heading]
    for name, correlation, *shares, difference in rows(heading):
        one = searches[NAMES[name]]
        scores = one["scores"]
        shown = numbers(correlation)
        assert shown == pytest.approx(ends(scores["correlation"])[: len(shown)], abs=0.0051), name
        for cell, metric in zip(shares, ("rank", "good_punished", "bad_rewarded"), strict=True):
            assert numbers(cell) == pytest.approx([scores[metric]["estimate"]], abs=0.0051), name
        against = one["against"].get("correlation")
        if not against:
            assert name == "GRPO"
            continue
        assert difference.startswith("**") == (against["verdict"] != "undecided"), name
        if difference != "undecided":
            assert numbers(difference) == pytest.approx(ends(against["joint"]), abs=0.0051), name


def test_direct_differences_say_what_was_measured() -> None:
    page = " ".join((FOLDER / "README.md").read_text().split())
    direct = json.loads((FOLDER / "own_results.json").read_text())["direct"]
    said = (
        ("is", direct["calibadv/silver"]["sibling-td"]),
        ("less gold labels", direct["calibadv/gold"]["sibling-td"]),
    )
    for words, found in said:
        text = page.partition("sibling-td − CalibAdv with silver labels")[2]
        shown = numbers(text.partition(f"{words} ")[2])[:5]
        assert shown == pytest.approx(
            [found["estimate"], *found["single"], *found["joint"]], abs=0.0006
        )
    silver = direct["calibadv/silver"]
    text = page.partition("labelled-sibling-td − CalibAdv with silver labels is ")[2]
    for name, place in (("labelled-sibling-td/silver", 0), ("labelled-sibling-td/answer-match", 3)):
        found = silver[name]
        assert numbers(text)[place : place + 3] == pytest.approx(
            [found["estimate"], *found["joint"]], abs=0.0006
        )


def test_the_table_of_critics_says_what_was_measured() -> None:
    first = json.loads((FOLDER / "critic_results.json").read_text())
    ppo, mt_ppo = json.loads((FOLDER / "critic_preset_results.json").read_text())
    assert mt_ppo["facts"]["critic_rewards"] == "MtPpoRewards"
    section = (FOLDER / "README.md").read_text().partition("| critic |")[2]
    lines = section.splitlines()[2:5]
    places = (
        ("critic, the start", "corrected"),
        ("critic, later states", "corrected"),
        ("critic, later states", "within"),
        ("critic, all states", "explained"),
        ("other episodes, all states", "explained"),
    )
    for line, measurement in zip(lines, (first, ppo, mt_ppo), strict=True):
        values = {each["what"]: each for each in measurement["values"]}
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for cell, (what, score) in zip(cells, places, strict=True):
            if cell != "–":
                assert numbers(cell) == pytest.approx(ends(values[what][score]), abs=0.0051), line


def test_the_glance_says_what_was_measured() -> None:
    found = recorded()
    longer = json.loads((FOLDER / "more_results.json").read_text())[2]
    assert longer["facts"]["questions"] == 120
    measurements = {
        "warm start, `train`, 48 questions": found["The answer so far"],
        "warm start, `train`, 120 questions": longer["searches"],
        "warm start, `dev`, 144 questions": found["On 144 questions of `dev`"],
        "GRPO, update 13": found["In the middle of a GRPO run"],
        "GRPO, update 25": found["After a GRPO run"],
        "CalibAdv, update 12": found["In the middle of a CalibAdv run"],
        "CalibAdv, update 25": found["After a CalibAdv run"],
        "one passage a search": found["With weaker retrieval"],
        "retrieval that misses": found["With retrieval that misses"],
    }
    lines = (FOLDER / "README.md").read_text().partition("| measured on |")[2].splitlines()[2:]
    for line, (name, searches) in zip(lines, measurements.items(), strict=False):
        place, grpo, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert place == name
        assert numbers(grpo) == pytest.approx(
            [searches["grpo"]["scores"]["correlation"]["estimate"]], abs=0.0051
        )
        for cell, labels in zip(cells, ("gold", "silver", "inverted"), strict=True):
            against = searches[f"calibadv/{labels}"]["against"]["correlation"]
            assert cell.startswith("**") == (against["verdict"] != "undecided"), line
            assert numbers(cell) == pytest.approx(ends(against["joint"]), abs=0.0006), line
