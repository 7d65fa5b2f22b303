"""A suite: order, resuming after a crash, refusals, scores, tables, published figures."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv_algo.errors import EngineError, RolloutError
from calibadv_algo.experiments.suite.files import (
    RECORDS,
    SETTINGS,
    SuiteError,
    compare_settings,
    read_records,
)
from calibadv_algo.experiments.suite.published import (
    BENCHMARKS,
    PUBLISHED,
    PublishedRow,
    published_rows,
)
from calibadv_algo.experiments.suite.result import PartResult, SuiteResult
from calibadv_algo.experiments.suite.run import (
    SuitePart,
    SuitePlayer,
    SuiteTask,
    choose_tasks,
    episode_seed,
    run_suite,
)
from calibadv_algo.experiments.suite.scores import macro_average, score_part
from calibadv_algo.report.suite_table import (
    coverage_table,
    play_table,
    published_table,
    score_table,
    suite_markdown,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.openai.engine import TextPieces
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.rollout.slots import SlotFailure, make_slots
from calibadv_algo.training.evaluation import EvalRecord, record_to_json
from calibadv_env.common.locks import hold_folder
from calibadv_env.data.preparing.coverage import _sample
from calibadv_env.data.registry import get_dataset
from calibadv_env.data.sources.benchmarks import SEVEN
from calibadv_env.errors import InUseError
from calibadv_env.info import STOP_STRINGS

RECORD = EvalRecord(
    update=0,
    split="test",
    task_id="q",
    hops=2,
    reward=1.0,
    em=1.0,
    f1=1.0,
    cover_em=1.0,
    num_searches=2,
    is_format_valid=True,
    num_turns=3,
    num_action_tokens=40,
    is_truncated=False,
    answer="Oslo",
    seed=0,
)


def records_of(em: Sequence[float], **changes: Any) -> list[EvalRecord]:
    """Records with these exact matches, one a question."""
    return [
        replace(RECORD, task_id=f"q{i}", em=value, f1=value, cover_em=value, **changes)
        for i, value in enumerate(em)
    ]


# Playing


class CountingEngine(ScriptedEngine):
    """Says something that depends on question and seed; fails when it is told to."""

    def __init__(self) -> None:
        self.num_turns = 0
        self.fail_at = -1
        self.pieces = TextPieces()
        super().__init__(self.write, self.pieces)

    def write(self, context: str, seed: int) -> str:
        self.num_turns += 1
        if self.num_turns == self.fail_at:
            raise EngineError("the engine broke")
        if "<information>" not in context:
            return "<think>t</think><search>capital</search>"
        return f"<think>t</think><answer>{(len(context) + seed) % 3}</answer>"


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


def part_of(engine: Any, num_tasks: int = 10, name: str = "toy", **changes: Any) -> SuitePart:
    tasks = get_dataset("toy").tasks("eval")

    def open_player() -> SuitePlayer:
        kwargs = {"split": "eval", "prompt": "question"}
        slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 4, kwargs)
        player = Player(
            slots,
            engine,
            changes.get("tokenizer") or engine.pieces,
            SamplingParams(temperature=1.0, max_tokens=9, stop=STOP_STRINGS),
            DriverConfig(**changes.get("driver", {})),
        )
        return SuitePlayer(player)

    return SuitePart(
        name=name,
        file_name=name,
        split=tasks.split,
        tasks=tuple(SuiteTask(i, tasks[i].id, tasks[i].hops) for i in range(num_tasks)),
        split_size=len(tasks),
        open_player=open_player,
        settings=changes.get("settings", {}),
    )


def run(folder: Path, engine: Any, **changes: Any) -> dict[str, list[EvalRecord]]:
    values: dict[str, Any] = {"settings": {"top_k": 3}, "chunk": 4, "num_samples": 1, **changes}
    parts = values.pop("parts", None) or [part_of(engine)]
    return run_suite(parts, folder=folder, **values)


def test_every_question_gives_a_record_in_order(tmp_path: Path, engine: CountingEngine) -> None:
    seen: list[tuple[str, int, int]] = []
    done = run(tmp_path, engine, on_progress=lambda *facts: seen.append(facts))
    tasks = get_dataset("toy").tasks("eval")
    assert [record.task_id for record in done["toy"]] == [tasks[i].id for i in range(10)]
    assert {record.split for record in done["toy"]} == {"test"}
    assert {record.num_searches for record in done["toy"]} == {1}
    assert seen == [("toy", n, 10) for n in (0, 4, 8, 10)]
    lines = (tmp_path / RECORDS / "toy.jsonl").read_text().splitlines()
    assert lines == [record_to_json(record).strip() for record in done["toy"]]


def test_a_second_run_plays_nothing(tmp_path: Path, engine: CountingEngine) -> None:
    first = run(tmp_path, engine)
    engine.fail_at = engine.num_turns + 1
    assert run(tmp_path, engine) == first


@pytest.mark.parametrize("fail_at", range(1, 21, 3))
def test_a_failure_keeps_the_finished_chunks(
    tmp_path: Path, engine: CountingEngine, fail_at: int
) -> None:
    whole = run(tmp_path / "whole", CountingEngine())
    engine.fail_at = fail_at
    with pytest.raises(EngineError, match=r"toy: the engine broke\. The \d+ episodes before"):
        run(tmp_path / "a", engine)
    num_done = (fail_at - 1) // 8 * 4
    path = tmp_path / "a" / RECORDS / "toy.jsonl"
    assert (len(path.read_text().splitlines()) if path.exists() else 0) == num_done
    again = CountingEngine()
    assert run(tmp_path / "a", again) == whole
    assert again.num_turns == 2 * (10 - num_done)


@pytest.mark.parametrize("cut", [1, 60, 200, 400, 10_000])
def test_what_a_crash_left_is_taken_off(tmp_path: Path, cut: int) -> None:
    whole = run(tmp_path, CountingEngine())
    path = tmp_path / RECORDS / "toy.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    assert run(tmp_path, CountingEngine()) == whole
    assert path.read_bytes() == content


def test_an_unfinished_chunk_is_played_again_as_a_whole(tmp_path: Path) -> None:
    whole = run(tmp_path, CountingEngine())
    path = tmp_path / RECORDS / "toy.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    ids = [record.task_id for record in whole["toy"]]
    assert len(read_records(path, ids, chunk=4)) == 4
    assert path.read_bytes() == b"".join(lines[:4])
    path.write_bytes(b"".join(lines))
    assert len(read_records(path, ids, chunk=4)) == 10


def test_samples_stand_together_and_differ(tmp_path: Path, engine: CountingEngine) -> None:
    done = run(tmp_path, engine, num_samples=3)["toy"]
    assert len(done) == 30
    assert [record.task_id for record in done[:6:3]] == [done[1].task_id, done[5].task_id]
    assert len({record.seed for record in done}) == 30
    assert len({record.answer for record in done[:9]}) > 1
    other = run(tmp_path / "b", CountingEngine(), num_samples=3, seed=1)["toy"]
    assert {record.seed for record in done}.isdisjoint(record.seed for record in other)


def test_a_question_that_does_not_fit_scores_nothing(tmp_path: Path) -> None:
    engine = CountingEngine()

    class Letters(TextPieces):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return super().encode(text) + [0] * (len(text) - 1)

    engine.pieces = letters = Letters()
    engine._tokenizer = letters
    tasks = get_dataset("toy").tasks("eval")
    lengths = sorted(len(f"Question: {tasks[i].question}\n") for i in range(10))
    limit = {"max_context_tokens": lengths[5] + 9}
    part = part_of(engine, driver=limit, tokenizer=letters)
    done = run(tmp_path, engine, parts=[part], chunk=10)["toy"]
    unasked = [record for record in done if record.num_turns == 0]
    assert 1 <= len(unasked) < 10
    assert {record.f1 for record in unasked} == {0.0}
    assert [r.task_id for r in done] == [tasks[i].id for i in range(10)]
    assert score_part("toy", done, 1).num_unasked == len(unasked)


def test_a_search_that_fails_stops_the_suite(
    tmp_path: Path, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", CountingEngine())
    part = part_of(engine, driver={"max_retries": 0, "backoff_s": 0.0})
    player = part.open_player()
    slots = player.player.slots
    step, calls = slots.step, iter(range(100))

    def fail_later(actions: Any, catch: Any) -> Any:
        results = step(actions, catch)
        if next(calls) == 3:
            results[next(iter(results))] = SlotFailure(OSError("no route to the index"))
        return results

    monkeypatch.setattr(slots, "step", fail_later)
    with pytest.raises(RolloutError, match=r"toy: 1 of 4 episodes failed.*no route to the index"):
        run(tmp_path, engine, parts=[replace(part, open_player=lambda: player)])
    assert run(tmp_path, CountingEngine()) == whole


# Refusals


def test_other_settings_are_refused_and_named(tmp_path: Path, engine: CountingEngine) -> None:
    run(tmp_path, engine)
    with pytest.raises(SuiteError, match=r"other settings: num_samples 1 there, 2 here\. Give"):
        run(tmp_path, engine, num_samples=2)
    with pytest.raises(SuiteError, match="top_k 3 there, 5 here"):
        run(tmp_path, engine, settings={"top_k": 5})
    other = part_of(engine, settings={"tasks_sha256": "f"})
    with pytest.raises(SuiteError, match=r"parts\.toy\.tasks_sha256 not set there"):
        run(tmp_path, engine, parts=[other])
    run(tmp_path, engine, chunk=7)


def test_differences_have_their_full_names() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": "x" * 100}
    assert compare_settings(old, {"a": {"b": 2, "c": [1]}, "d": "x" * 100}) == [
        "a.b 1 there, 2 here"
    ]
    [long] = compare_settings(old, {**old, "d": 1})
    assert len(long) < 100
    assert compare_settings(old, json.loads(json.dumps(old))) == []


def test_damaged_files_are_refused(tmp_path: Path, engine: CountingEngine) -> None:
    run(tmp_path, engine)
    path = tmp_path / RECORDS / "toy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(SuiteError, match=r"toy\.jsonl:1: the record is of task"):
        run(tmp_path, engine)
    path.write_text("".join(["{}\n", *lines[1:]]))
    with pytest.raises(SuiteError, match=r"toy\.jsonl:1: line must be an evaluation record"):
        run(tmp_path, engine)
    path.write_text("".join(lines * 2))
    with pytest.raises(SuiteError, match="20 records for 10 episodes"):
        run(tmp_path, engine)
    path.write_text("".join(lines))
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(SuiteError, match="cannot read the settings"):
        run(tmp_path, engine)
    (tmp_path / SETTINGS).unlink()
    with pytest.raises(SuiteError, match=r"records without settings\.json"):
        run(tmp_path, engine)


def test_a_folder_is_used_by_one_process_at_a_time(tmp_path: Path, engine: CountingEngine) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_folder(tmp_path):
            taken.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    taken.wait()
    with pytest.raises(InUseError, match=rf"in use by process {os.getpid()} on"):
        run(tmp_path, engine)
    done.set()
    other.join()
    run(tmp_path, engine)


def test_arguments_are_checked(tmp_path: Path, engine: CountingEngine) -> None:
    for name in ("num_samples", "chunk"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            run(tmp_path, engine, **{name: 0})
    with pytest.raises(ValueError, match="parts must each have a name"):
        run(tmp_path, engine, parts=[part_of(engine), part_of(engine)])


# Choosing


def test_a_subset_is_seeded_and_in_order() -> None:
    assert choose_tasks(5, None, 0) == choose_tasks(5, 9, 3) == [0, 1, 2, 3, 4]
    chosen = choose_tasks(1000, 50, 0)
    assert chosen == sorted(set(chosen)) == choose_tasks(1000, 50, 0)
    assert chosen != choose_tasks(1000, 50, 1)
    with pytest.raises(ValueError, match="subset must be positive, got 0"):
        choose_tasks(5, 0, 0)


def test_a_subset_is_what_the_audit_asks_about() -> None:
    tasks = get_dataset("toy").tasks("test")
    audited = [task.id for task in _sample(tasks, 9, 4)]
    assert audited == [tasks[i].id for i in choose_tasks(len(tasks), 9, 4)]


def test_seeds_depend_on_seed_task_and_sample() -> None:
    seeds = {episode_seed(s, t, n) for s in (0, 1) for t in ("a", "b") for n in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 63 for seed in seeds)


# Scores


def test_means_are_over_samples_then_questions() -> None:
    em = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    scores = score_part("x", records_of(em), 2)
    assert scores.num_questions == 3
    assert scores.means["em"].estimate == pytest.approx(0.5)  # type: ignore[union-attr]
    assert scores.best["em"].estimate == pytest.approx(2 / 3)  # type: ignore[union-attr]
    assert scores.means["searches"].estimate == 2.0  # type: ignore[union-attr]
    assert scores.means["tokens"].estimate == 40.0  # type: ignore[union-attr]
    assert score_part("x", records_of(em), 1).best == {}


def test_intervals_agree_with_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    em = (rng.random(200) < 0.4).astype(float)
    interval = score_part("x", records_of(list(em)), 1).means["em"]
    assert interval is not None
    slow = [rng.choice(em, 199).mean() for _ in range(4000)]
    low, high = np.quantile(slow, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.012)
    assert interval.high == pytest.approx(high, abs=0.012)
    assert interval.low < interval.estimate < interval.high


def test_intervals_repeat_and_differ_between_datasets() -> None:
    em = list((np.random.default_rng(1).random(50) < 0.5).astype(float))
    assert score_part("x", records_of(em), 1).means == score_part("x", records_of(em), 1).means
    a, b = (score_part(name, records_of(em), 1).resampled["em"] for name in "xy")
    assert not np.array_equal(a, b)


def test_many_questions_are_resampled_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    em = list((np.random.default_rng(1).random(50) < 0.5).astype(float))
    monkeypatch.setattr("calibadv_algo.experiments.suite.scores._CELLS_AT_ONCE", 50 * 300)
    assert score_part("x", records_of(em), 1).resampled["em"].shape == (2000,)


def test_what_is_not_known_is_not_averaged() -> None:
    records = [*records_of([1.0]), replace(RECORD, em=None, num_action_tokens=None)]
    means = score_part("x", records, 1).means
    assert means["em"] is None
    assert means["tokens"] is None
    assert means["f1"] is not None
    with pytest.raises(ValueError, match="records must be 2 a question"):
        score_part("x", records_of([1.0]), 2)
    with pytest.raises(ValueError, match="not empty"):
        score_part("x", [], 1)


def test_the_macro_average_weighs_datasets_alike() -> None:
    large = score_part("a", records_of([1.0] * 90), 1)
    small = score_part("b", records_of([0.0] * 10), 1)
    average = macro_average([large, small])["em"]
    assert average is not None
    assert average.estimate == pytest.approx(0.5)
    with pytest.raises(ValueError, match="parts must not be empty"):
        macro_average([])


# Results and tables

AUDIT = {
    "retriever": "bm25",
    "top_k": 3,
    "coverage": {
        "num_telling": 9,
        "num_with_gold": 8,
        "num_telling_with_chain": 7,
        "answer_in_corpus": 0.9,
        "gold_in_corpus": 0.8,
        "one_search_answer": None,
        "chain_answer": 0.7,
    },
}


def part_result(name: str, em: Sequence[float] = (1.0, 0.0), **changes: Any) -> PartResult:
    values: dict[str, Any] = {
        "split": "test",
        "split_size": len(em),
        "published_size": len(em),
        "scores": score_part(name, records_of(em), 1),
        "retrieval": {"retriever": "bm25", "top_k": 3, "corpus_sha256": "ab" * 32},
        "coverage": AUDIT,
    }
    return PartResult(name=name, **{**values, **changes})


def result_of(parts: Sequence[PartResult], **changes: Any) -> SuiteResult:
    settings = {
        "temperature": 0.0,
        "env": {"max_turns": 4, "prompt": "search_r1"},
        "subset_seed": 0,
    }
    values: dict[str, Any] = {"skipped": {}, "settings": settings, "code": {"git_commit": "0123"}}
    return SuiteResult(model="my|model", suite="seven", parts=tuple(parts), **{**values, **changes})


@pytest.fixture
def seven() -> SuiteResult:
    return result_of([part_result(name) for name in BENCHMARKS])


def test_there_is_an_average_only_of_all_seven(seven: SuiteResult) -> None:
    assert seven.macro is not None
    assert seven.macro["em"].estimate == 0.5  # type: ignore[union-attr]
    assert result_of(seven.parts[:-1]).macro is None
    assert result_of([*seven.parts, part_result("atlas")]).macro is None
    text = suite_markdown(result_of(seven.parts[:-1], skipped={"Bamboogle": "no file"}))
    assert "No average: Bamboogle of the seven are missing." in text
    assert re.search(r"\| Bamboogle \| not evaluated \|", text)
    assert "- Bamboogle: no file" in text


def test_the_page_has_everything(seven: SuiteResult) -> None:
    text = suite_markdown(seven)
    assert text.startswith("# my|model on seven\n")
    assert "my\\|model" in text
    for needle in (
        "| Average of the seven | – | – | 0.500",
        "0.900 of 9",
        "EM beside published EM",
        "F1 beside published F1",
        "Cover EM beside published Cover EM",
        "| Search-R1 PPO, 7B base | 0.480 | 0.638 |",
        "| 0.4915 | average of seven",
        "arXiv 2503.09516v5",
        "Our searches give 3 passages each, by bm25",
        "Our answers are greedy, after at most 4 searches",
        "- code.git_commit: `0123`",
    ):
        assert needle in text, needle
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_every_row_is_as_wide_as_its_header(seven: SuiteResult) -> None:
    for result in (seven, result_of(seven.parts[:2], skipped={"MuSiQue": "x"})):
        for table in (
            score_table(result),
            play_table(result),
            coverage_table(result),
            published_table(result, "em"),
        ):
            assert table is not None
            assert {len(row) for row in table.rows} == {len(table.header)}


def test_what_makes_ours_special_is_said() -> None:
    parts = [
        part_result("NQ", published_size=3610, coverage=None),
        part_result("PopQA", split_size=14267, published_size=14267),
    ]
    text = "\n".join(result_of(parts).caveats())
    assert "NQ test 2 instead of 3,610" in text
    assert "a sample of the questions (seed 0): PopQA 2 of 14,267" in text
    assert "was not measured for NQ" in text
    plain = "\n".join(result_of([part_result("NQ")]).caveats())
    assert "instead of" not in plain
    assert "a sample of" not in plain
    assert "was not measured" not in plain


def test_the_table_says_which_f1_it_shows() -> None:
    """FlashRAG's row follows HotpotQA's rule for yes and no, CalibAdv's does not."""
    records = [replace(RECORD, f1=0.5, f1_official=0.25)]
    parts = [part_result("HotpotQA", scores=score_part("HotpotQA", records, 1))]
    table = published_table(result_of(parts), "f1")
    assert table is not None
    assert [row[:2] for row in table.rows[:2]][1] == ("the same, official F1", "0.250")
    assert table.rows[0][1] == "0.500"
    other = published_table(result_of(parts), "em")
    assert other is not None
    assert "official" not in other.rows[1][0]


