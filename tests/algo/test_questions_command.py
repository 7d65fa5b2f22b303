"""`calibadv data questions` against a real server: drafts, what is dropped, failures, replays."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.main import main
from calibadv_env.data.preparing import drafting
from calibadv_env.data.preparing.drafting import Draft, read_draft
from calibadv_env.data.registry import get_dataset
from calibadv_env.protocol.passages import Passage

NOTES = {
    "harbour.md": "# Harbour\nThe harbour of Port Vell was dug in 1872 by the engineer Ada Quirk, "
    "who also drew the old lighthouse.\n",
    "mill.md": "# Mill\nThe paper mill at Orrin burned down in March 1911 and was never built up "
    "again by its owners.\n",
    "bridge.md": "# Bridge\nThe iron bridge over the Tarn is 212 metres long and carries a single "
    "track of the coastal railway.\n",
    "short.md": "# Short\nToo short.\n",
}
REPLIES = {
    "Port Vell": {
        "question": "Who dug the harbour of Port Vell?",
        "answer": "Ada Quirk",
        "sentence": "The harbour of Port Vell was dug in 1872 by the engineer Ada Quirk, who also "
        "drew the old lighthouse.",
    },
    "Orrin": {
        "question": "When did the paper mill at Orrin burn down?",
        "answer": "April 1911",
        "sentence": "The paper mill at Orrin burned down in March 1911 and was never built up "
        "again by its owners.",
    },
    "Tarn": {
        "question": "How long is the iron bridge over the Tarn?",
        "answer": "212 metres",
        "sentence": "The iron bridge over the Tarn is 212 metres long and carries a single track "
        "of the coastal railway.",
    },
}


class Model(BaseHTTPRequestHandler):
    """A model that knows the notes; `fail` makes it refuse, `asked` counts."""

    fail = False
    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Model.asked.append(request)
        prompt = request["messages"][0]["content"].partition("Passage:")[2]
        name = next((name for name in REPLIES if name in prompt), "Orrin")
        if Model.fail and name == "Tarn":
            self.send_response(400)
            self.end_headers()
            return
        text = f"Here it is:\n```json\n{json.dumps(REPLIES[name])}\n```"
        reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Model.fail, Model.asked = False, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def draft(url: str, *more: str) -> int:
    words = ["data", "questions", "--corpus", "notes", "--endpoint", url, "--model", "stub"]
    return main([*words, *more])


def test_drafts_are_checked_and_become_a_dataset(
    server: str, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draft(server) == 0
    said = capsys.readouterr().out
    assert (
        "asked about 3 passages (3 now, the others are on record); 1 passages are shorter" in said
    )
    assert "kept 2 drafts" in said
    assert "dropped 1: the answer does not stand in the sentence" in said
    with Path("questions.csv").open(encoding="utf-8") as stream:
        rows = {row["question"]: row for row in csv.DictReader(stream)}
    row = rows["How long is the iron bridge over the Tarn?"]
    assert (row["answers"], row["documents"]) == ("212 metres", "bridge.md")
    assert row["evidence_sentence"].startswith("The iron bridge over the Tarn is 212 metres")
    assert {row["status"] for row in rows.values()} == {"draft"}
    words = ["data", "prepare", "mine", "--questions", "questions.csv", "--corpus", "notes"]
    assert main([*words, "--shares", "0.5", "0.5", "0"]) == 0
    assert "2 of 2 questions have the status 'draft'" in capsys.readouterr().out
    (task,) = get_dataset("mine").tasks("dev")
    assert task.gold_passages[0][0] in {"bridge.md", "harbour.md"}
    text = Path("questions.csv").read_text().replace(",draft", ",checked")
    Path("questions.csv").write_text(text)
    assert main([*words, "--shares", "0.5", "0.5", "0", "--force"]) == 0
    assert "'draft'" not in capsys.readouterr().out


def test_a_job_goes_on_where_it_failed_and_repeats_without_a_server(
    server: str, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Model.fail = True
    assert draft(server, "--concurrency", "1") == 1
    assert "the same command goes on from there" in capsys.readouterr().err.replace("\n", " ")
    assert not Path("questions.csv").exists()
    kept = Path("questions.csv.replies.jsonl")
    before = len(kept.read_text().splitlines()) if kept.exists() else 0
    assert len(Model.asked) == before + 1
    with kept.open("a") as stream:
        stream.write('{"model": "stub", "pro')  # a kill in the middle of a line
    Model.fail = False
    Model.asked.clear()
    assert draft(server, "--output", "questions.csv") == 0
    assert len(Model.asked) == 3 - before
    first = Path("questions.csv").read_text()
    assert draft(server) == 1
    assert "somebody may have corrected it" in capsys.readouterr().err
    Path("questions.csv").unlink()
    assert draft("http://127.0.0.1:9/v1", "--replay") == 0
    assert Path("questions.csv").read_text() == first
    assert draft(server, "--replay", "--model", "other", "--output", "q.jsonl") == 1
    assert "lacks the replies of other about 3 passages" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(
    notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draft("http://127.0.0.1:9/v1", "--timeout-s", "1") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_json_lines_hold_cut_passages_that_prepare_finds(server: str, notes: Path) -> None:
    (notes / "harbour.md").write_text(NOTES["harbour.md"] * 8, encoding="utf-8")
    assert draft(server, "--output", "q.jsonl", "--passage-words", "40") == 0
    records = [json.loads(line) for line in Path("q.jsonl").read_text().splitlines()]
    cut = [name for record in records for name in record["gold_passages"][0] if "#" in name]
    assert cut
    words = ["data", "prepare", "cut", "--questions", "q.jsonl", "--corpus", "notes"]
    assert main([*words, "--passage-words", "40", "--shares", "0", "1", "0"]) == 0
    tasks = get_dataset("cut").tasks("dev")
    assert {task.gold_passages for task in tasks} >= {((name,),) for name in cut}


PASSAGE = Passage(id="1", title="Mill", text="The mill at Orrin burned down in 1911. It was old.")
SENTENCE = "The mill at Orrin burned down in 1911."


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I cannot do that.", drafting.NO_JSON),
        ('{"question": ["x"]}', drafting.NO_JSON),
        ('{"question": "When?", "answer": null, "sentence": "x"}', drafting.NO_JSON),
        ('{"question": " "}', drafting.NOTHING),
        ({"question": "When?", "answer": "1911", "sentence": "It burned."}, drafting.NO_SENTENCE),
        ({"question": "When?", "answer": "191", "sentence": SENTENCE}, drafting.NO_ANSWER),
        (
            {"question": "Did 1911 end?", "answer": "1911", "sentence": SENTENCE},
            drafting.GIVEN_AWAY,
        ),
        (
            {
                "question": "What year does the passage name?",
                "answer": "1911",
                "sentence": SENTENCE,
            },
            drafting.POINTS_BACK,
        ),
    ],
)
def test_what_cannot_be_used_is_told_apart(reply: Any, reason: str) -> None:
    text = reply if isinstance(reply, str) else json.dumps(reply)
    assert read_draft(PASSAGE, text) == reason


def test_numbers_and_odd_spaces_are_taken() -> None:
    reply = {"question": "When did the mill\nburn?\ud800", "answer": 1911, "sentence": SENTENCE}
    found = read_draft(PASSAGE, json.dumps(reply))
    assert found == Draft(
        passage="1", question="When did the mill burn??", answer="1911", sentence=SENTENCE
    )
