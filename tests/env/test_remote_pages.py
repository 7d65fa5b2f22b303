"""Pages of servers elsewhere: ours, and one that gives the text of an address."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gymnasium
import pytest

from calibadv_env import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.opening import make_retriever
from calibadv_env.retrieval.pages import Pages
from calibadv_env.retrieval.remote.pages import RemotePages, VisitedPages

LONG = "Ada has two ships. They lie in Rome. " * 40


class Web:
    """A server of pages by their address; what it is told to fail with comes first."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.failures: list[int] = []
        self.url = ""

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append({"path": path, **body})
        if self.failures:
            return self.failures.pop(0), {}
        page = self.pages.get(body.get("url", ""))
        return (404, {}) if page is None else (200, page)


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, record = made.reply(self.path, body)
            content = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()


def visited(web: Web, **options: Any) -> VisitedPages:
    return VisitedPages(web.url, **{"backoff_s": 0.01, "max_retries": 2, **options})


@pytest.mark.parametrize(
    "reply", [LONG, {"text": LONG}, {"data": {"content": LONG}}, [{"markdown": LONG}]]
)
def test_a_page_is_visited_once_and_read_on_and_searched_here(web: Web, reply: Any) -> None:
    address = "https://a.org/ships?x=1"
    web.pages[address] = reply
    pages = visited(web)
    [first] = pages.open([address], 60)
    assert first.sections[0].text == "Ada has two ships. They lie in Rome. Ada has two ships. They"
    [rest] = pages.open([f"{address}#top@{len(first.sections[0].text)}"], 60)
    assert rest.sections[0].text.startswith("lie in Rome.")
    [found] = pages.find([(address, "Rome")], 30)
    assert "They lie in Rome." in found.sentences[0].text
    assert web.asked == [{"path": "/visit", "url": address, "goal": ""}]


def test_a_page_that_is_not_there_is_said_and_an_outage_is_an_error(web: Web) -> None:
    pages = visited(web)
    [opened] = pages.open(["https://a.org/none"])
    assert opened.problem == "There is no page 'https://a.org/none'."
    [found] = pages.find([("https://a.org/none", "Rome")])
    assert "no page" in found.problem
    web.pages["b"] = "text of b"
    web.failures = [503, 502]
    assert pages.open(["b"])[0].sections[0].text == "text of b"
    web.failures = [503] * 9
    with pytest.raises(RetrieverError, match="503"):
        pages.open(["c"])
    web.failures, web.pages["d"] = [], {"other": 3}
    with pytest.raises(RetrieverError, match="must hold a text under one of"):
        pages.open(["d"])


def test_loopback_does_not_go_through_a_proxy(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    web.pages["a"] = "text of a"
    assert visited(web, max_retries=0).open(["a"])[0].sections[0].text == "text of a"


def test_it_is_named_by_its_scheme_and_pickles(web: Web) -> None:
    web.pages["a"] = "text of a"
    made = make_retriever(f"visit:{web.url}#timeout_s=5", get_dataset("toy").corpus())
    assert isinstance(made, VisitedPages)
    assert isinstance(made, Pages)
    assert made.open(["a"])[0].sections
    again = pickle.loads(pickle.dumps(made))
    assert again.open(["a"])[0].sections[0].text == "text of a"


def test_pages_of_our_server_are_those_of_its_corpus(toy_server) -> None:
    remote = RemotePages.from_spec(f"pages:{toy_server.url}#timeout_s=20")
    local = get_dataset("toy").pages("bm25")
    ids = [passage.id for passage in get_dataset("toy").corpus()][:5]
    places = [*ids, "nowhere", f"{ids[0]}@10"]
    assert remote.open(places) == local.open(places)
    words = get_dataset("toy").corpus().by_id(ids[0]).text.split()[0]
    asked = [(ids[0], words), ("nowhere", "x")]
    assert remote.find(asked) == local.find(asked)
    assert remote.search(["tower"], 2) == local.search(["tower"], 2)


def test_an_episode_on_pages_elsewhere_is_the_same(toy_server) -> None:
    def play(retriever: str) -> list[Any]:
        env = gymnasium.make(
            "calibadv_env:DeepSearch-Pages-v0",
            dataset="toy",
            split="dev",
            retriever=retriever,
            max_observation_chars=100,
        )
        _, info = env.reset(seed=0)
        page = get_dataset("toy").tasks("dev")[info["task_index"]].gold_passages[0][0]
        actions = [
            f"<search>{info['question']}</search>",
            f"<open>{page}</open>",
            "<find>is</find>",
        ]
        steps = [env.step(f"<think>t</think>{action}") for action in actions]
        return [(step[0], step[4]["opened_ids"], step[4]["gold_new"]) for step in steps]

    assert play(f"pages:{toy_server.url}") == play("bm25")


def test_an_odd_reply_is_an_error(web: Web) -> None:
    remote = RemotePages(web.url, max_retries=0)
    web.reply = lambda path, body: (200, {"results": []})  # type: ignore[method-assign]
    with pytest.raises(RetrieverError, match="must hold 1 results"):
        remote.open(["a"])
