"""Texts of an episode scored by a policy: accepted answers before every turn, turns in hindsight.

The contexts are the tokens as they were sampled and observed; only the answer, or the words that
tell the outcome, are tokenised. Equal contexts with the same answers go through the model once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from calibadv_algo.batching import TokenBatch, build_token_batch, split_by_tokens
from calibadv_algo.credit.beliefs import ANSWER_LOGPROBS, TAGGED_LOGPROBS, AnswerBelief
from calibadv_algo.credit.hindsight import HINDSIGHT_LOGPROB, Hindsight
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.learner.policy import Policy
from calibadv_algo.rollout.continuations import prefix_ids
from calibadv_algo.rollout.engines.base import Tokenizer
from calibadv_algo.types import Group, Trajectory, segments
from calibadv_env.info import THINK_OPEN

ScoreTokens = Callable[[TokenBatch], Float[torch.Tensor, " token"]]
"""Log-probabilities of the action tokens of a batch, in order of position."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An answer as tokens: what is given, its opening, itself, its closing."""

    lead: tuple[int, ...]
    opening: tuple[int, ...]
    answer: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def scored(self) -> tuple[int, ...]:
        """Everything but the lead."""
        return (*self.opening, *self.answer, *self.closing)

    def means(self, logprobs: Float[np.ndarray, " token"]) -> tuple[float, float]:
        """Mean log-probability of the answer alone, and together with its tags."""
        start = len(self.opening)
        return (
            float(logprobs[start : start + len(self.answer)].mean()),
            float(logprobs.mean()),
        )


def with_answer_logprobs(
    groups: Sequence[Group], belief: AnswerBelief, tokenizer: Tokenizer, score: ScoreTokens
) -> list[Group]:
    """Groups whose turns' infos say how likely the accepted answers were before them.

    Args:
        groups: Episodes of an environment whose ``reset`` reports ``golden_answers``.
        belief: Form in which the answer is put.
        tokenizer: The policy's.
        score: The policy, or a call for it.

    Raises:
        MissingInfoKeyError: if a task names no accepted answers.
        ValueError: if an answer has no tokens, or a number is not finite.
    """
    places: dict[tuple[tuple[int, ...], _Candidate], int] = {}
    wanted: list[list[list[list[int]]]] = []
    for group in groups:
        rows = []
        for trajectory in group.trajectories:
            candidates = _candidates(trajectory, belief, tokenizer)
            rows.append(
                [
                    [
                        places.setdefault((prefix_ids(trajectory, turn), each), len(places))
                        for each in candidates
                    ]
                    for turn in range(len(trajectory.turns))
                ]
            )
        wanted.append(rows)
    if not places:
        return list(groups)
    keys = list(places)
    batch = _batch(keys)
    vectors = batch.per_sequence(score(batch).double().cpu())
    means = [key[1].means(vector) for key, vector in zip(keys, vectors, strict=True)]
    if not np.isfinite(means).all():
        raise ValueError("log-probabilities of accepted answers must be finite, got NaN or -inf")
    return [
        Group(
            tuple(
                _with_facts(trajectory, row, means)
                for trajectory, row in zip(group.trajectories, rows, strict=True)
            )
        )
        for group, rows in zip(groups, wanted, strict=True)
    ]


def with_hindsight(
    groups: Sequence[Group], hindsight: Hindsight, tokenizer: Tokenizer, score: ScoreTokens
) -> list[Group]:
    """Groups whose turns' infos say how likely the turns were to a policy that knew the outcome.

    Args:
        groups: Episodes.
        hindsight: Words in which the outcome is told, behind the prompt.
        tokenizer: The policy's.
        score: The policy, or a call for it.

    Raises:
        ValueError: if a number is not finite, or an episode has several segments, which would each
            have to be told.
    """
    played = [each for group in groups for each in group.trajectories]
    if not played:
        return list(groups)
    if any(len(segments(each)) > 1 for each in played):
        raise ValueError(
            "hindsight needs episodes whose contexts go on: earlier_thoughts must be keep"
        )
    told = [
        replace(
            each,
            prompt_ids=(
                *each.prompt_ids,
                *tokenizer.encode(hindsight.text(each), add_special_tokens=False),
            ),
        )
        for each in played
    ]
    batch = build_token_batch(told)
    vectors = iter(batch.per_sequence(score(batch).double().cpu()))
    return [
        Group(tuple(_with_hindsight(each, next(vectors)) for each in group.trajectories))
        for group in groups
    ]


