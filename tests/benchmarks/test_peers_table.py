"""The table of docs/speed.md is made of the recorded rounds."""

from __future__ import annotations

import json

import pytest

from benchmarks.peers.__main__ import PAIRS, RESULTS, table
from benchmarks.peers.pairs import ROOT, ratios


def test_the_page_shows_the_recorded_rounds() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert {row["pair"] for row in results["rows"]} == {pair.name for pair in PAIRS}
    for row in results["rows"]:
        assert len(row["ours_per_cpu_s"]) >= 3
        found = ratios(row["ours_per_cpu_s"], row["theirs_per_cpu_s"])
        assert found == {name: pytest.approx(row[name]) for name in ("min", "median")}
    assert table(results) in (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
