from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.cli import live
from calibadv_algo.report.assessment import Tally, assess, summary_sentences
from calibadv_algo.report.groups import (
    iterate_groups,
    select_groups,
    shorten,
    spread_out,
    view,
)
from calibadv_algo.report.page import settings_rows, write_report
from calibadv_algo.report.reading import ReportError, read_comparison
from calibadv_algo.report.template import content_hash, embed_json
from calibadv_algo.types import Group, Trajectory, Turn

Build = Callable[[Path, Any], Path]
HOSTILE = (
    "</script><script>document.title='owned'</script><!--<img src=x onerror=alert(1)>\u2028\"'&"
)


def _turn(action: str, passages: Sequence[str], gold: Sequence[str], **info: Any) -> Turn:
    return Turn(
        action_ids=(1, 2),
        action_text=f"<{action}>",
        logprobs=(0.0, 0.0),
        reward=float(info.get("f1", 0.0)),
        info={
            "action": action,
            "think": " ".join(passages),
            "passage_ids": tuple(passages),
            "gold_new": tuple(gold),
            "gold_recall": 0.5,
            **info,
        },
    )


def _trajectory(searches: Sequence[tuple[str, str]], f1: float) -> Trajectory:
    """One search for every pair of passages (blank separated) and gold hits."""
    turns = [_turn("search", found.split(), gold.split()) for found, gold in searches]
    end = _turn("answer", (), (), f1=f1, is_format_valid=True, answer="x")
    return Trajectory(
        group_id="g", task_id="t", prompt_ids=(), prompt_text="Q", turns=(*turns, end)
    )


@pytest.fixture
def group() -> Group:
    """Row 0 is right; row 1 finds all of its passages, row 2 half and later other gold."""
    return Group(
        (
            _trajectory([("a b", "a")], 1.0),
            _trajectory([("b a", "a")], 0.0),
            _trajectory([("a z", "a"), ("y x", "y")], 0.0),
            _trajectory([("p q", "")], 0.0),
        )
    )


def test_verdicts_by_hand(group: Group) -> None:
    assessed = assess(group)
    np.testing.assert_allclose(assessed.reference[:, 0], [1.5, -0.5, -0.5, -0.5], atol=1e-5)
    np.testing.assert_allclose(assessed.other[:, 0], [1.5, 0.0, -0.25, -0.5], atol=1e-5)
    assert assessed.silver_passages == {"a", "b"}
    assert assessed.gold_passages == {"a", "y"}
    assert [[assessed.verdict(i, j) for j in range(3)] for i in range(4)] == [
        [None, None, None],
        ["spared", None, None],
        ["eased", "punished", None],
        [None, None, None],
    ]


def test_the_tally_counts_what_the_verdicts_say(group: Group) -> None:
    tally = Tally()
    tally.add(assess(group))
    assert (tally.num_groups, tally.num_trajectories, tally.num_searches) == (1, 4, 5)
    assert (tally.num_correct, tally.num_punished) == (4, 3)
    assert tally.verdicts == {"spared": 1, "eased": 1, "punished": 1}
    assert tally.penalty == pytest.approx(1.5, abs=1e-5)
    assert tally.kept_penalty == pytest.approx(0.75, abs=1e-5)
    first, second = summary_sentences(tally)
    assert first.startswith("GRPO punishes 3 of 4 correct searches (75%)")
    assert "the whole penalty from 1 of them and a part of it from 1; 1 keep theirs" in second
    assert second.endswith("It leaves 50% of the penalty in all.")


def test_sentences_of_nothing() -> None:
    assert summary_sentences(Tally()) == ["No trajectories were recorded."]
    only_bad = Tally(num_groups=1, num_trajectories=4, num_searches=5)
    assert summary_sentences(only_bad)[0].startswith("None of the 5 searches in 4 recorded")
    assert len(summary_sentences(Tally(num_groups=1, num_searches=3, num_correct=2))) == 1


