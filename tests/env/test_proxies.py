"""Machines whose environment names a proxy, as clusters do."""

import os

import pytest

from calibadv_env.common.chat import ChatClient
from calibadv_env.common.http import CallError, HttpClient, HttpSettings
from calibadv_env.common.proxies import is_local, proxy_of, spare_loopback
from calibadv_env.errors import MissingDependencyError, RetrieverError
from calibadv_env.retrieval.remote.client import HttpRetriever
from tests.env.test_http import QUERIES, fake_server, ok

pytest.importorskip("httpx")

NO_SUCH_PROXY = "http://somebody:secret@127.0.0.1:9"
ONCE = HttpSettings(max_retries=0, timeout_s=5.0)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", [NO_SUCH_PROXY, "socks5://127.0.0.1:9"])
def test_this_machine_is_reached_past_every_proxy(monkeypatch, variable, proxy, toy_server):
    monkeypatch.setenv(variable, proxy)
    retriever = HttpRetriever(toy_server.url, max_retries=0, ready_timeout_s=5.0)
    assert len(retriever.search(QUERIES[:1], 2)[0]) == 2
    assert retriever.identity()["kind"]


def test_a_judge_or_writer_on_this_machine_is_reached_past_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", NO_SUCH_PROXY)
    reply = ok({"choices": [{"message": {"content": "yes"}}]})
    with fake_server(lambda *_: reply) as (url, _):
        chat = ChatClient(
            url, "m", temperature=0.0, max_tokens=9, key_variable="NO_KEY", settings=ONCE
        )
        assert chat.answer("?") == "yes"


def test_another_machine_is_asked_by_way_of_the_proxy(monkeypatch):
    with fake_server(lambda *_: ok({"by": "proxy"})) as (proxy, requests):
        monkeypatch.setenv("http_proxy", proxy)
        with HttpClient(ONCE) as client:
            got = client.post_json("http://search.example/retrieve", {"a": 1}, {}, lambda r: r)
    assert got == {"by": "proxy"}
    assert requests == [b'{"a":1}']


def test_an_error_names_the_proxy_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", NO_SUCH_PROXY)
    retriever = HttpRetriever("http://search.example:8000", max_retries=0)
    with pytest.raises(RetrieverError, match=r"way of the proxy http://127.0.0.1:9 \(variable h"):
        retriever.search(["x"], 2)
    with pytest.raises(RetrieverError) as caught:
        retriever.wait_until_ready(0.0)
    assert "secret" not in str(caught.value)


def test_a_socks_proxy_without_its_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(MissingDependencyError, match=r"SOCKS proxy .* pip install 'httpx\[socks"):
        HttpRetriever("http://search.example:8000", max_retries=0).search(["x"], 2)


def test_a_proxy_that_cannot_be_one_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "ftp://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"ALL_PROXY.* cannot be used"):
        HttpRetriever("http://search.example:8000", max_retries=0).search(["x"], 2)


def test_an_address_that_cannot_be_read_is_still_a_call_error(monkeypatch):
    monkeypatch.setenv("http_proxy", NO_SUCH_PROXY)
    with HttpClient(ONCE) as client, pytest.raises(CallError):
        client.get("http://[::1")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1", True),
        ("http://LOCALHOST", True),
        ("http://a.localhost/x", True),
        ("http://127.9.8.7:80/x", True),
        ("http://[::1]:80", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
    ],
)
def test_which_addresses_are_this_machine(monkeypatch, url, local):
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    assert is_local(url) is local
    assert (proxy_of(url) is None) is local


def test_hosts_that_no_proxy_names_are_asked_straight(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", "search.example")
    assert proxy_of("http://search.example:8000") is None
    assert proxy_of("http://other.example") == "http://p:1 (variable http_proxy)"


def test_other_libraries_are_told_to_spare_this_machine(monkeypatch):
    spare_loopback()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", "a.example, localhost")
    monkeypatch.setenv("NO_PROXY", "a.example")
    for _ in range(2):
        spare_loopback()
        assert os.environ["no_proxy"] == "a.example,localhost,127.0.0.1,::1"
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
