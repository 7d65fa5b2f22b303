"""Floors and ceilings: what they search, what they answer, and that they are scored like others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calibadv_algo.cli.floors import ClosedBook, Oracle, SingleRetrieval
from calibadv_algo.cli.systems import SystemData
from calibadv_algo.experiments.no_training import (
    UNKNOWN,
    ForcedAnswerEngine,
    OracleEngine,
    answer_text,
    play_system,
    search_text,
    system_engine,
)
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationRequest,
    History,
    SamplingParams,
)
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.evaluation import EvalResult, summarize
from calibadv_env.data.base import QATask
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.info import STOP_STRINGS
from calibadv_env.protocol.passages import Passage

PARAMS = SamplingParams(temperature=0.0, max_tokens=200, stop=STOP_STRINGS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, but for the closing bracket of a tag with what stands before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"</": 256, "x</": 257}
    core = Tokenizer(models.BPE(vocabulary, [("<", "/"), ("x", "</")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


class Babbler:
    """Continues every context with the same text, up to a stop string or the limit."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.contexts: list[str] = []
        self.released: list[str] = []

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        return [self._one(request, params) for request in requests]

    def _one(self, request: GenerationRequest, params: SamplingParams) -> Generation:
        self.contexts.append(self.tokenizer.decode(list(request.token_ids)))
        ids: list[int] = []
        for token in self.tokenizer.encode(self.text, add_special_tokens=False):
            ids.append(token)
            text = self.tokenizer.decode(ids)
            if any(stop in text for stop in params.stop):
                return Generation(tuple(ids), (-1.0,) * len(ids), text, "stop")
            if len(ids) == params.max_tokens:
                return Generation(tuple(ids), (-1.0,) * len(ids), text, "length")
        return Generation((*ids, 0), (-1.0,) * (len(ids) + 1), text, "eos")

    def release(self, episode_ids: Sequence[str]) -> None:
        self.released += episode_ids

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        pass


def play(
    system: Any, tokenizer: PreTrainedTokenizerFast, text: str = "hm</x", **kwargs: Any
) -> tuple[EvalResult, Babbler]:
    engine = Babbler(tokenizer, text)
    slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 3, {"prompt": "question"} | kwargs)
    try:
        result = play_system(system, slots, engine, tokenizer, range(5), PARAMS, split="train")
    finally:
        slots.close()
    return result, engine


def test_closed_book_answers_without_a_search(tokenizer: PreTrainedTokenizerFast) -> None:
    result, engine = play("closed-book", tokenizer)
    for record, trajectory in zip(result.records, result.trajectories, strict=True):
        assert (record.num_searches, record.num_turns, record.answer) == (0, 1, "hm")
        (turn,) = trajectory.turns
        assert turn.action_text == "<think>hm</think><answer>hm</answer>"
        assert tokenizer.decode(list(turn.action_ids)) == turn.action_text
        assert turn.logprobs.count(-1.0) == 4, "only what the policy wrote has a probability"
    assert engine.contexts[-1].endswith("<think>hm</think><answer>")
    assert len(engine.released) == 5


def test_a_given_think_tag_is_not_written_again(tokenizer: PreTrainedTokenizerFast) -> None:
    result, _ = play("closed-book", tokenizer, prepend_think=True)
    assert result.trajectories[0].turns[0].action_text == "hm</think><answer>hm</answer>"


@pytest.mark.parametrize("text", ["x</think>", "word ", "", "long " * 200])
def test_any_continuation_becomes_an_answer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    result, _ = play("closed-book", tokenizer, text or "<")
    for trajectory in result.trajectories:
        action = trajectory.turns[0].action_text
        assert action.startswith("<think>")
        assert action.endswith("</answer>")
        assert action.count("<") == 4
        assert len(trajectory.turns[0].action_ids) <= PARAMS.max_tokens
        assert trajectory.is_terminated


