import pytest

from calibadv_env.protocol import passages, prompts
from calibadv_env.protocol.passages import Passage, ScoredPassage

HITS = [
    ScoredPassage(Passage("1", "Oslo", "Oslo is in Norway."), 2.0),
    ScoredPassage(Passage("2", "", "Untitled."), 1.0),
]
BODY = "Doc 1(Title: Oslo) Oslo is in Norway.\nDoc 2(Title: ) Untitled.\n"


def test_passages_are_numbered_lines():
    assert passages.format_passages(HITS) == BODY
    assert passages.format_passages([]) == ""


def test_information_block_styles():
    assert passages.information_block(BODY, compact=True) == f"<information>{BODY}</information>"
    assert (
        passages.information_block(BODY, compact=False)
        == f"\n\n<information>{BODY.strip()}</information>\n\n"
    )


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("max_chars", [0, 1, 20, 10_000])
def test_cutting_keeps_the_closing_tag(compact, max_chars):
    block = passages.information_block(BODY, compact=compact, max_chars=max_chars)
    body = block.strip().removeprefix("<information>").removesuffix("</information>")
    assert block.strip() == f"<information>{body}</information>"
    assert BODY.startswith(body)
    assert len(body) <= max_chars


def test_named_prompts_hold_the_question_and_the_format():
    text = prompts.instruct(prompts.resolve_prompt("search_r1"), "Who is it")
    assert text.endswith("Question: Who is it?\n")
    for tag in ("think", "search", "information", "answer"):
        assert f"<{tag}>" in text
        assert f"</{tag}>" in text
    assert "<answer> Beijing </answer>" in text
    request = prompts.instruct(prompts.resolve_prompt("search_r1"), "Name it.")
    assert request.endswith("Question: Name it.\n")
    assert prompts.instruct(prompts.resolve_prompt("question"), "Who is it") == (
        "Question: Who is it\n"
    )
    assert prompts.is_compact("question")
    assert not prompts.is_compact("search_r1")


def test_templates_leave_other_braces_alone():
    template = prompts.resolve_prompt("{x} {question} {0} {")
    assert prompts.instruct(template, "{question} {y}") == "{x} {question} {y} {0} {"


def test_a_template_without_a_slot_is_refused():
    with pytest.raises(ValueError, match=r"prompt must be one of .* or hold '\{question\}', got"):
        prompts.resolve_prompt("searchr1")