def test_an_environment_without_search_facts_is_shown_all_the_same() -> None:
    turns = (
        Turn(action_ids=(1,), action_text="go", logprobs=(0.0,), reward=1.0),
        Turn(action_ids=(1,), action_text="stop", logprobs=(0.0,)),
    )
    rows = [
        Trajectory(group_id="g", task_id="t", prompt_ids=(), prompt_text="Maze", turns=turns[i:])
        for i in (0, 1)
    ]
    assessed = assess(Group(tuple(rows)))
    assert not assessed.is_correct.any()
    shown = view(assessed, arm="grpo", seed=0)
    assert shown.question == "Maze"
    assert shown.trajectories[0].f1 is None
    assert [turn.body for turn in shown.trajectories[0].turns] == ["go", "stop"]
    assert [turn.kind for turn in shown.trajectories[0].turns] == ["turn", "turn"]


def test_shorten_says_what_is_missing() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdef", 2) == "ab … (4 more characters)"


def test_spread_out_keeps_both_ends() -> None:
    assert spread_out(range(100), 3) == [0, 50, 99]
    assert spread_out([5, 1], 4) == [1, 5]
    assert spread_out([], 4) == []


def test_groups_are_chosen_from_all_runs_and_updates(comparison_dir: Path) -> None:
    chosen, tally, methods = select_groups(read_comparison(comparison_dir), max_groups=16)
    assert tally.num_groups == 2 * 2 * 8 * 3
    assert methods.labels == ("GRPO", "CalibAdv")
    assert tally.num_trajectories == 4 * tally.num_groups
    by_run = {(group.arm, group.seed) for group in chosen}
    assert len(chosen) == 16
    assert len(by_run) == 4
    updates = [group.update for group in chosen if (group.arm, group.seed) == ("grpo", 0)]
    assert updates == sorted(updates)
    assert (updates[0], updates[-1]) == (0, 7)
    share = sum(group.num_mispenalized > 0 for group in chosen) / 16
    assert share > 0.7


def test_a_damaged_record_is_named(comparison_dir: Path) -> None:
    path = comparison_dir / "runs/grpo-seed0/trajectories/update-00000.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], json.dumps({"group_id": "x"})]))
    with pytest.raises(ReportError, match=r"update-00000\.jsonl:2: the record lacks turns"):
        list(iterate_groups(path))
    path.write_text(json.dumps(json.loads(lines[0]) | {"turns": []}))
    with pytest.raises(ReportError, match=r":1: not a trajectory record"):
        list(iterate_groups(path))


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_embedded_json_reads_back_and_cannot_leave_its_element(value: Any) -> None:
    text = str(embed_json(value))
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&")


def test_embedded_json_has_no_nan() -> None:
    assert str(embed_json([float("nan"), float("inf"), 1.5])) == "[null,null,1.5]"


