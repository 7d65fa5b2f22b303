"""Floors and ceilings that take no training: closed book, one retrieval, a scripted oracle.

Each is a generation engine that writes some turns or parts of turns itself, so it is driven,
recorded and scored exactly as a policy is. Prompted search, the fourth, is the policy as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
    Tokenizer,
)
from calibadv_algo.rollout.engines.scripted import encode_turn
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.rollout.slots import (
    EnvSlots,
    Failures,
    SlotFailure,
    SlotReset,
    SlotStart,
    SlotStep,
)
from calibadv_algo.training.evaluation import EvalResult, evaluate
from calibadv_env.info import QUERY_CLOSE, QUERY_OPEN, THINK_OPEN
from calibadv_env.protocol.answers import contains_words

SystemName = Literal["closed-book", "rag", "search", "oracle"]
"""closed-book: the policy answers without searching; rag: it answers after one search, made with
the question; search: it does as it likes; oracle: a script follows the gold chain."""

UNKNOWN: Final = "unknown"
"""What the oracle answers if what it read does not hold the answer."""

_TAIL_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class TaskNote:
    """What a script may know of a task, as ``reset`` reported it.

    Attributes:
        question: The bare question.
        golden_answers: Accepted answers.
        queries: One query a hop, that finds its evidence; empty where unknown.
        max_turns: Searches that an episode allows.
    """

    question: str
    golden_answers: tuple[str, ...]
    queries: tuple[str, ...]
    max_turns: int


class NotedSlots:
    """Slots that remember what ``reset`` reported, by question.

    Attributes:
        notes: Tasks that have been begun.
    """

    def __init__(self, slots: EnvSlots) -> None:
        """Takes the slots."""
        self._slots = slots
        self.notes: dict[str, TaskNote] = {}

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return self._slots.num_slots

    @property
    def can_step_part(self) -> bool:
        """Whether single slots can be stepped."""
        return self._slots.can_step_part

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Begins episodes and notes their tasks.

        Raises:
            ValueError: if ``reset`` reports no question.
        """
        results = self._slots.reset(starts, catch)
        for result in results.values():
            if isinstance(result, SlotReset):
                info = result.info
                if "question" not in info:
                    raise ValueError(
                        "these systems need the info key 'question' from reset; "
                        f"the environment gives {sorted(info)}"
                    )
                question = str(info["question"])
                self.notes[question] = TaskNote(
                    question,
                    tuple(info.get("golden_answers", ())),
                    tuple(wordings[0] for wordings in info.get("gold_queries", ())),
                    int(info.get("max_turns", 1)),
                )
        return results

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Takes turns."""
        return self._slots.step(actions, catch)

    def close(self) -> None:
        """Closes the environments."""
        self._slots.close()

    def find(self, context: str) -> TaskNote:
        """The task that a context is about: the longest question that stands in it.

        Raises:
            EngineError: if none does.
        """
        found = [question for question in self.notes if question in context]
        if not found:
            raise EngineError(f"no question that was begun stands in the context {context[:80]!r}")
        return self.notes[max(found, key=len)]


class ForcedAnswerEngine:
    """Lets a policy think and then answer, in the same turn, whatever it would have done.

    The policy continues an open thought up to the first tag; the tags that close the thought and
    open the answer are put in, it continues up to the next tag, and the answer is closed. Half of
    the turn's tokens are for the thought. What was put in has log-probability 0.
    """

    def __init__(self, engine: GenerationEngine, tokenizer: Tokenizer) -> None:
        """Takes the policy's engine and tokenizer."""
        self._engine = engine
        self._tokenizer = tokenizer

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Gives every request a turn that answers.

        Raises:
            ValueError: if a turn has no room for the tags.
            EngineError: if the engine failed.
        """
        heads = [self._forced(self._opening(request)) for request in requests]
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

    def _opening(self, request: GenerationRequest) -> str:
        """The opening think tag, where the context does not end with one."""
        tail = _decode(self._tokenizer, request.token_ids[-_TAIL_TOKENS:])
        return "" if tail.endswith(THINK_OPEN) else THINK_OPEN

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

    def __init__(self, engine: GenerationEngine, tokenizer: Tokenizer, slots: NotedSlots) -> None:
        """Takes the policy's engine, its tokenizer, and the slots that will be played in."""
        self._answering = ForcedAnswerEngine(engine, tokenizer)
        self._tokenizer = tokenizer
        self._slots = slots
        self._begun: set[str] = set()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Gives every episode its search, then its answer."""
        later = [request for request in requests if request.episode_id in self._begun]
        answers = iter(self._answering.generate(later, params) if later else [])
        generations = []
        for request in requests:
            if request.episode_id in self._begun:
                generations.append(next(answers))
                continue
            self._begun.add(request.episode_id)
            context = _decode(self._tokenizer, request.token_ids)
            text = search_text(self._slots.find(context).question, context)
            generations.append(_written(text, self._tokenizer))
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Forgets these episodes."""
        self._begun.difference_update(episode_ids)
        self._answering.release(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Passes the weights on."""
        self._answering.sync_weights(model, version)


class OracleEngine:
    """Follows the gold chain: searches with each hop's gold query, then answers rightly if it can.

    With ``answers="found"`` it gives an accepted answer only where one stands in what it has
    read, so that its score is the share of the questions that corpus, retriever and budget allow
    to be answered. With ``answers="always"`` it gives one anyway, for questions whose answer is
    no name in the text (yes or no, a comparison).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        slots: NotedSlots,
        answers: Literal["found", "always"] = "found",
    ) -> None:
        """Takes a tokenizer and the slots that will be played in.

        Raises:
            ValueError: if ``answers`` is unknown.
        """
        if answers not in ("found", "always"):
            raise ValueError(f"answers must be found or always, got {answers!r}")
        self._tokenizer = tokenizer
        self._slots = slots
        self._answers = answers
        self._turns: dict[str, int] = {}
        self._prompts: dict[str, int] = {}

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Writes the next turn of every episode."""
        generations = []
        for request in requests:
            context = _decode(self._tokenizer, request.token_ids)
            turn = self._turns.get(request.episode_id, 0)
            self._turns[request.episode_id] = turn + 1
            start = self._prompts.setdefault(request.episode_id, len(context))
            text = self._turn(self._slots.find(context), turn, context, context[start:])
            generations.append(_written(text, self._tokenizer))
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Forgets these episodes."""
        for episode in episode_ids:
            self._turns.pop(episode, None)
            self._prompts.pop(episode, None)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Does nothing: there are no weights."""

    def _turn(self, note: TaskNote, turn: int, context: str, read: str) -> str:
        queries = note.queries or (note.question,)
        if turn < min(len(queries), note.max_turns):
            return search_text(queries[turn], context)
        if self._answers == "always" and note.golden_answers:
            return answer_text(note.golden_answers[0], context)
        found = [answer for answer in note.golden_answers if contains_words(read, answer)]
        return answer_text(found[0] if found else UNKNOWN, context)


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
    noted = NotedSlots(slots)
    played = system_engine(system, engine, tokenizer, noted)
    player = Player(noted, played, tokenizer, params, driver or DriverConfig())
    return evaluate(player, task_indices, split=split, seed=seed)


def system_engine(
    system: SystemName,
    engine: GenerationEngine | None,
    tokenizer: Tokenizer,
    slots: NotedSlots,
) -> GenerationEngine:
    """The engine of a system.

    Args:
        system: Which one.
        engine: Holds the policy; None for the oracle.
        tokenizer: The policy's, or any for the oracle.
        slots: Where the episodes will be played.

    Raises:
        ValueError: if the system is unknown or needs an engine.
    """
    if system == "oracle":
        return OracleEngine(tokenizer, slots)
    if system not in ("closed-book", "rag", "search"):
        raise ValueError(f"system must be closed-book, rag, search or oracle, got {system!r}")
    if engine is None:
        raise ValueError(f"system {system!r} needs a policy's engine, got None")
    if system == "closed-book":
        return ForcedAnswerEngine(engine, tokenizer)
    return engine if system == "search" else SingleRetrievalEngine(engine, tokenizer, slots)


def search_text(query: str, context: str) -> str:
    """A turn that searches, in the grammar that the context uses."""
    if QUERY_OPEN in context:
        return f"{QUERY_OPEN} {query} {QUERY_CLOSE}"
    opening = "" if context.endswith(THINK_OPEN) else THINK_OPEN
    return f"{opening} next</think><search> {query}</search>"


def answer_text(answer: str, context: str) -> str:
    """A turn that answers, in the grammar that the context uses."""
    is_open = context.endswith(THINK_OPEN) or QUERY_OPEN in context
    opening = "" if is_open else THINK_OPEN
    return f"{opening} done</think><answer> {answer}</answer>"


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
