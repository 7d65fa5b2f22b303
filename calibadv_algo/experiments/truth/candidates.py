"""Estimators that are held against the truth: each with its labels, shaping and settings.

A candidate is a whole algorithm: the rewards that it learns from, the credit of turns, the
estimator. They come from the library's estimators and credits, from arms and baselines, and from
anybody's own by ``module:Class``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibadv_algo.advantages.base import AdvantageEstimator, TokenBaseline, ValueAdvantage
from calibadv_algo.advantages.vine import Vine
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.experiments.baseline import baseline_names, find_algorithm
from calibadv_algo.experiments.truth.critic import (
    NEEDS_CRITIC,
    OTHER_REWARDS,
    CriticValues,
    with_state_values,
)
from calibadv_algo.learner.ranks import SingleRank
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.estimation import ScoredGroup, draft_batch, estimate, score_groups
from calibadv_algo.training.parts import find_part, find_parts
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, token_counts

REFERENCE: Final = "grpo"
"""Name of the candidate that others are compared with."""

LATE: Final = 1_000
"""Update that estimators are asked about whose rule begins late in a training."""

LABELS: Final = ("silver", "gold", "answer-match", "random", "inverted")
"""Credits of the headline, best first as theory has it."""

HEADLINE: Final = (REFERENCE, *(f"calibadv/{label}" for label in LABELS))
"""Candidates of the first table."""

Matrices = list[Float[np.ndarray, "_ _"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An estimator with everything that it reads.

    Attributes:
        name: ``estimator`` or ``estimator/labels`` for parts, else the name of the system.
        kind: ``part`` for an estimator with labels, ``system`` for an arm or baseline, ``own``,
            ``steps`` for `Vine` with the values of a critic in place of measured ones.
        config: Shaping, credit, estimator and masks; nothing else of it is looked at.
    """

    name: str
    kind: str
    config: TrainConfig

    def advantages(self, groups: ScoredOnce) -> Matrices:
        """Advantages of the turns, one matrix a group; those that masks take out are 0.

        Raises:
            CalibadvAlgoError: if the groups lack something that it needs.
            ValueError: if it cannot be applied, or an advantage is not finite.
        """
        if self.kind == STEPS.kind:
            groups = groups.with_state_values()
        scored = groups.scored(self.config)
        advantage = self.config.advantage
        if isinstance(advantage, ValueAdvantage):
            batch = replace(draft_batch(scored), values=groups.token_values(scored))
            matrices = list(estimate(scored, batch, self.config, update=LATE).turns)
        elif type(advantage).reweight_tokens is AdvantageEstimator.reweight_tokens:
            matrices = [advantage(each.shaped, each.correctness) for each in scored]
            matrices = advantage.finish(matrices, [token_counts(each.shaped) for each in scored])
            if not all(np.isfinite(each).all() for each in matrices):
                raise ValueError(f"{self.name} gives advantages that are not finite")
        else:
            batch = draft_batch(scored)
            matrices = list(estimate(scored, batch, self.config, update=LATE).turns)
        return [
            np.where(each.is_trained[:, None], turns, 0.0)
            for each, turns in zip(scored, matrices, strict=True)
        ]


STEPS: Final = Candidate(
    name="critic-steps",
    kind="steps",
    config=replace(ATLAS_TINY, advantage=Vine(), credit=NoCredit()),
)
"""What a critic itself says that a turn did: the difference of its values."""