class _Elements(html.parser.HTMLParser):
    """Collects elements with their attributes and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.contents.append((self.elements[-1][0], data))


@pytest.fixture
def hostile_page(tmp_path: Path, build_comparison: Build, comparison_plan: Any) -> str:
    directory = build_comparison(tmp_path, comparison_plan(hostile=HOSTILE, num_updates=2))
    return write_report(directory).read_text(encoding="utf-8")


def test_hostile_text_adds_no_element(hostile_page: str) -> None:
    parser = _Elements()
    parser.feed(hostile_page)
    tags = [tag for tag, _ in parser.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert "\u2028" not in hostile_page.split('id="report-data">')[1].split("</script>")[0]
    data = json.loads(hostile_page.split('id="report-data">')[1].split("</script>")[0])
    assert HOSTILE in data["groups"][0]["question"]


def test_the_page_loads_nothing_and_allows_its_own_script_alone(hostile_page: str) -> None:
    parser = _Elements()
    parser.feed(hostile_page)
    for tag, attributes in parser.elements:
        assert not {"src", "srcset", "onclick", "style"} & set(attributes), tag
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
        elif "href" in attributes:
            assert str(attributes["href"]).startswith(("#", "report_groups/"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML", hostile_page)
    policy = next(
        str(attributes["content"])
        for tag, attributes in parser.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    style = hostile_page.split("<style>")[1].split("</style>")[0]
    script = hostile_page.rsplit("<script>", 1)[1].split("</script>")[0]
    assert f"script-src '{content_hash(script)}'" in policy
    assert f"style-src '{content_hash(style)}'" in policy
    assert policy.startswith("default-src 'none'")


def test_lone_surrogates_do_not_stop_the_report(
    tmp_path: Path, build_comparison: Build, comparison_plan: Any
) -> None:
    plan = comparison_plan(hostile="\ud800", num_updates=1, seeds=(0,), num_questions=3)
    with_surrogates = build_comparison(tmp_path, plan)
    assert write_report(with_surrogates).stat().st_size > 10_000


def test_passages_are_stored_once_and_the_page_stays_light(comparison_dir: Path) -> None:
    path = write_report(comparison_dir)
    text = path.read_text(encoding="utf-8")
    data = json.loads(text.split('id="report-data">')[1].split("</script>")[0])
    assert len(data["passages"]) == len({tuple(passage) for passage in data["passages"]})
    assert len(data["groups"]) == 40
    assert len(text) < 400_000
    turn = data["groups"][0]["trajectories"][0]["turns"][0]
    assert {"reference", "other", "silver", "verdict", "is_gold_hit"} <= set(turn)


def test_no_trajectories_still_give_a_page(comparison_dir: Path) -> None:
    for path in comparison_dir.glob("runs/*/trajectories/*.jsonl"):
        path.unlink()
    assert "No trajectories were recorded." in write_report(comparison_dir).read_text()


def test_settings_are_flattened(comparison_dir: Path) -> None:
    rows = dict(settings_rows(read_comparison(comparison_dir)))
    assert rows["wall time"] == "7 min 12 s"
    assert rows["env.dataset"] == "atlas"
    assert rows["warm start.f1"] == "0.41"
    assert rows["git commit"] == "0123abc"


def test_max_groups_must_be_positive(comparison_dir: Path) -> None:
    with pytest.raises(ValueError, match="max_groups must be positive, got 0"):
        write_report(comparison_dir, max_groups=0)


def test_every_recorded_group_stands_on_a_page_that_the_report_links_to(
    comparison_dir: Path,
) -> None:
    text = write_report(comparison_dir, max_groups=1).read_text(encoding="utf-8")
    parser = _Elements()
    parser.feed(text)
    links = [str(found["href"]) for _, found in parser.elements if "href" in found]
    pages = [link for link in links if link.startswith("report_groups/")]
    assert len(set(pages)) == len(pages) > 1
    shown = 0
    for link in pages:
        page = (comparison_dir / link).read_text(encoding="utf-8")
        data = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
        shown += len(data["groups"])
        run, name = Path(link).parts[1:]
        assert {f"{group['arm']}-seed{group['seed']}" for group in data["groups"]} == {run}
        recorded = comparison_dir / "runs" / run / "trajectories" / Path(name).with_suffix(".jsonl")
        assert len({group.group_id for group in iterate_groups(recorded)}) == len(data["groups"])
    recorded_files = (comparison_dir / "runs").glob("*/trajectories/*.jsonl")
    assert shown == sum(len(list(iterate_groups(path))) for path in recorded_files)


def test_the_page_of_a_comparison_that_goes_on_ends_no_run(
    comparison_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    page = live.LiveReport(comparison_dir)
    page.look()
    text = (comparison_dir / "report.html").read_text(encoding="utf-8")
    assert "The runs are training" in text
    assert '"live":{"refreshS":' in text
    page.stop()
    text = (comparison_dir / "report.html").read_text(encoding="utf-8")
    assert "Ended before the last update" in text
    assert '"live":' not in text
    for path in comparison_dir.glob("runs/*/trajectories/*.jsonl"):
        path.write_text("{}\n", encoding="utf-8")
    page.stop()
    assert "is not written while they go on" in capsys.readouterr().err


def test_a_page_links_to_the_credit_that_was_measured(
    tmp_path: Path, build_comparison: Build, comparison_plan: Any
) -> None:
    directory = build_comparison(tmp_path, comparison_plan(num_updates=2))
    assert 'id="credit"' not in write_report(directory).read_text(encoding="utf-8")
    score = {"estimate": 0.25, "low": 0.125, "high": None}
    standings = {"searches": {"<grpo>": {"scores": {"correlation": score}}}}
    facts = {"clusters": "question", "questions": 2, "group_size": 3, "continuations": 8}
    result = {"label": "warm start", "facts": facts | {"states": 2}, "standings": standings}
    (directory / "credit").mkdir()
    (directory / "credit" / "credit.json").write_text(json.dumps([result]))
    page = write_report(directory).read_text(encoding="utf-8")
    assert '<a href="credit/credit.html">' in page
    assert "&lt;grpo&gt;" in page
    assert "× 4 continuations" in page
