"""Floors and ceilings that take no training: closed book, one retrieval, a scripted oracle.

Each is a generation engine that writes some turns or parts of turns itself, so it is driven,
recorded and scored exactly as a policy is. Prompted search, the fourth, is the policy as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import torch

from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationEngine,
    GenerationRequest,
    History,
    SamplingParams,
    Tokenizer,
)
from calibadv_algo.rollout.engines.scripted import encode_turn
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.rollout.slots import EnvSlots
from calibadv_algo.training.evaluation import EvalResult, evaluate
from calibadv_env.info import QUERY_CLOSE, QUERY_OPEN, THINK_OPEN
from calibadv_env.protocol.answers import contains_words
from calibadv_env.protocol.prompts import grammar_of

SystemName = Literal["closed-book", "rag", "search", "oracle"]
"""closed-book: the policy answers without searching; rag: it answers after one search, made with
the question; search: it does as it likes; oracle: a script follows the gold chain."""

UNKNOWN: Final = "unknown"
"""Answer of the oracle if what it read does not hold the accepted one."""


class ForcedAnswerEngine:
    """Lets a policy think and then answer, in the same turn, whatever it would have done.

    The policy continues an open thought up to the first tag; the tags that close the thought and
    open the answer are put in, it continues up to the next tag, and the answer is closed. Half of
    the turn's tokens are for the thought. What was put in has log-probability 0.
    """

    def __init__(self, engine: GenerationEngine, tokenizer: Tokenizer) -> None:
        """Wraps the policy's engine."""
        self._engine = engine
        self._tokenizer = tokenizer

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Writes a turn that answers for every request.

        Raises:
            ValueError: if a turn has no room for the tags.
            EngineError: if the engine failed.
        """
        heads = [self._forced(opening(_history(request))) for request in requests]
        middle, end = self._forced("</think><answer>"), self._forced("</answer>")
        forced = max(len(head.token_ids) for head in heads) + len(middle.token_ids)
        room = params.max_tokens - forced - len(end.token_ids)
        if room < 2:
            raise ValueError(f"max_tokens must leave room for the tags, got {params.max_tokens}")
        thoughts = self._continue(requests, heads, room // 2, params)
        heads = [_joined(*parts, middle) for parts in zip(heads, thoughts, strict=True)]
        answers = self._continue(requests, heads, room - room // 2, params)
        return [
            replace(_joined(*parts, end), finish_reason="stop")
            for parts in zip(heads, answers, strict=True)
        ]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops what the engine keeps for these episodes."""
        self._engine.release(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Passes the weights on."""
        self._engine.sync_weights(model, version)

    def _forced(self, text: str) -> Generation:
        """A piece of a turn that is put in."""
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False)) if text else ()
        return Generation(ids, (0.0,) * len(ids), text, "stop")

    def _continue(
        self,
        requests: Sequence[GenerationRequest],
        heads: Sequence[Generation],
        max_tokens: int,
        params: SamplingParams,
    ) -> list[Generation]:
        """Lets the policy go on behind the head of each turn, up to the next tag."""
        written = self._engine.generate(
            [
                replace(request, token_ids=request.token_ids + head.token_ids)
                for request, head in zip(requests, heads, strict=True)
            ],
            replace(params, max_tokens=max_tokens, stop=("<",)),
        )
        return [self._without_end(piece) for piece in written]

    def _without_end(self, piece: Generation) -> Generation:
        """Drops the tokens of what ended a piece: a tag, or the end of the text."""
        ids, logprobs = piece.token_ids, piece.logprobs
        if piece.finish_reason == "eos":
            ids, logprobs = ids[:-1], logprobs[:-1]
        while "<" in _decode(self._tokenizer, ids):
            ids, logprobs = ids[:-1], logprobs[:-1]
        return Generation(ids, logprobs, _decode(self._tokenizer, ids), "stop")


class SingleRetrievalEngine:
    """Searches once, with the question itself, and lets the policy answer from what it finds."""

    def __init__(self, engine: GenerationEngine, tokenizer: Tokenizer) -> None:
        """Wraps the policy's engine."""
        self._answering = ForcedAnswerEngine(engine, tokenizer)
        self._tokenizer = tokenizer

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Writes each episode's search, then its answer.

        Raises:
            ValueError: if ``reset`` reports no question.
        """
        later = [request for request in requests if _history(request).turns]
        answers = iter(self._answering.generate(later, params) if later else [])
        generations = []
        for request in requests:
            history = _history(request)
            if history.turns:
                generations.append(next(answers))
            else:
                text = search_text(question_of(history), history)
                generations.append(_written(text, self._tokenizer))
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops what the engine keeps for these episodes."""
        self._answering.release(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Passes the weights on."""
        self._answering.sync_weights(model, version)


class OracleEngine:
    """Follows the gold chain: searches with each hop's gold query, then answers rightly if it can.

    With ``answers="found"`` it gives an accepted answer only where one stands in an observation,
    so that its score is the share of the questions that corpus, retriever and budget allow
    to be answered. With ``answers="always"`` it gives one anyway, for questions whose answer is
    no name in the text (yes or no, a comparison).
    """

    def __init__(self, tokenizer: Tokenizer, answers: Literal["found", "always"] = "found") -> None:
        """Makes the engine.

        Raises:
            ValueError: if ``answers`` is unknown.
        """
        if answers not in ("found", "always"):
            raise ValueError(f"answers must be found or always, got {answers!r}")
        self._tokenizer = tokenizer
        self._answers = answers

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Writes the next turn of every episode.

        Raises:
            ValueError: if ``reset`` reports no question.
        """
        return [_written(self._turn(_history(each)), self._tokenizer) for each in requests]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Does nothing: nothing is kept."""

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Does nothing: there are no weights."""

    def _turn(self, history: History) -> str:
        info, turn = history.reset_info, len(history.turns)
        queries = [wordings[0] for wordings in info.get("gold_queries", ())]
        queries = queries or [question_of(history)]
        if turn < min(len(queries), int(info.get("max_turns", 1))):
            return search_text(queries[turn], history)
        golden = tuple(info.get("golden_answers", ()))
        if self._answers == "always" and golden:
            return answer_text(golden[0], history)
        read = "\n".join(turn.observation_text for turn in history.turns)
        found = [answer for answer in golden if contains_words(read, answer, "auto")]
        return answer_text(found[0] if found else UNKNOWN, history)


def play_system(
    system: SystemName,
    slots: EnvSlots,
    engine: GenerationEngine | None,
    tokenizer: Tokenizer,
    task_indices: Sequence[int],
    params: SamplingParams,
    *,
    split: str = "dev",
    seed: int = 0,
    driver: DriverConfig | None = None,
) -> EvalResult:
    """Evaluates a system as `evaluate` evaluates a policy.

    Args:
        system: Which one.
        slots: Environments of the split.
        engine: Holds the policy; None for the oracle.
        tokenizer: The policy's, or any for the oracle.
        task_indices: Which tasks.
        params: How to sample.
        split: Name of the split, for the records.
        seed: Seed of every episode's sampling.
        driver: How episodes are driven.

    Returns:
        One record and one trajectory a task.

    Raises:
        ValueError: if the system is unknown or needs an engine.
        RolloutError: if every episode failed.
    """
    writer = system_engine(system, engine, tokenizer)
    player = Player(slots, writer, tokenizer, params, driver or DriverConfig())
    return evaluate(player, task_indices, split=split, seed=seed)


def system_engine(
    system: SystemName,
    engine: GenerationEngine | None,
    tokenizer: Tokenizer,
) -> GenerationEngine:
    """The engine of a system; ``engine`` holds the policy, the oracle needs none.

    Raises:
        ValueError: if the system is unknown or needs an engine.
    """
    if system == "oracle":
        return OracleEngine(tokenizer)
    if system not in ("closed-book", "rag", "search"):
        raise ValueError(f"system must be closed-book, rag, search or oracle, got {system!r}")
    if engine is None:
        raise ValueError(f"system {system!r} needs a policy's engine, got None")
    if system == "closed-book":
        return ForcedAnswerEngine(engine, tokenizer)
    return engine if system == "search" else SingleRetrievalEngine(engine, tokenizer)


def question_of(history: History) -> str:
    """The bare question of an episode.

    Raises:
        ValueError: if ``reset`` reported none.
    """
    info = history.reset_info
    if "question" not in info:
        raise ValueError(
            "these systems need the info key 'question' from reset; "
            f"the environment gives {sorted(info)}"
        )
    return str(info["question"])


def opening(history: History) -> str:
    """The opening think tag, where the latest observation does not end with it."""
    return "" if history.last_text.endswith(THINK_OPEN) else THINK_OPEN


def search_text(query: str, history: History) -> str:
    """A turn that searches, in the grammar that the prompt teaches."""
    if grammar_of(history.prompt_text) == "markers":
        return f"{QUERY_OPEN} {query} {QUERY_CLOSE}"
    return f"{opening(history)} next</think><search> {query}</search>"


def answer_text(answer: str, history: History) -> str:
    """A turn that answers, in the grammar that the prompt teaches."""
    is_tagged = grammar_of(history.prompt_text) == "tags"
    return f"{opening(history) if is_tagged else ''} done</think><answer> {answer}</answer>"


def _history(request: GenerationRequest) -> History:
    if request.history is None:
        raise ValueError("these systems play environments: a request must have a history, got None")
    return request.history


def _joined(*pieces: Generation) -> Generation:
    """One turn of several pieces."""
    return Generation(
        tuple(token for piece in pieces for token in piece.token_ids),
        tuple(value for piece in pieces for value in piece.logprobs),
        "".join(piece.text for piece in pieces),
        pieces[-1].finish_reason,
    )


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _written(text: str, tokenizer: Tokenizer) -> Generation:
    """A turn of a script, never cut: a limit on a policy's tokens is none on a script's."""
    return encode_turn(text, tokenizer, SamplingParams(max_tokens=1_000_000))
