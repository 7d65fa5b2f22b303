import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.retrieval import Passage, ScoredPassage
from calibadv_env.retrieval.remote.requests import (
    BadRequestError,
    RequestLimits,
    encode_reply,
    parse_request,
)
from calibadv_env.retrieval.remote.wire import (
    DIALECTS,
    JSON_TYPE,
    BadReplyError,
    content_id,
    contents_of,
    decode_reply,
    document_of,
    encode_request,
)

pytest.importorskip("msgpack")

LIMITS = RequestLimits(max_top_k=10, max_queries=4, max_query_chars=20)
NILE = Passage("p1", "Nile", "A river.\nIt is long.")
HITS = [[ScoredPassage(NILE, 0.1 + 0.2), ScoredPassage(Passage("p2", "", "No title"), -1.0)]]


def ask(**record):
    return parse_request(json.dumps(record).encode(), JSON_TYPE, LIMITS)


def reply_to(**record):
    body, _ = encode_reply(ask(**record), HITS)
    return json.loads(body)["result"]


def test_each_dialect_gets_its_own_form():
    nile = {"id": "p1", "contents": '"Nile"\nA river.\nIt is long.'}
    assert reply_to(queries=["q"], return_scores=True)[0][0] == {
        "document": nile,
        "score": 0.1 + 0.2,
    }
    assert reply_to(queries=["q"])[0][0] == nile
    assert reply_to(query="q")[0][0] == nile
    assert reply_to(queries=["q"], topk_rerank=2)[0][0] == '"Nile"\nA river.\nIt is long.'
    scored = reply_to(queries=["q"], topk_retrieval=9, return_scores=True)[0][0]
    assert scored["document"] == '"Nile"\nA river.\nIt is long."'[:-1]
    assert scored["score"] == 0.1 + 0.2


def test_the_number_of_passages():
    assert ask(queries=["q"]).top_k == ask(queries=["q"], topk=None).top_k == 3
    assert ask(queries=["q"], topk=7).top_k == 7
    assert ask(queries=["q"], topk=7, topk_rerank=2, topk_retrieval=9).top_k == 2
    assert ask(queries=["q"], topk=7, topk_retrieval=9).top_k == 3