def test_other_datasets_have_nothing_published_beside_them() -> None:
    result = result_of([part_result("atlas", published_size=None, coverage=None)])
    assert (result.published(), result.caveats()) == ({}, [])
    text = suite_markdown(result)
    assert "published" not in text
    assert "calibadv data audit atlas" in text


def test_samples_have_their_own_headings() -> None:
    scores = score_part("NQ", records_of([1.0, 0.0, 0.0, 0.0]), 2)
    table = score_table(result_of([part_result("NQ", scores=scores, split_size=2)]))
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["EM mean@2"].startswith("0.250")
    assert row["EM pass@2"].startswith("0.500")


def test_the_result_is_plain_json(seven: SuiteResult) -> None:
    value = json.loads(json.dumps(seven.to_json(), allow_nan=False))
    assert value["macro_average"]["em"]["estimate"] == 0.5
    assert value["parts"][0]["means"]["em"]["low"] <= 0.5
    assert value["parts"][0]["by_hops"] == {
        "2": {"cover_em": 0.5, "em": 0.5, "episodes": 2.0, "f1": 0.5, "searches": 2.0}
    }
    assert value["published"]["em"][0]["source"]
    assert value["parts"][0]["coverage"] == AUDIT


# Published figures


def rows_with_average() -> list[PublishedRow]:
    return [row for row in PUBLISHED if row.average is not None and row.scores]


