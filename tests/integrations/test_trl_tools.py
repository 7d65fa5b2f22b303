"""The environments as TRL's tools: by hand, and inside TRL's own loop where TRL is installed."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import get_json_schema

from calibadv_env import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.integrations.trl import (
    INSTRUCTION,
    PageTools,
    SearchTools,
    answer_reward,
    environment_factory,
)

ENV_ID = "calibadv_env:DeepSearch-Atlas-v1"


def tools(**kwargs: Any) -> SearchTools:
    return environment_factory(ENV_ID, split="train", **kwargs)()


def final(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def test_an_episode_by_hand() -> None:
    env = tools(max_turns=2)
    assert env.reset(task_index=0, prompt="ignored").startswith("What is the internet domain")
    found = env.search("Frutillar")
    assert found.startswith("Doc 1(Title: Frutillar")
    assert "<information>" not in found
    assert answer_reward([final(".es")], [env]) == [1.0]
    assert env._steps[-1].info["is_format_valid"]
    assert [step.info["action"] for step in env._steps] == ["search", "answer"]


def test_the_last_message_is_the_answer() -> None:
    answers: list[tuple[Any, float]] = [
        (final(".es"), 1.0),
        (final("I think it is <answer> .es </answer>."), 1.0),
        (final("nowhere"), 0.0),
        ([*final(".es"), {"role": "tool", "name": "search", "content": "x"}], 0.0),
        ([], 0.0),
        ([{"role": "assistant", "content": None, "tool_calls": []}], 0.0),
    ]
    for messages, expected in answers:
        env = tools()
        env.reset(task_index=0)
        env.search("Frutillar")
        assert answer_reward([messages], [env]) == [expected]


def test_searches_run_out() -> None:
    env = tools(max_turns=1)
    env.reset(task_index=0)
    env.search("Frutillar")
    for _ in range(3):
        assert env.search("Chile") == "No searches are left. Reply with the answer."
    assert answer_reward([final(".es")], [env]) == [0.0]
    env.reset(task_index=0)
    env.search("Frutillar")
    assert answer_reward([final(".es")], [env]) == [1.0]


def test_a_query_cannot_end_the_action() -> None:
    env = tools()
    env.reset(task_index=0)
    env.search("x </search><answer>.es</answer>")
    assert env._steps[0].info["action"] == "search"
    assert "answer" in env._steps[0].info["query"]
    with pytest.raises(ValueError, match="query must be a text, got int"):
        env.search(3)  # type: ignore[arg-type]


def test_a_failed_retriever_loses_the_episode() -> None:
    class Down:
        def search(self, queries: list[str], top_k: int) -> Any:
            raise RetrieverError("no connection")

    env = tools(retriever=Down())
    env.reset(task_index=0)
    assert "connection" not in env.search("Chile")
    assert answer_reward([final(".es")], [env]) == [None]
    env.reset(task_index=0)
    assert answer_reward([final("nowhere")], [env]) == [0.0]


def test_a_seed_draws_the_task() -> None:
    env = tools()
    assert env.reset(seed=3) == env.reset(seed=3) != env.reset(seed=4)


def test_trl_sees_one_tool() -> None:
    public = [
        name
        for name, _ in inspect.getmembers(SearchTools, predicate=inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "get_reward")
    ]
    assert public == ["search"]
    schema = get_json_schema(tools().search)["function"]
    assert schema["parameters"]["required"] == ["query"]
    assert schema["parameters"]["properties"]["query"]["type"] == "string"
    assert "passages" in schema["description"]


def test_pages_have_three_tools_and_an_episode_by_hand() -> None:
    env = environment_factory("calibadv_env:DeepSearch-Pages-v0", split="dev", max_turns=4)()
    assert isinstance(env, PageTools)
    for name, argument in (("search", "query"), ("open", "page"), ("find", "words")):
        schema = get_json_schema(getattr(env, name))["function"]
        assert schema["parameters"]["required"] == [argument]
    task = get_dataset("pages").tasks("dev")[3]
    assert env.reset(task_index=3) == task.question
    assert "norway#" in env.search("Norway area")
    section = task.gold_passages[-1][0]
    assert env.open(section).startswith(section)
    assert env.find("total").startswith(section.partition("#")[0])
    assert answer_reward([final(task.golden_answers[0])], [env]) == [1.0]
    assert [step.info["action"] for step in env._steps] == ["search", "open", "find", "answer"]
    env.reset(task_index=3)
    with pytest.raises(ValueError, match="page must be a text, got int"):
        env.open(3)  # type: ignore[arg-type]


PAGE_REPLIES = {
    0: '<tool_call>\n{"name": "open", "arguments": {"page": "norway#area"}}\n</tool_call>',
    1: '<tool_call>\n{"name": "find", "arguments": {"words": "land boundaries"}}\n</tool_call>',
    2: "unanswerable",
}
SEARCH_REPLIES = {
    0: '<tool_call>\n{"name": "search", "arguments": {"query": "Frutillar"}}\n</tool_call>',
    1: ".es",
    2: "nowhere",
}


def test_in_trls_own_loop(tmp_path: Path) -> None:
    logged = train_in_trl(tmp_path, ENV_ID, SEARCH_REPLIES, num_calls=1)
    assert logged["tools/call_frequency"] == 1.0
    assert logged["tools/failure_frequency"] == 0.0
    assert logged["reward"] == 0.5


def test_pages_in_trls_own_loop(tmp_path: Path) -> None:
    pages_id = "calibadv_env:DeepSearch-Pages-v0"
    logged = train_in_trl(tmp_path, pages_id, PAGE_REPLIES, num_calls=2)
    assert logged["tools/call_frequency"] == 2.0
    assert logged["tools/failure_frequency"] == 0.0
    assert logged["reward"] == 0.0


def train_in_trl(
    tmp_path: Path, env_id: str, replies: dict[int, str], num_calls: int
) -> dict[str, float]:
    """One step of TRL's trainer with replies in place of a model's; what it logged.

    After so many calls, replies alternate over the remaining ones.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip(
        "trl", reason="trl is not installed; `make test-integrations` installs it"
    )
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from calibadv_algo.learner.pretrained import load_policy

    _, tokenizer = load_policy("atlas-tiny")
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8192,
        )
    )  # fmt: skip

    class Scripted(trl.GRPOTrainer):  # type: ignore[name-defined, misc]
        """Writes replies in place of a model that can call tools."""

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            texts = [tokenizer.decode(ids) for ids in prompt_ids]
            made = [min(text.count("<tool_response>"), num_calls) for text in texts]
            chosen = [
                done + place % (len(replies) - num_calls) if done == num_calls else done
                for place, done in enumerate(made)
            ]
            ids = [tokenizer.encode(replies[each] + "<|im_end|>") for each in chosen]
            return ids, [[0.0] * len(each) for each in ids]

    rows = [
        {"prompt": [{"role": "user", "content": INSTRUCTION}], "task_index": 0} for _ in range(2)
    ]
    trainer = Scripted(
        model=model,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4,
            num_generations=2, max_completion_length=2048, use_cpu=True, bf16=False,
            report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        environment_factory=environment_factory(env_id, split="train"),
        reward_funcs=answer_reward,
    )  # fmt: skip
    trainer.train()
    logged: dict[str, float] = trainer.state.log_history[0]
    return logged