class ScoredOnce:
    """Groups whose shaping and credit are worked out once for all estimators that share them."""

    def __init__(self, groups: Sequence[Group], critic: CriticValues | None = None) -> None:
        """Scores nothing yet; a critic has values for all episodes of the groups."""
        self.groups = tuple(groups)
        self.critic = critic
        self._scored: dict[str, list[ScoredGroup]] = {}

    def lacks(self, candidate: Candidate) -> str | None:
        """Reason for which a candidate cannot be applied, if it needs more than groups have."""
        config = candidate.config
        if isinstance(config.advantage, TokenBaseline):
            return "needs the policy's distributions over tokens"
        if not isinstance(config.advantage, ValueAdvantage) and candidate.kind != STEPS.kind:
            return None
        if self.critic is None:
            return NEEDS_CRITIC
        return None if self.critic.fits(config_to_dict(config.shaping)) else OTHER_REWARDS

    def token_values(self, scored: Sequence[ScoredGroup]) -> Float[Tensor, " token"]:
        """The critic's values before the sampled tokens of groups."""
        assert self.critic is not None
        episodes = [each for group in scored for each in group.played.trajectories]
        return torch.from_numpy(np.concatenate(self.critic.of(episodes)).astype(np.float32))

    def with_state_values(self) -> ScoredOnce:
        """The groups with the critic's values in place of measured ones."""
        assert self.critic is not None
        return ScoredOnce([with_state_values(group, self.critic) for group in self.groups])

    def scored(self, config: TrainConfig) -> list[ScoredGroup]:
        """The groups with the rewards and the credit of these settings."""
        parts = [*config.shaping, *config.loss_masks, config.credit]
        key = repr(config_to_dict(parts))
        if key not in self._scored:
            self._scored[key] = score_groups(self.groups, config, SingleRank())
        return self._scored[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Candidates that could be applied, and why others could not.

    Attributes:
        candidates: In order.
        left_out: Reason by name.
    """

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str] = field(default_factory=dict)


def library(own: Iterable[str] = ()) -> Field:
    """Every estimator with every label source, every system, and those of one's own.

    Args:
        own: ``module:Class`` each, or ``module:Class/labels``; labels may be ``module:Class`` too.

    Raises:
        ValueError: if one of one's own is no estimator.
        ImportError: if its module cannot be imported.
    """
    found: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for name, part in find_parts(AdvantageEstimator).items():
        _add_part(found, left_out, name, part)
    for name in sorted(baseline_names(), key=_has_own_loss):
        _add_system(found, left_out, name)
    for spec in own:
        candidate = own_candidate(spec)
        found[candidate.name] = candidate
    return Field(candidates=tuple(_distinct(found.values(), left_out)), left_out=left_out)


def own_candidate(spec: str) -> Candidate:
    """The candidate of ``estimator``, ``estimator/labels`` or a system's name.

    Raises:
        ValueError: if there is no such estimator or credit.
        ImportError: if a module cannot be imported.
    """
    estimator, _, labels = spec.partition("/")
    if not labels and estimator in baseline_names():
        return Candidate(
            name=spec, kind="system", config=bare(find_algorithm(estimator).apply(ATLAS_TINY))
        )
    advantage = find_part(AdvantageEstimator, estimator)()
    credit = find_part(CreditRule, labels)() if labels else NoCredit()
    if advantage.needs_correctness and not labels:
        credit = find_part(CreditRule, "silver")()
    config = replace(ATLAS_TINY, advantage=advantage, credit=credit)
    return Candidate(name=spec, kind="own" if ":" in spec else "part", config=config)


def chosen(runs: Mapping[str, TrainConfig]) -> Field:
    """The candidates of the headline and the algorithms of some runs.

    Args:
        runs: Settings of a run by the name of its algorithm.
    """
    found = {name: own_candidate(name) for name in HEADLINE}
    left_out: dict[str, str] = {}
    for name, run in runs.items():
        found.setdefault(name, Candidate(name=name, kind="system", config=bare(run)))
    return Field(candidates=tuple(_distinct(found.values(), left_out)), left_out=left_out)


def apply_all(candidates: Field, groups: ScoredOnce) -> tuple[dict[str, Matrices], Field]:
    """Advantages of all candidates on the same groups.

    Returns:
        Matrices by name, and the candidates without those that could not be applied.
    """
    results: dict[str, Matrices] = {}
    left_out = dict(candidates.left_out)
    for candidate in candidates.candidates:
        lacking = groups.lacks(candidate)
        if lacking is not None:
            left_out[candidate.name] = lacking
            continue
        try:
            results[candidate.name] = candidate.advantages(groups)
        except (CalibadvAlgoError, ValueError, TypeError, KeyError, OSError) as error:
            left_out[candidate.name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    kept = tuple(each for each in candidates.candidates if each.name in results)
    return results, Field(candidates=kept, left_out=left_out)


def _add_part(
    found: dict[str, Candidate], left_out: dict[str, str], name: str, part: type[Any]
) -> None:
    if not _has_defaults(part):
        left_out[name] = "has settings without a default; name it through a system"
        return
    if not part.needs_correctness:
        config = replace(ATLAS_TINY, advantage=part(), credit=NoCredit())
        found[name] = Candidate(name=name, kind="part", config=config)
        return
    credits: dict[str, type[Any]] = dict(find_parts(CreditRule))
    for label, credit in credits.items():
        if not credit.scores_turns:
            continue
        if not _has_defaults(credit) or label == "judge":
            left_out[f"{name}/{label}"] = "needs a judge; name it through a system"
            continue
        config = replace(ATLAS_TINY, advantage=part(), credit=credit())
        found[f"{name}/{label}"] = Candidate(name=f"{name}/{label}", kind="part", config=config)


def _add_system(found: dict[str, Candidate], left_out: dict[str, str], name: str) -> None:
    """A baseline, unless its estimator, labels and rewards are those of a part."""
    config = bare(find_algorithm(name).apply(ATLAS_TINY))
    # A part of the same name is the same estimator without the rewards that its system learns from.
    found[name] = Candidate(name=name, kind="system", config=config)


def bare(config: TrainConfig) -> TrainConfig:
    """The settings of a system without what groups that are given have no use for."""
    return replace(config, filters=(), optim=replace(config.optim, kl_reward_coef=0.0))


def _has_own_loss(name: str) -> bool:
    """True for systems that are known for their loss: others give equal advantages their name."""
    objective = find_algorithm(name).apply(ATLAS_TINY).optim.objective
    return objective != ATLAS_TINY.optim.objective


def _distinct(candidates: Iterable[Candidate], left_out: dict[str, str]) -> Iterable[Candidate]:
    """Candidates without those whose advantages must be those of an earlier one."""
    seen: dict[str, str] = {}
    for each in candidates:
        config = each.config
        parts = [config.advantage, config.credit if config.advantage.needs_correctness else None]
        key = repr(config_to_dict([*parts, *config.shaping, *config.loss_masks]))
        if each.kind == "own" or key not in seen:
            seen.setdefault(key, each.name)
            yield each
        else:
            left_out[each.name] = f"same advantages as {seen[key]}"


def _has_defaults(part: type[Any]) -> bool:
    parameters = inspect.signature(part).parameters.values()
    return all(each.default is not inspect.Parameter.empty for each in parameters)