def test_a_turn_needs_room_for_the_tags(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ForcedAnswerEngine(Babbler(tokenizer, "x"), tokenizer)
    with pytest.raises(ValueError, match="max_tokens must leave room for the tags, got 20"):
        engine.generate(
            [GenerationRequest("e", (5,), 0, History("x", {}))], SamplingParams(max_tokens=20)
        )


def test_single_retrieval_searches_with_the_question(tokenizer: PreTrainedTokenizerFast) -> None:
    result, engine = play("rag", tokenizer)
    for record, trajectory in zip(result.records, result.trajectories, strict=True):
        assert (record.num_searches, record.num_turns) == (1, 2)
        assert trajectory.turns[0].info["query"] == trajectory.reset_info["question"]
        assert record.is_format_valid is True
    assert all("</information>" in context for context in engine.contexts)


def test_search_is_the_policy_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    result, engine = play("search", tokenizer, "<think>t</think><search>x</search>", max_turns=2)
    assert {record.num_searches for record in result.records} == {2}
    assert len(engine.contexts) == 15


def test_the_oracle_is_the_ceiling(tokenizer: PreTrainedTokenizerFast) -> None:
    result, engine = play("oracle", tokenizer)
    assert summarize(result.records)["f1"] == 1.0
    assert not engine.contexts
    for record, trajectory in zip(result.records, result.trajectories, strict=True):
        assert record.num_searches == trajectory.reset_info["hops"]
        assert record.is_format_valid is True
    marked, _ = play("oracle", tokenizer, prompt="r1_searcher")
    assert summarize(marked.records)["f1"] == 1.0
    given, _ = play("oracle", tokenizer, prepend_think=True)
    assert summarize(given.records)["format_valid"] == 1.0


def test_the_task_is_told_and_not_looked_for_in_the_context(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The instruction shows the longest question of the split, and the tokenizer loses capitals."""
    tasks = get_dataset("toy").tasks("train")
    example = max((tasks[index].question for index in range(5)), key=len)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.normalizer = normalizers.Lowercase()
    for reader in (tokenizer, PreTrainedTokenizerFast(tokenizer_object=core)):
        asked, _ = play("rag", reader, prompt=f"As in {example} do: {{question}}\n")
        for trajectory in asked.trajectories:
            question = trajectory.reset_info["question"]
            assert trajectory.turns[0].info["query"].lower() == question.lower()
        ceiling, _ = play("oracle", reader, prompt=f"As in {example} do: {{question}}\n")
        assert summarize(ceiling.records)["f1"] == 1.0


def test_the_oracle_does_not_count_its_own_queries_as_read(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    passages = [Passage("a", "Norway", "A country."), Passage("b", "Sea", "Water.")]
    task = QATask(
        id="t",
        question="Which town?",
        golden_answers=("Oslo",),
        gold_passages=(("a",),),
        hops=1,
        metadata={"search_keys": ["Oslo town"]},
    )
    register_dataset("oracle-query", [task], passages)
    slots = make_slots(
        "calibadv_env:DeepSearch-v1", 1, {"dataset": "oracle-query", "split": "test"}
    )
    result = play_system("oracle", slots, None, tokenizer, range(1), PARAMS, split="test")
    slots.close()
    assert result.trajectories[0].turns[0].info["query"] == "Oslo town"
    assert result.records[0].answer == UNKNOWN


def test_the_oracle_answers_only_what_it_has_read(tokenizer: PreTrainedTokenizerFast) -> None:
    tight, _ = play("oracle", tokenizer, max_turns=1)
    answers = {record.hops: record.answer for record in tight.records}
    assert any(hops > 1 for hops in answers)
    assert all(answer == UNKNOWN for hops, answer in answers.items() if hops > 1)
    history = History("x", tight.trajectories[0].reset_info, tight.trajectories[0].turns[:1])
    engine = OracleEngine(tokenizer, answers="always")
    (last,) = engine.generate([GenerationRequest("e", (5,), 0, history)], PARAMS)
    assert history.reset_info["golden_answers"][0] in last.text


def test_texts() -> None:
    given, bare = History("x<think>", {}), History("x", {})
    marked = History("<|begin_of_query|> <think>", {})
    assert search_text("q", given) == " next</think><search> q</search>"
    assert search_text("q", bare) == "<think> next</think><search> q</search>"
    assert search_text("q", marked) == "<|begin_of_query|> q <|end_of_query|>"
    assert answer_text("a", bare).startswith("<think>")
    assert answer_text("a", marked) == " done</think><answer> a</answer>"


def test_what_cannot_be_played(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="needs a policy's engine, got None"):
        system_engine("rag", None, tokenizer)
    with pytest.raises(ValueError, match="system must be closed-book, rag, search or oracle"):
        system_engine("luck", None, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="answers must be found or always"):
        OracleEngine(tokenizer, answers="never")  # type: ignore[arg-type]
    request = GenerationRequest("e", (5,), 0, History("x", {"other": 1}))
    with pytest.raises(ValueError, match="info key 'question'"):
        OracleEngine(tokenizer).generate([request], PARAMS)
    with pytest.raises(ValueError, match="must have a history"):
        OracleEngine(tokenizer).generate([GenerationRequest("e", (5,), 0)], PARAMS)


def test_as_systems_of_the_command(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = get_dataset("toy")
    data = SystemData(
        dataset=dataset, tasks=dataset.tasks("train"), retriever=dataset.retriever(), top_k=3
    )
    history = History("x", {"question": "Where?"})
    for system, needs_model in ((ClosedBook(), True), (SingleRetrieval(), True), (Oracle(), False)):
        assert system.needs_model is needs_model
        assert system.env_kwargs({"top_k": 3}) == {"top_k": 3}
        engine = Babbler(tokenizer, "x") if needs_model else None
        played = system.engine(engine, tokenizer, data)
        (turn,) = played.generate([GenerationRequest("e", (5,), 0, history)], PARAMS)
        assert turn.text.startswith("<think>")