@pytest.mark.parametrize("row", rows_with_average(), ids=lambda row: row.system)
def test_published_averages_are_those_of_the_scores(row: PublishedRow) -> None:
    assert len(row.scores) == 7
    assert row.average is not None
    assert abs(float(np.mean(list(row.scores.values()))) - row.average) < 6e-4


def test_published_rows_are_chosen_by_benchmark() -> None:
    only = published_rows("em", frozenset({"MuSiQue"}))
    assert "StepSearch, 3B base" in {row.system for row in only}
    assert "Search-R1 PPO, 7B base, by FlashRAG" not in {row.system for row in only}
    averages = {row.system for row in published_rows("f1", frozenset(BENCHMARKS))}
    assert "CalibAdv, 7B base" in averages
    assert "CalibAdv, 7B base" not in {r.system for r in published_rows("f1", frozenset({"NQ"}))}


def test_published_rows_name_source_and_setting() -> None:
    assert all(row.source and row.setting for row in PUBLISHED)
    values = {"system": "x", "metric": "em", "average": None, "setting": "", "source": ""}
    with pytest.raises(ValueError, match=r"got \['SQuAD'\]"):
        PublishedRow(scores={"SQuAD": 0.5}, **values)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 43"):
        PublishedRow(scores={"NQ": 43.0}, **values)


def test_the_seven_are_the_benchmarks_of_the_environments() -> None:
    assert tuple(SEVEN) == BENCHMARKS
