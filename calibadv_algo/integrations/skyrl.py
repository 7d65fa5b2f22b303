"""CalibAdv in SkyRL: an advantage estimator in its registry, and what brings the facts to it.

Importing this module registers ``calibadv``, to be set as
``trainer.algorithm.advantage_estimator``. SkyRL gives an estimator rewards, a mask and the names of
the groups; CalibAdv also has to know what each turn did. The environment of
``calibadv_env.integrations.skyrl`` reports that with its metrics, and :class:`FactsInBatch`, mixed
into SkyRL's trainer, hands it on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from calibadv_algo.integrations.advantages import TurnAdvantages
from calibadv_algo.integrations.completions import Spans, spread_turns, trajectory_of
from calibadv_algo.integrations.versions import part_of
from calibadv_algo.types import Trajectory
from calibadv_env.common.peers import Peer, require

SKYRL: Final = Peer(package="skyrl", tested=("0.3.0",), first="0.3", before="0.5")
"""SkyRL's trainer; its environments are a package of their own."""

NAME: Final = "calibadv"
"""Name of the estimator in SkyRL's registry."""

TurnFacts = Sequence[Mapping[str, Any]]
"""``StepInfo`` of each turn of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """Facts of a batch that SkyRL does not hand to an estimator.

    Attributes:
        loss_mask: 1 at response tokens that were sampled, as SkyRL's batch holds it.
        facts: For each row the facts of its turns; None where they are not known. Rows beyond the
            last one are padding.
    """

    loss_mask: Tensor
    facts: Sequence[TurnFacts | None]


_CURRENT: Final[ContextVar[BatchFacts | None]] = ContextVar("calibadv_skyrl_facts", default=None)


@contextmanager
def batch_facts(facts: BatchFacts) -> Iterator[None]:
    """Facts for the calls of the estimator inside the block."""
    token = _CURRENT.set(facts)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def sampled_runs(mask: Bool[np.ndarray, " token"]) -> list[tuple[int, int]]:
    """First token of each turn and the one behind its last: runs of sampled tokens.

    Observations part the runs; the mask is True at response tokens that were sampled.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def row_trajectory(runs: Spans, facts: TurnFacts | None, reward: float) -> Trajectory | None:
    """The trajectory of a row, with token counts in place of tokens.

    None for rows without a sampled token and for padding. An episode that was cut before its end
    has no valid format, so nothing of it is silver.

    Args:
        runs: Its turns; fewer than facts where SkyRL cut the response.
        facts: Facts of the turns.
        reward: Sum of the row's rewards.

    Raises:
        ValueError: if there are more runs of sampled tokens than turns.
    """
    if facts is None or not runs:
        return None
    if len(runs) > len(facts):
        raise ValueError(
            f"loss_mask must have a run of sampled tokens for each of the {len(facts)} turns, "
            f"got {len(runs)} runs"
        )
    infos = [dict(info) for info in facts[: len(runs)]]
    if len(runs) < len(facts) or "is_format_valid" not in infos[-1]:
        infos[-1]["is_format_valid"] = False
    return trajectory_of(runs, infos, [*[0.0] * (len(runs) - 1), reward])


def token_advantages(
    token_level_rewards: Float[Tensor, "row token"],
    index: Sequence[Hashable],
    batch: BatchFacts,
    advantages: TurnAdvantages,
) -> Float[Tensor, "row token"]:
    """Advantages of a batch, each turn's on its sampled tokens, 0 elsewhere and in groups of one.

    Args:
        token_level_rewards: Rewards; only their sum over a row counts.
        index: Name of each row's group.
        batch: Mask and facts.
        advantages: Credit and estimator.

    Raises:
        ValueError: if there are more facts than rows, or the turns do not fit the mask.
        MissingInfoKeyError: if the environment does not report what the credit needs.
    """
    num_rows = len(token_level_rewards)
    if len(batch.facts) > num_rows:
        raise ValueError(f"facts must be at most {num_rows}, one a row, got {len(batch.facts)}")
    facts = [*batch.facts, *[None] * (num_rows - len(batch.facts))]
    totals = token_level_rewards.double().sum(dim=-1).tolist()
    runs = [sampled_runs(mask) for mask in (batch.loss_mask > 0).cpu().numpy()]
    rows = [row_trajectory(*each) for each in zip(runs, facts, totals, strict=True)]
    return spread_turns(runs, advantages(rows, list(index)), token_level_rewards.float())


