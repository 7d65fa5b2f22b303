"""`/open` and `/find` of the search server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval import Corpus, make_retriever
from calibadv_env.retrieval.pages import PageStore, pages_of
from calibadv_env.retrieval.parallel import ParallelRetriever
from calibadv_env.retrieval.remote.server import create_app

testclient = pytest.importorskip("fastapi.testclient")

CORPUS = Corpus(
    [
        Passage("norway#area", "Norway: area", "Norway covers 323,802 sq km."),
        Passage("norway#coast", "Norway: coast", "Its coastline is 25,148 km long."),
    ]
)


@pytest.fixture
def client() -> Iterator[Any]:
    app = create_app(lambda: make_retriever("bm25", CORPUS))
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        yield client


def test_a_page_is_opened(client: Any) -> None:
    reply = client.post("/open", json={"page": "norway#coast"})
    assert reply.status_code == 200
    (result,) = reply.json()["results"]
    assert result["page"] == "norway"
    text = "Its coastline is 25,148 km long."
    assert result["sections"] == [
        {"id": "norway#coast", "title": "Norway: coast", "text": text, "links": []}
    ]
    assert result["problem"] == ""


def test_several_at_once_one_of_which_is_not_there(client: Any) -> None:
    body = {"pages": ["norway", "norwey"], "max_chars": 400}
    found, missing = client.post("/open", json=body).json()["results"]
    assert "323,802" in found["text"]
    assert missing["sections"] == []
    assert "norway" in missing["problem"]
    assert missing["text"] == missing["problem"]


def test_words_are_found(client: Any) -> None:
    body = {"requests": [{"page": "norway", "words": "coastline"}]}
    (result,) = client.post("/find", json=body).json()["results"]
    assert result["text"] == "norway#coast: Its coastline is 25,148 km long."
    one = client.post("/find", json={"page": "norway", "words": "coastline"}).json()["results"]
    assert one == [result]


@pytest.mark.parametrize(
    ("route", "body", "complaint"),
    [
        ("/open", b"[1", "JSON"),
        ("/open", b"[]", "object"),
        ("/open", b"{}", "pages must be given as text"),
        ("/open", b'{"pages": []}', "must be 1 to"),
        ("/open", b'{"page": 3}', "must be given as text"),
        ("/open", b'{"page": "a", "max_chars": 0}', "max_chars must be from 1"),
        ("/open", b'{"page": "a", "max_chars": true}', "max_chars must be from 1"),
        ("/find", b'{"page": "a"}', "page and words"),
        ("/find", b'{"requests": ["a"]}', "/find takes"),
        ("/find", b'{"words": "a"}', "/find takes"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    client: Any, route: str, body: bytes, complaint: str
) -> None:
    reply = client.post(route, content=body)
    assert reply.status_code in (400, 422)
    assert complaint in json.loads(reply.content)["error"]


def test_a_retriever_without_a_corpus_has_no_pages() -> None:
    class Bare:
        def search(self, queries: list[str], top_k: int) -> list[list[Any]]:
            return [[] for _ in queries]

    assert pages_of(Bare()) is None
    app = create_app(Bare)
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        reply = client.post("/open", json={"page": "a"})
    assert reply.status_code == 404
    assert "no corpus" in reply.json()["error"]


def test_pages_of_a_retriever() -> None:
    inner = make_retriever("bm25", CORPUS)
    pages = pages_of(inner)
    assert isinstance(pages, PageStore)
    assert pages.corpus is CORPUS
    assert pages_of(pages) is pages
    spread = ParallelRetriever(inner, 1)
    assert isinstance(pages_of(spread), PageStore)