@pytest.mark.parametrize(
    ("record", "status", "message"),
    [
        ({}, 422, "either 'queries' or 'query'"),
        ({"queries": ["a"], "query": "a"}, 422, "either 'queries' or 'query'"),
        ({"queries": []}, 422, "at least one"),
        ({"queries": "text"}, 422, "queries must be a list"),
        ({"queries": ["a", 3]}, 422, r"queries\[1\] must be a string, got int 3"),
        ({"query": ["a"]}, 422, "query must be a string, got list"),
        ({"query": None}, 422, "query must be a string"),
        ({"queries": ["a"] * 5}, 413, "at most 4 in a request, got 5"),
        ({"query": "a" * 21}, 413, "at most 20 characters, got 21"),
        ({"query": "a", "topk": 0}, 422, "topk must be from 1 to 10, got 0"),
        ({"query": "a", "topk": 11}, 422, "got 11"),
        ({"query": "a", "topk": True}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": "3"}, 422, "topk must be a whole number"),
        ({"query": "a", "topk_rerank": 0}, 422, "topk_rerank must be from 1"),
        ({"query": "a", "topk_retrieval": 99}, 422, "topk_retrieval must be from 1"),
        ({"query": "a", "return_scores": 1}, 422, "return_scores must be true or false"),
        ({"query": "a", "not_sort": True}, 422, "not_sort"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(record, status, message):
    with pytest.raises(BadRequestError, match=message) as caught:
        ask(**record)
    assert caught.value.status == status


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b"\x81", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequestError) as caught:
        parse_request(body, None, LIMITS)
    assert caught.value.status == 400


texts = st.text(max_size=12)
passages = st.builds(Passage, texts.map(lambda text: "p" + text), texts, texts)
hits = st.lists(
    st.builds(ScoredPassage, passages, st.floats(allow_nan=False, allow_infinity=False)),
    max_size=3,
)


@given(dialect=st.sampled_from(DIALECTS), found=st.lists(hits, min_size=1, max_size=3), query=texts)
def test_client_and_server_understand_each_other(dialect, found, query):
    found = found[:1] if dialect in ("skyrl", "gem") else found
    body, content_type = encode_request(dialect, [query] * len(found), 3, 10)
    for header in (content_type, None):
        request = parse_request(body, header, RequestLimits())
        assert request.queries == (query,) * len(found)
        assert request.top_k == 3
        reply, _ = encode_reply(request, found)
        read = decode_reply(dialect, reply, len(found), 3)
        if dialect != "rerank":
            assert read == found
        assert [[hit.score for hit in one] for one in read] == [
            [hit.score for hit in one] for one in found
        ]
        assert [[hit.passage.id for hit in one] for one in read] == [
            [hit.passage.id for hit in one] for one in found
        ]


def test_title_and_text_are_only_sent_where_the_contents_lose_them():
    assert set(document_of(NILE)) == {"id", "contents"}
    odd = Passage("p", 'A "B"\nC', " x ")
    assert document_of(odd)["title"] == odd.title
    assert contents_of(Passage("p", "", "text")) == "\ntext"


@given(
    title=st.text(alphabet='ab "\\n\\t\\r', max_size=5),
    text=st.text(alphabet='ab "\\n\\t\\u2003', max_size=6),
)
def test_every_passage_comes_back_from_its_document(title, text):
    passage = Passage("p", title, text)
    body, _ = encode_reply(ask(queries=["x"], return_scores=True), [[ScoredPassage(passage, 1.0)]])
    [[hit]] = decode_reply("search_r1", body, 1, 1)
    assert hit.passage == passage


def test_documents_of_other_servers_are_read():
    strings = json.dumps({"result": [['"Nile"\nA river.', '"Nile"\nA river.']]}).encode()
    first, second = decode_reply("rerank", strings, 1, 2)[0]
    assert first.passage == second.passage == Passage(first.passage.id, "Nile", "A river.")
    assert first.passage.id.startswith("sha256-")
    assert (first.score, second.score) == (1.0, 0.5)
    number = {"document": {"id": 7, "contents": '"T"\nx', "url": "u"}, "score": 2}
    found = decode_reply("search_r1", json.dumps({"result": [[number]]}).encode(), 1, 1)
    assert found == [[ScoredPassage(Passage("7", "T", "x"), 2.0)]]
    assert content_id("a") == content_id("a") != content_id("b")


ENTRY = {"document": {"id": "a", "contents": "x"}, "score": 1.0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "must be an object with a list 'result'"),
        ({"results": [[]]}, "must be an object with a list 'result'"),
        ({"result": {}}, "must be an object with a list 'result'"),
        ({"result": []}, "must hold 1 lists, got 0"),
        ({"result": [[ENTRY], [ENTRY]]}, "must hold 1 lists, got 2"),
        ({"result": [ENTRY]}, r"result\[0\] must be a list of passages, got dict"),
        ({"result": [[ENTRY] * 3]}, "at most 2 passages, got 3"),
        ({"result": [[[ENTRY]]]}, r"result\[0\]\[0\] must be a document, got list"),
        ({"result": [[{"document": {"id": "a"}, "score": 1}]]}, "'contents' is missing"),
        ({"result": [[{**ENTRY, "score": "high"}]]}, "score must be a number"),
        ({"result": [["x", 3]]}, r"result\[0\]\[1\] must be a document, got int"),
    ],
)
def test_a_reply_of_another_form_is_refused_by_place(record, message):
    with pytest.raises(BadReplyError, match=message):
        decode_reply("search_r1", json.dumps(record).encode(), 1, 2)


def test_a_guess_at_the_dialect_does_not_take_a_rerank_server_for_another():
    body = json.dumps({"result": [["x"]]}).encode()
    decode_reply("search_r1", body, 1, 1)
    decode_reply("rerank", body, 1, 1, is_probe=True)
    with pytest.raises(BadReplyError, match="rerank"):
        decode_reply("search_r1", body, 1, 1, is_probe=True)


def test_a_score_that_json_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match="Out of range"):
        encode_reply(ask(query="q", return_scores=True), [[ScoredPassage(NILE, float("nan"))]])


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_queries must be positive, got 0"):
        RequestLimits(max_queries=0)
    with pytest.raises(ValueError, match="must not exceed max_top_k"):
        RequestLimits(default_top_k=5, max_top_k=4)
