"""The search tools of SkyRL and GEM, as published, against our server.

They and what they import do not belong into the environment of this project: `make test-peers`
puts them into one of their own and names its Python in CALIBADV_PEERS_PYTHON. Without that the
tests are skipped; with it, a tool that is not there is a failure.
"""

import json
import os
import subprocess

import pytest

from calibadv_env.data.registry import get_dataset

PEERS = os.environ.get("CALIBADV_PEERS_PYTHON")
BM25 = get_dataset("toy").retriever("bm25")
QUERIES = [passage.text for passage in BM25.corpus.passages[:24]]

pytestmark = pytest.mark.skipif(
    not PEERS, reason="CALIBADV_PEERS_PYTHON names no Python with skyrl-gym and gem-llm"
)


def run_peer(code, *arguments):
    """Runs a program in the peers' Python; gives what it prints last, read as JSON."""
    command = [PEERS, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def titles_and_texts(query):
    return [(hit.passage.title, hit.passage.text) for hit in BM25.search([query], 3)[0]]


SKYRL = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from skyrl_gym.tools.search import SearchToolGroup
group = SearchToolGroup(search_url=sys.argv[1] + "/retrieve", topk=3, log_requests=False)
with ThreadPoolExecutor(8) as pool:
    print(json.dumps([version("skyrl-gym"), list(pool.map(group.search, json.loads(sys.argv[2])))]))
"""


def test_the_search_tool_of_skyrl_gym(toy_server):
    version, answers = run_peer(SKYRL, toy_server.url, json.dumps(QUERIES))
    assert version == "0.4.0"
    for query, answer in zip(QUERIES, answers, strict=True):
        text = json.loads(answer)["result"]
        for rank, (title, body) in enumerate(titles_and_texts(query), start=1):
            assert f'Doc {rank}: "{title}"\n{body}\n' in text


GEM = """
import json, sys
from importlib.metadata import version
from gem.tools.search_tool import SearchTool
tool = SearchTool(search_url=sys.argv[1] + "/retrieve", topk=3)
actions = [f"<think>x</think><search>{query}</search>" for query in json.loads(sys.argv[2])]
print(json.dumps([version("gem-llm"), [tool.execute_action(action) for action in actions]]))
"""


def test_the_search_tool_of_gem(toy_server):
    version, answers = run_peer(GEM, toy_server.url, json.dumps(QUERIES))
    assert version == "0.1.0"
    for query, (is_valid, has_error, text, _) in zip(QUERIES, answers, strict=True):
        assert is_valid
        assert not has_error
        for rank, (title, body) in enumerate(titles_and_texts(query), start=1):
            assert f'Doc {rank}(Title: "{title}") {body}\n' in text
