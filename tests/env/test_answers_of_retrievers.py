"""Functions search, hits may have several forms, and a wrong one is said with the right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

import calibadv_env  # noqa: F401
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.answers import CalledRetriever, as_passages, as_retriever

OSLO = "Oslo is the capital of Norway."
SEARCH = "<think>x</think><search>capital</search>"


def observed(search: Any) -> tuple[str, dict[str, Any]]:
    env = gymnasium.make("DeepSearch-Toy-v1", retriever=search, disable_env_checker=True)
    env.reset(seed=0)
    text, _, _, _, info = env.step(SEARCH)
    return text, info


@pytest.mark.parametrize(
    "hit",
    [
        OSLO,
        {"text": OSLO, "title": "Oslo"},
        {"id": 7, "contents": f"Oslo\n{OSLO}", "score": 2},
        Passage("7", "Oslo", OSLO),
        ScoredPassage(Passage("7", "Oslo", OSLO), 1.0),
    ],
)
def test_a_function_may_return_strings_dicts_or_passages(hit: Any) -> None:
    text, info = observed(lambda query, top_k: [hit])
    assert OSLO in text
    assert len(info["passage_ids"]) == 1
    if not isinstance(hit, str):
        assert "Title: Oslo" in text


def test_an_object_may_return_strings_too() -> None:
    class Notes:
        def search(self, queries: list[str], top_k: int) -> list[list[str]]:
            return [[OSLO, OSLO][:top_k] for _ in queries]

    text, info = observed(Notes())
    assert text.count(OSLO) == 2
    assert len(info["passage_ids"]) == 2


def test_a_function_of_queries_gets_them_all_and_scores_fall_with_the_rank() -> None:
    def search(queries: list[str], top_k: int) -> list[list[str]]:
        return [[f"{query} {n}" for n in range(5)] for query in queries]

    found = CalledRetriever(search).search(["a", "b"], 3)
    assert [[hit.passage.text for hit in each] for each in found] == [
        ["a 0", "a 1", "a 2"],
        ["b 0", "b 1", "b 2"],
    ]
    assert [hit.score for hit in found[0]] == [0.0, -1.0, -2.0]
    assert found[0][0].passage.id != found[0][1].passage.id


@pytest.mark.parametrize(
    "search",
    [
        lambda query, top_k: OSLO,
        lambda query, top_k: None,
        lambda query, top_k: {"text": OSLO},
        lambda query, top_k: [3.5],
        lambda query, top_k: [{"nothing": 1}],
        lambda query, top_k: [{"text": OSLO, "score": "high"}],
        lambda queries, top_k: [[], []],
    ],
)
def test_a_wrong_return_is_an_error_with_the_right_form(search: Callable[..., Any]) -> None:
    with pytest.raises(RetrieverError, match=r"give one list a query.*\"title\": \"Oslo\""):
        observed(search)


def test_a_function_that_fails_is_named_with_its_cause() -> None:
    def broken(query: str, top_k: int) -> list[str]:
        raise KeyError("index")

    with pytest.raises(RetrieverError, match=r"broken failed: KeyError: 'index'") as caught:
        observed(broken)
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_cannot_search_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a method search, got int; a function"):
        as_retriever(3)
    with pytest.raises(ValueError, match="got a function of query"):
        as_retriever(lambda query: [])


def test_passages_of_the_library_are_not_touched() -> None:
    hits = [ScoredPassage(Passage("1", "", "x"), 1.0)]
    assert as_passages([hits], 1, 3)[0] is hits
