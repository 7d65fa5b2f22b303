"""Texts that an environment writes: instructions, passages, the corrective sentence."""

from __future__ import annotations

from typing import Final

from calibadv_env.info import (
    DOCUMENTS_CLOSE,
    DOCUMENTS_OPEN,
    MARKER_STOP_STRINGS,
    QUERY_CLOSE,
    QUERY_OPEN,
    STOP_STRINGS,
    THINK_OPEN,
    Grammar,
)

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

R1_SEARCHER: Final = (
    "A user asks a question and an assistant answers it. The assistant first reasons and then "
    "answers: the reasoning stands between <think> and </think>, the final answer between "
    "<answer> and </answer>. Where it lacks knowledge while it reasons, it can search by writing "
    f"{QUERY_OPEN} a few keywords {QUERY_CLOSE}; the results will then be given between "
    f"{DOCUMENTS_OPEN} and {DOCUMENTS_CLOSE}, and it reasons on.\n\n"
    f"User: {{question}}\nAssistant: {THINK_OPEN}"
)
"""The instruction of R1-Searcher in our own words; its markers are part of the action grammar."""

PAGES: Final = (
    "Find the answer to the question below in a collection of pages. Begin every turn with your "
    "reasoning, written between <think> and </think>, then make {calls} or give the answer. "
    "<search> words </search> lists sections of pages that match. <open> page </open> or <open> "
    "page#section </open> gives the text there; where it is cut, it says what to open to read on. "
    "<find> words </find> gives the sentences with these words in the page that you opened last. "
    "What comes back stands between <information> and </information>. When you know enough, give "
    "the answer between <answer> and </answer>, short and without an explanation: a number with "
    "its unit, several names with commas between them, and unanswerable if the pages do not say. "
    "Question: {question}\n"
)
"""The instruction of the environments of pages; they put the number of calls a turn in."""

PROMPTS: Final[dict[str, str]] = {
    "search_r1": SEARCH_R1,
    "question": QUESTION,
    "r1_searcher": R1_SEARCHER,
    "pages": PAGES,
}
"""Named prompts."""

INVALID_ACTION_TEXT: Final = (
    "\nMy previous action is invalid. To search, I have to put a query between <search> and "
    "</search>. To finish, I have to put the answer between <answer> and </answer>. "
    "I will try again.\n"
)
"""Observation after a malformed action."""

INVALID_PAGE_TEXT: Final = (
    "\nMy previous action is invalid. I have to call <search>, <open> or <find>, or to put the "
    "answer between <answer> and </answer>. I will try again.\n"
)
"""Observation after a malformed action in an environment of pages."""

INVALID_MARKERS_TEXT: Final = (
    "\nMy previous action is invalid. To search, I have to put a query between "
    f"{QUERY_OPEN} and {QUERY_CLOSE}. To finish, I have to close my reasoning and put the answer "
    "between <answer> and </answer>. I will try again.\n"
)
"""Observation after a malformed action where actions are written between markers."""

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
    """Tells if information blocks stand without blank lines: with the prompt "question" only."""
    return prompt == "question"


def grammar_of(prompt: str) -> Grammar:
    """How actions are written under a prompt: between markers if it teaches them, else in tags.

    Args:
        prompt: A name in ``PROMPTS``, or a template.
    """
    return "markers" if prompt == "r1_searcher" or QUERY_OPEN in prompt else "tags"


def stop_strings(prompt: str | None) -> tuple[str, ...]:
    """Strings that end a turn; None stands for an environment's own prompt, with tags."""
    is_marked = prompt is not None and grammar_of(prompt) == "markers"
    return MARKER_STOP_STRINGS if is_marked else STOP_STRINGS


def invalid_action_text(prompt: str) -> str:
    """Observation after a malformed action under a prompt."""
    return INVALID_ACTION_TEXT if grammar_of(prompt) == "tags" else INVALID_MARKERS_TEXT


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
