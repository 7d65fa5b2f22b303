import pytest

from calibadv_env.protocol import prompts


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