class Estimator:
    """An advantage estimator with the signature that SkyRL calls.

    Args:
        advantages: Credit and estimator; None for CalibAdv with silver credit.
    """

    def __init__(self, advantages: TurnAdvantages | None = None) -> None:
        self.advantages = advantages or TurnAdvantages()

    def __call__(
        self,
        token_level_rewards: Float[Tensor, "row token"],
        response_mask: Float[Tensor, "row token"],
        index: Sequence[Hashable],
        batch: BatchFacts | None = None,
        **_: Any,
    ) -> tuple[Float[Tensor, "row token"], Float[Tensor, "row token"]]:
        """Advantages and returns, which are the same.

        Args:
            token_level_rewards: Rewards of the response tokens.
            response_mask: 1 at tokens of the response, observations included; not used.
            index: SkyRL's uids: rows with the same one answer the same prompt.
            batch: Mask and facts; None takes those of the surrounding :func:`batch_facts`.
            **_: SkyRL's settings for other estimators.

        Raises:
            ValueError: if nobody gave facts.
        """
        known = batch or _CURRENT.get()
        if known is None:
            raise ValueError(
                f"the estimator {NAME!r} needs the facts about each turn: mix FactsInBatch into "
                "the trainer, or call it inside batch_facts(...)"
            )
        result = token_advantages(token_level_rewards, index, known, self.advantages)
        return result, result


class FactsInBatch:
    """Mixin for SkyRL's trainer: ``class Trainer(FactsInBatch, RayPPOTrainer)``.

    It keeps what the environments report beside the batch until the advantages are computed.

    Raises:
        ValueError: from the methods, if trajectories are split into steps.
    """

    _KEY: Final = "calibadv_facts"

    def convert_to_training_input(
        self, generator_output: Mapping[str, Any], uids: list[str]
    ) -> Any:
        """Adds the facts to the metadata of the trainer's batch."""
        if generator_output.get("is_last_step") is not None:
            raise ValueError("generator.step_wise_trajectories must be false with CalibAdv")
        batch = super().convert_to_training_input(generator_output, uids)  # type: ignore[misc]
        metrics = generator_output.get("env_metrics") or [{} for _ in uids]
        batch.metadata[self._KEY] = [each.get("turns") for each in metrics]
        return batch

    def compute_advantages_and_returns(self, data: Any) -> Any:
        """Runs the trainer's method with the facts in reach of the estimator."""
        facts = data.metadata.pop(self._KEY, [])
        with batch_facts(BatchFacts(loss_mask=data["loss_mask"], facts=facts)):
            return super().compute_advantages_and_returns(data)  # type: ignore[misc]


def register(name: str = NAME, advantages: TurnAdvantages | None = None) -> None:
    """Registers an estimator with SkyRL; harmless when repeated with the same name.

    Args:
        name: Value of ``trainer.algorithm.advantage_estimator`` that selects it.
        advantages: Credit and estimator; None for CalibAdv with silver credit.

    Raises:
        ImportError: if SkyRL is not installed, its release is too old or too new, or it does not
            work with this Python.
    """
    require(SKYRL)
    module = "skyrl.backends.skyrl_train.utils.ppo_utils"
    try:
        registry = part_of(module, "AdvantageEstimatorRegistry")
    except RuntimeError as error:  # pydantic's complaint about SkyRL's types before Python 3.12
        tested = ", ".join(SKYRL.tested)
        raise ImportError(
            f"this adapter needs skyrl (tested with {tested}), whose modules this Python cannot "
            f"import: {error}"
        ) from error
    if name not in registry.list_available():
        registry.register(name, Estimator(advantages))


register()
