"""Texts that an environment writes: instructions, passages, the corrective sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from calibadv_env.retrieval.base import ScoredPassage

SEARCH_R1: Final = (
    "Find the answer to the question below. Begin every turn with your reasoning, written between "
    "<think> and </think>, and reason again each time you are given new information. If you find "
    "that you lack knowledge, you can call a search engine by writing <search> your query "
    "</search>; the best passages will be returned between <information> and </information>. You "
    "may search as often as you like. As soon as you need no further knowledge, give the answer "
    "between <answer> and </answer>, short and without an explanation. For example, "
    "<answer> Beijing </answer>. Question: {question}\n"
)
"""The instruction of Search-R1 in our own words."""

QUESTION: Final = "Question: {question}\n"
"""The bare question, for small policies that are trained on the format."""

PROMPTS: Final[dict[str, str]] = {"search_r1": SEARCH_R1, "question": QUESTION}
"""Named prompts."""

INVALID_ACTION_TEXT: Final = (
    "\nMy previous action is invalid. To search, I have to put a query between <search> and "
    "</search>. To finish, I have to put the answer between <answer> and </answer>. "
    "I will try again.\n"
)
"""What follows a malformed action."""

_SLOT: Final = "{question}"


def resolve_prompt(prompt: str) -> str:
    """The template behind a prompt argument.

    Args:
        prompt: A name in ``PROMPTS``, or a template that holds ``{question}``.

    Returns:
        The template.

    Raises:
        ValueError: if it is neither.
    """
    if prompt in PROMPTS:
        return PROMPTS[prompt]
    if _SLOT not in prompt:
        raise ValueError(
            f"prompt must be one of {sorted(PROMPTS)} or hold {_SLOT!r}, got {prompt!r}"
        )
    return prompt


def is_compact(prompt: str) -> bool:
    """Whether information blocks stand without blank lines: with the prompt "question" only."""
    return prompt == "question"


def instruct(template: str, question: str) -> str:
    """Puts a question into a template.

    Args:
        template: Holds ``{question}``; other braces are left alone.
        question: The bare question. The Search-R1 prompt adds a question mark that is missing;
            **Differs** from it in that "Name the capital." keeps its full stop and gets none.

    Returns:
        The first observation of an episode.
    """
    if template == SEARCH_R1 and not question.rstrip().endswith(("?", ".", "!")):
        question = question.rstrip() + "?"
    return template.replace(_SLOT, question)


def format_passages(passages: Sequence[ScoredPassage]) -> str:
    """Passages as a policy reads them.

    Args:
        passages: In rank order.

    Returns:
        A line ``Doc k(Title: …) …`` for the k-th passage, counted from 1.
    """
    return "".join(
        [
            f"Doc {rank}(Title: {scored.passage.title}) {scored.passage.text}\n"
            for rank, scored in enumerate(passages, start=1)
        ]
    )


def information_block(body: str, *, compact: bool, max_chars: int | None = None) -> str:
    """Wraps search results in their tags.

    Args:
        body: The formatted passages.
        compact: Whether to write nothing round the tags; otherwise the body is stripped and
            the block stands between blank lines, as in Search-R1.
        max_chars: Most characters of the body, None for all.

    Returns:
        The block. Whatever is cut from the body, its closing tag stands.
    """
    if not compact:
        body = body.strip()
    if max_chars is not None:
        body = body[:max_chars]
    block = f"<information>{body}</information>"
    return block if compact else f"\n\n{block}\n\n"
