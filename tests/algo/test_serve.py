import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval.bm25_build import build_bm25_index

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from calibadv_algo.commands.serve import open_source

CORPUS = get_dataset("toy").corpus()
QUERY = CORPUS.passages[3].text


def test_a_file_an_index_and_a_dataset_can_be_served(tmp_path):
    CORPUS.to_jsonl(tmp_path / "corpus.jsonl.gz")
    build_bm25_index(CORPUS, tmp_path / "index")
    wanted = get_dataset("toy").retriever("bm25").search([QUERY], 3)
    for source in ("toy", "Toy", str(tmp_path / "corpus.jsonl.gz"), str(tmp_path / "index")):
        assert open_source(source, "bm25").search([QUERY], 3) == wanted


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file or folder, nor a dataset"):
        open_source("nowhere", "bm25")
    with pytest.raises(DataError, match="there is no index here"):
        open_source(str(tmp_path), "bm25")
    with pytest.raises(ValueError, match="retriever must be one of"):
        open_source("toy", "bm52")


def test_the_command_serves_until_it_is_stopped():
    code = (
        "import sys, tyro; from calibadv_algo.commands.serve import Serve; "
        "sys.exit(tyro.cli(Serve, config=(tyro.conf.AvoidSubcommands,)).run())"
    )
    command = [sys.executable, "-c", code, "toy", "--port", "0", "--limits.max-top-k", "5"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert "loading toy" in lines[0]
        assert re.match(r"ready after \d+\.\d s: Bm25Retriever", lines[1])
        url = re.search(r"http://\S+/retrieve", lines[0]).group(0)
        time.sleep(0.2)
        body = json.dumps({"query": QUERY, "topk": 1}).encode()
        with urllib.request.urlopen(url, body) as reply:
            assert json.loads(reply.read())["result"][0][0]["id"] == CORPUS.passages[3].id
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, json.dumps({"query": QUERY, "topk": 6}).encode())
        assert caught.value.code == 422
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 1, 130, -signal.SIGINT)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
