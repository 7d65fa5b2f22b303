"""Each example prints what its docstring shows, alone and in an empty folder."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ELSEWHERE = {
    "calibadv_loop.py": "test_examples.py",
    "endpoint_policy.py": "below, with a server",
    "own_algorithm.py": "tests/algo/test_parts.py",
    "pages_ten_opens.py": "test_examples.py",
    "torchrl_loop.py": "tests/integrations/test_torchrl.py",
}
"""Examples that are no matter of what they print, or that need more, and where they are run."""


def shown(script: Path) -> str:
    """The last indented block of an example's docstring."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")), clean=False) or ""
    start = max(text.find("\nprints"), text.find("\nends with"))
    return textwrap.dedent(text[start:].partition("\n\n")[2]).strip()


def run(script: Path, folder: Path, **variables: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CALIBADV_DATA": str(folder)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "name", sorted(p.name for p in EXAMPLES.glob("*.py") if p.name not in ELSEWHERE)
)
def test_an_example_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    printed, expected = run(EXAMPLES / name, tmp_path), shown(EXAMPLES / name)
    assert expected
    if "\nends with" in (EXAMPLES / name).read_text(encoding="utf-8"):
        printed = printed[-len(expected) :]
    assert printed == expected


class Model(BaseHTTPRequestHandler):
    """An endpoint whose model searches once and then gives the answer that its docstring shows."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_first = request["messages"][-1]["role"] == "user"
        query, answer = {"query": "Dekalb-Peachtree Airport"}, {"answer": "Atlanta"}
        name, arguments = ("search", query) if is_first else ("answer", answer)
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": "I go on.", "tool_calls": [call]}
        reply = json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


def test_the_policy_behind_an_endpoint(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        example = EXAMPLES / "endpoint_policy.py"
        printed = run(example, tmp_path, MODEL_URL=url, MODEL="stub")
        server.shutdown()
    assert printed == shown(example)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "tour.py"
    script.write_text("\n".join(code), encoding="utf-8")
    printed = run(script, tmp_path)
    assert "GRPO" in printed
    assert "CalibAdv" in printed
