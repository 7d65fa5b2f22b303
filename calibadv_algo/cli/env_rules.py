"""Rules for reading logged turns: names of tools, and a tokenizer by name, for ``traces``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.traces.base import Rules
from calibadv_env.protocol.toolcalls import ToolGrammar

DEFAULT_TOKENIZER: Final = "atlas-tiny"
"""Whose tokenizer counts tokens unless another is named: it is shipped."""

LOGGED_TOOLS: Final = ToolGrammar(
    search_tools=(
        "search",
        "web_search",
        "wiki_search",
        "google_search",
        "local_search",
        "search_wikipedia",
        "search_wiki",
        "retrieve",
        "retrieval",
    ),
    answer_tools=("answer", "final_answer", "submit_answer", "submit", "finish"),
    query_arguments=(
        "query",
        "queries",
        "query_list",
        "q",
        "search_query",
        "question",
        "keywords",
        "text",
        "input",
    ),
    answer_arguments=("answer", "final_answer", "response", "text"),
    several="join",
)
"""Names of tools and arguments that are understood in logs; more can be given by flags."""


def make_rules(
    tokenizer: str = DEFAULT_TOKENIZER,
    *,
    search_tools: Sequence[str] = (),
    answer_tools: Sequence[str] = (),
    visit_tools: Sequence[str] = (),
    whole_results: bool = False,
) -> Rules:
    """Rules with further names of tools that search, and of tools that answer.

    Args:
        tokenizer: A shipped policy, a file ``tokenizer.json``, a folder with one, or a name on
            the hub; counts tokens.
        search_tools: Names beside those of :data:`LOGGED_TOOLS`.
        answer_tools: Names beside those of :data:`LOGGED_TOOLS`.
        visit_tools: Names of tools that open a document.
        whole_results: If true, a result in an unknown form is one passage by intention.

    Raises:
        ValueError: if there is no such tokenizer, or a tool is to do both.
    """
    grammar = replace(
        LOGGED_TOOLS,
        search_tools=(*LOGGED_TOOLS.search_tools, *search_tools),
        answer_tools=(*LOGGED_TOOLS.answer_tools, *answer_tools),
    )
    return Rules(
        grammar=grammar,
        encode=open_tokenizer(tokenizer),
        tokenizer=tokenizer,
        visit_tools=tuple(visit_tools),
        whole_results=whole_results,
    )


def open_tokenizer(name: str) -> Callable[[str], Sequence[int]]:
    """Encoder of text into tokens, without torch or transformers; see :func:`make_rules`.

    Raises:
        ValueError: if there is no such tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(policy_path(name))
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        made = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:
        raise ValueError(
            f"tokenizer must be a shipped policy ({DEFAULT_TOKENIZER}), a tokenizer.json, a folder "
            f"with one, or a name on the hub; {name!r} could not be loaded: {error}"
        ) from error

    def encode(text: str) -> Sequence[int]:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = made.encode(clean, add_special_tokens=False).ids
        return ids

    return encode
