"""Credit of searches by the relevance of their passages to the question and to the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.base import SCORED_BAD, CreditRule, search_mask
from calibadv_algo.credit.facts import fact, task_fact
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.protocol.answers import normalize_answer

Pooling = Literal["mean", "max"]
"""How the passages of a search become one number."""

Mix = Literal["half", "linear", "max"]
"""How relevance to the question and to the answer become one; see :class:`RelevanceCredit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageScorer(Checked, ABC):
    """Base of scorers, which compare a text with a passage."""

    @abstractmethod
    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " pair"]:
        """One score, 0 to 1, for each text and passage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordOverlap(PassageScorer):
    """A scorer without a model: the share of a text's words that stand in the passage."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " pair"]:
        """Share of each text's words that stand in its passage."""
        scores = np.zeros(len(pairs))
        for number, (text, passage) in enumerate(pairs):
            words = set(normalize_answer(text).split())
            found = words & set(normalize_answer(passage).split())
            scores[number] = len(found) / len(words) if words else 0.0
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEncoder(PassageScorer):
    """A reranker: a sequence classifier with one output, whose logistic is the score.

    Attributes:
        model: Folder or hub name that ``AutoModelForSequenceClassification`` loads.
        max_tokens: Longest pair; what is longer is cut.
        batch_size: Pairs that go through the model together.
        device: Where it runs.
    """

    model: str
    max_tokens: Annotated[int, POSITIVE] = 512
    batch_size: Annotated[int, POSITIVE] = 32
    device: str = "cpu"

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " pair"]:
        """Logistic of the model's output for each text and passage.

        Raises:
            ValueError: if the model has more than one output.
        """
        import torch

        tokenizer, model = _load_classifier(self.model, self.device)
        scores = []
        for start in range(0, len(pairs), self.batch_size):
            part = pairs[start : start + self.batch_size]
            encoded = tokenizer(
                [text for text, _ in part],
                [passage for _, passage in part],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                logits = model(**encoded).logits.float().cpu()
            scores.append(logits[:, 0].sigmoid().double().numpy())
        return np.concatenate(scores) if scores else np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceCredit(CreditRule):
    """Correctness by relevance, which knows the accepted answers and needs no group.

    With ``q`` the relevance of a search's passages to the question and ``a`` that to the accepted
    answer which they fit best, a search scores ``(q + a) / 2`` (``half``), ``max(q, a)``
    (``max``), or ``(1 - w) q + w a`` with ``w`` rising evenly from 0 at a trajectory's first search
    to 1 at its last (``linear``; 1/2 where there is one search).

    **Source:** CalibAdv's code, ``query_doc_relevance``.

    **Differs:** the original's reranker is a parameter, and so are its choices, whose exact forms
    were described to us and not seen. A passage is its title and its text, whole even where the
    observation cuts it.

    Attributes:
        scorer: Compares a text with a passage.
        pooling: How the passages of a search become one number.
        mix: How ``q`` and ``a`` become one.
    """

    scorer: PassageScorer = field(default_factory=WordOverlap)
    pooling: Pooling = "max"
    mix: Mix = "half"

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset({"action", "passages"})

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Score of every search, at least ``SCORED_BAD``; NaN for other turns.

        Raises:
            MissingInfoKeyError: if a turn lacks ``action`` or ``passages``, or ``reset`` reported
                no ``question`` or no ``golden_answers``.
            ValueError: if the scorer gives NaN or infinity.
        """
        is_search = search_mask(group, "RelevanceCredit")
        correctness = np.full(is_search.shape, np.nan)
        for row, trajectory in enumerate(group.trajectories):
            columns = np.flatnonzero(is_search[row])
            if len(columns):
                scores = self._scores(trajectory, columns.tolist())
                if not np.isfinite(scores).all():
                    raise ValueError(
                        f"scores of {type(self.scorer).__name__} must be finite, got "
                        f"{scores.tolist()} for task {trajectory.task_id!r}"
                    )
                correctness[row, columns] = np.clip(scores, SCORED_BAD, 1.0)
        return correctness

    def _scores(self, trajectory: Trajectory, columns: Sequence[int]) -> Float[np.ndarray, " _"]:
        """One score a search."""
        question = str(task_fact(trajectory, "question", "RelevanceCredit"))
        answers = [str(each) for each in task_fact(trajectory, "golden_answers", "RelevanceCredit")]
        found = [_texts(trajectory.turns[column]) for column in columns]
        to_question = self._pooled(question, found)
        to_answers = [self._pooled(answer, found) for answer in answers]
        to_answer = np.max(to_answers, axis=0) if to_answers else np.zeros(len(columns))
        weight: float | np.ndarray = 0.5
        if self.mix == "max":
            weight = to_answer > to_question
        elif self.mix == "linear" and len(columns) > 1:
            weight = np.linspace(0.0, 1.0, len(columns))
        scores: Float[np.ndarray, " _"] = to_question + weight * (to_answer - to_question)
        return scores

    def _pooled(self, text: str, found: Sequence[Sequence[str]]) -> Float[np.ndarray, " _"]:
        """Relevance to a text of what each search found, 0 where it found nothing."""
        scores = iter(self.scorer([(text, passage) for each in found for passage in each]).tolist())
        pool = np.max if self.pooling == "max" else np.mean
        return np.array([pool([next(scores) for _ in each]) if each else 0.0 for each in found])


def _texts(turn: Turn) -> list[str]:
    """The passages of a search as a scorer reads them; those without any text drop out."""
    texts = (f"{title} {text}".strip() for title, text in fact(turn, "passages", "RelevanceCredit"))
    return [text for text in texts if text]


@lru_cache(maxsize=2)
def _load_classifier(name: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model, kept for the next call."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(name).to(device).eval()
    if model.config.num_labels != 1:
        raise ValueError(f"{name} must have one output, got {model.config.num_labels}")
    return AutoTokenizer.from_pretrained(name), model