def _with_hindsight(trajectory: Trajectory, logprobs: Float[np.ndarray, " token"]) -> Trajectory:
    """The episode with the mean of each turn's tokens in its info."""
    if not np.isfinite(logprobs).all():
        raise ValueError("log-probabilities of turns in hindsight must be finite, got NaN or -inf")
    ends = np.cumsum([len(turn.action_ids) for turn in trajectory.turns])
    turns = tuple(
        replace(turn, info={**turn.info, HINDSIGHT_LOGPROB: float(own.mean())})
        for turn, own in zip(trajectory.turns, np.split(logprobs, ends[:-1]), strict=True)
    )
    return replace(trajectory, turns=turns)


def scores_of(policy: Policy, max_tokens: int = 4096) -> ScoreTokens:
    """A function that scores the action tokens of a batch without gradients, in the batch's order.

    Args:
        policy: Who scores, at temperature 1.
        max_tokens: Most tokens that go through the model at a time.
    """

    @torch.no_grad()
    def score(batch: TokenBatch) -> Float[torch.Tensor, " token"]:
        result = torch.zeros(batch.num_action_tokens)
        placed = replace(batch, places=torch.arange(batch.num_action_tokens))
        for part in split_by_tokens(placed, max_tokens):
            result[part.places] = policy.logprobs(part)[0].cpu()
        return result

    return score


def _candidates(
    trajectory: Trajectory, belief: AnswerBelief, tokenizer: Tokenizer
) -> list[_Candidate]:
    """The accepted answers of an episode's task as tokens."""
    answers = tuple(trajectory.reset_info.get("golden_answers") or ())
    if not answers:
        raise MissingInfoKeyError(
            "the belief in the accepted answer needs golden_answers in the reset info of every "
            f"task; task {trajectory.task_id!r} has none"
        )
    lead = belief.lead
    if trajectory.prompt_text.endswith(THINK_OPEN):
        lead = lead.removeprefix(THINK_OPEN)
    tag = belief.opening.rstrip()
    gap = belief.opening[len(tag) :]

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()

    found = []
    for answer in answers:
        tokens = encode(gap + str(answer))
        if not tokens:
            raise ValueError(f"answer {answer!r} of task {trajectory.task_id!r} has no tokens")
        found.append(_Candidate(encode(lead), encode(tag), tokens, encode(belief.closing)))
    return found


def _batch(keys: Sequence[tuple[tuple[int, ...], _Candidate]]) -> TokenBatch:
    """One sequence a context and answer; the tokens of the answer and its tags are the actions."""
    ids: list[int] = []
    mask: list[bool] = []
    lengths, counts = [], []
    for prefix, candidate in keys:
        given = (*prefix, *candidate.lead)
        scored = candidate.scored
        ids.extend((*given, *scored))
        mask.extend([False] * len(given) + [True] * len(scored))
        lengths.append(len(given) + len(scored))
        counts.append(len(scored))
    total = sum(counts)
    return TokenBatch(
        input_ids=torch.tensor(ids, dtype=torch.int64),
        sequence_starts=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64),
        action_mask=torch.tensor(mask, dtype=torch.bool),
        advantages=torch.zeros(total),
        sampling_logprobs=torch.zeros(total),
        sequence=torch.arange(len(keys)).repeat_interleave(torch.tensor(counts)),
        turn=torch.zeros(total, dtype=torch.int64),
    )


def _with_facts(
    trajectory: Trajectory, places: Sequence[Sequence[int]], means: Sequence[tuple[float, float]]
) -> Trajectory:
    """The episode with the facts in the infos of its turns."""
    turns = []
    for turn, own in zip(trajectory.turns, places, strict=True):
        facts = {
            ANSWER_LOGPROBS: tuple(means[place][0] for place in own),
            TAGGED_LOGPROBS: tuple(means[place][1] for place in own),
        }
        turns.append(replace(turn, info={**turn.info, **facts}))
    return replace(trajectory, turns=tuple(turns))
