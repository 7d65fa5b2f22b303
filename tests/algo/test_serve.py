import json
import os
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
from calibadv_env.retrieval.bm25.build import build_bm25_index

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from calibadv_algo.cli.serve import Serve, describe, in_parallel, open_source

CORPUS = get_dataset("toy").corpus()
QUERY = CORPUS.passages[3].text


def test_a_file_an_index_and_a_dataset_can_be_served(tmp_path):
    CORPUS.to_jsonl(tmp_path / "corpus.jsonl.gz")
    build_bm25_index(CORPUS, tmp_path / "index")
    wanted = get_dataset("toy").retriever("bm25").search([QUERY], 3)
    for source in ("toy", "Toy", str(tmp_path / "corpus.jsonl.gz"), str(tmp_path / "index")):
        assert open_source(source, "bm25").search([QUERY], 3) == wanted


def test_a_table_of_documents_can_be_served(tmp_path):
    path = tmp_path / "documents.csv"
    path.write_text("id,title,text\nd1,Nile,The Nile is in Egypt.\nd2,Po,The Po is in Italy.\n")
    assert open_source(str(path), "bm25").search(["Po"], 1)[0][0].passage.id == "d2"


def test_an_index_on_disk_is_spread_over_processes(tmp_path):
    index = open_source(str(build_bm25_index(CORPUS, tmp_path / "index")), "bm25")
    num_cores = min(4, len(os.sched_getaffinity(0)))
    name = "Bm25Index" if num_cores == 1 else f"Bm25Index, {num_cores} processes"
    assert describe(in_parallel(index, None)) == name
    assert in_parallel(index, 1) is index
    assert in_parallel(index, 3).num_processes == 3
    in_memory = open_source("toy", "bm25")
    assert in_parallel(in_memory, None) is in_memory
    with pytest.raises(ValueError, match="num_processes must be positive, got 0"):
        in_parallel(index, 0)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file or folder, nor a dataset"):
        open_source("nowhere", "bm25")
    with pytest.raises(DataError, match="there is no index here"):
        open_source(str(tmp_path), "bm25")
    with pytest.raises(ValueError, match="retriever must be one of"):
        open_source("toy", "bm52")


def test_the_command_serves_until_it_is_stopped():
    code = (
        "import sys, tyro; from calibadv_algo.cli.serve import Serve; "
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


def test_nothing_listens_before_a_corpus_is_read(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "1", "contents": "x"}\n{"id": "1"}\n')
    program = (
        "import sys, tyro; from calibadv_algo.cli.serve import Serve; "
        "sys.exit(tyro.cli(Serve, config=(tyro.conf.AvoidSubcommands,)).run())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "c.jsonl"), "--port", "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.returncode == 1
    assert "listening" not in done.stderr
    assert "c.jsonl:2: key 'contents' is missing" in done.stderr


def test_a_device_is_for_dense_indexes(tmp_path):
    with pytest.raises(ValueError, match="device 'cuda' is for a dense index"):
        open_source("toy", "bm25", device="cuda")


def test_a_device_that_is_of_no_use_is_refused_before_anything_listens(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "1", "text": "x"}\n')
    with pytest.raises(ValueError, match="device 'cuda' is for a dense index"):
        Serve(source=str(path), device="cuda", port=0).run()
    assert "reading" not in capsys.readouterr().err
