"""One update of the policy: minibatches, micro-batches, gradients, the optimiser's step.

The formulas are in ``calibadv_algo.losses``. What is decided here is which tokens go through the
model together, and that it makes no difference: denominators are those of the whole minibatch, so
the micro-batches' gradients add up to the minibatch's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from calibadv_algo.batching import (
    TokenBatch,
    select_sequences,
    sequences_with_signal,
    split_by_tokens,
    split_minibatches,
    to_device,
)
from calibadv_algo.credit.beliefs import Scorer
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.critic import Critic, CriticStep, explained_variance, value_targets
from calibadv_algo.learner.optimizer import AUTOCAST_DTYPES, Stepper
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.prefixes import split_by_nodes
from calibadv_algo.learner.ranks import MicroBatch, Ranks, SingleRank, micro_batches
from calibadv_algo.learner.sharding import ShardedModel
from calibadv_algo.learner.tokens import (
    TokenScores,
    chosen_scores,
    is_scorable,
    join_scores,
    kept,
    loss_tokens,
    token_scores,
    without_unscorable,
)
from calibadv_algo.losses.base import LossTokens, aggregate
from calibadv_algo.losses.kl import divergence
from calibadv_algo.losses.mismatch import mismatch_stats

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticResult:
    """Effect of an update on the critic.

    Attributes:
        loss: Mean over the minibatches.
        grad_norm: Mean norm of the gradient before clipping.
        explained_variance: That of the returns by the values before the update.
    """

    loss: float
    grad_norm: float
    explained_variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """Result of an update.

    Attributes:
        scores: The tokens that were trained on; sequences without signal may be missing.
        loss: Mean over the minibatches.
        grad_norm: Mean norm of the gradient before clipping.
        num_steps: Steps of the optimiser.
        num_skipped_steps: Steps left out because the gradient was not finite.
        num_tokens: Tokens that went forward and backward.
        num_unscorable: Sampled tokens whose log-probability, under the policy or whoever it is
            compared with, is not finite: they have no loss and stand in no score.
        mismatch: Differences between engine and trainer, by name; empty where they are not
            known because the trainer did not compute log-probabilities of its own.
        critic: What the critic learnt, if there is one.
        loss_scale: What losses are multiplied by in fp16, else None.
    """

    scores: TokenScores
    loss: float
    grad_norm: float
    num_steps: int
    num_skipped_steps: int
    num_tokens: int
    mismatch: Mapping[str, float]
    num_unscorable: int = 0
    critic: CriticResult | None = None
    loss_scale: float | None = None


class Learner:
    """Changes a policy's weights.

    Attributes:
        policy: The policy that learns.
        critic: The critic, where there is one.
        stepper: AdamW over the policy's trainable weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimConfig,
        *,
        temperature: float = 1.0,
        ref_model: PreTrainedModel | None = None,
        has_critic: bool = False,
        has_start: bool = False,
        has_squared_probs: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        """Makes the optimiser, and keeps a frozen copy of the model if a divergence is asked for.

        Args:
            model: What learns; shared with whoever else holds it.
            config: Loss and optimiser.
            temperature: That of the sampling.
            ref_model: Reference policy; None means a copy of ``model`` as it is now. Not used
                without a KL term.
            has_critic: Whether advantages need values: a second copy of ``model`` learns them.
            has_start: Whether the starting policy is asked for more than a divergence.
            has_squared_probs: Whether advantages need the sums of squared probabilities.
            ranks: Processes that share the work, each with a learner of its own that is given
                the same batches; None means this one alone.

        Raises:
            ValueError: if no weight learns, or the policy shall be sharded where that is not
                possible.
        """
        self._config = config
        self._ranks = ranks or SingleRank()
        self._temperature = temperature
        dtype = AUTOCAST_DTYPES[config.dtype]
        is_sharded = self._is_sharded(has_critic)
        own = copy.deepcopy(model) if is_sharded else model
        self.policy = Policy(
            own,
            autocast_dtype=dtype,
            is_gradient_checkpointing=config.gradient_checkpointing,
            shares_prefixes=config.prefixes == "shared",
        )
        self._sharded = ShardedModel(own, model) if is_sharded else None
        learning = [p for p in own.parameters() if p.requires_grad]
        if not learning:
            raise ValueError(
                "model must have weights that learn (requires_grad), got one in which all are "
                "frozen, as those of an adapter that was loaded for use are"
            )
        self.stepper = Stepper(learning, config, ranks=ranks)
        self._reference: Policy | None = None
        self._has_squared_probs = has_squared_probs
        if config.has_reference or has_start:
            frozen = copy.deepcopy(model) if ref_model is None else ref_model
            self._reference = Policy(
                frozen.requires_grad_(False),
                autocast_dtype=dtype,
                shares_prefixes=config.prefixes == "shared",
            )
        self.critic = Critic(model, config, ranks=ranks) if has_critic else None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The policy's optimiser."""
        return self.stepper.optimizer

    @property
    def lr(self) -> float:
        """The learning rate of the last update."""
        return self.stepper.lr

    def whole_model(self) -> PreTrainedModel:
        """The policy with its weights as they are now, whole; all ranks call it together."""
        return self.policy.model if self._sharded is None else self._sharded.gather_whole()

    def take_whole_model(self) -> None:
        """Learns on from what was put into the model that `whole_model` gave."""
        if self._sharded is not None:
            self._sharded.take_whole()

    def prepare(self, batch: TokenBatch) -> TokenBatch:
        """Fills in what has to be known before the first step: old and reference log-probs, values.

        Args:
            batch: All episodes of an update; advantages are not needed yet.

        Returns:
            The same tokens with ``old_logprobs``, and ``ref_logprobs`` and ``values`` where the
            settings ask for them. A batch that was prepared before comes back as it is.
        """
        if batch.old_logprobs is not None:
            return batch
        old = batch.sampling_logprobs
        if self._config.old_logprobs == "recomputed":
            old = self._score_frozen(self.policy, batch)
        batch = replace(batch, old_logprobs=old)
        if self._reference is not None and self._config.has_reference:
            batch = replace(batch, ref_logprobs=self._score_frozen(self._reference, batch))
        if self.critic is not None:
            batch = replace(batch, values=self._without_grad(batch, self.critic.values))
        if self._has_squared_probs:
            squares = partial(self.policy.squared_probs, temperature=self._temperature)
            batch = replace(batch, squared_probs=self._without_grad(batch, squares))
        return batch

    def score(self, batch: TokenBatch, scorer: Scorer = "policy") -> Float[Tensor, " token"]:
        """Log-probabilities of a batch's action tokens at temperature 1, in the batch's order.

        Args:
            batch: Any texts, the same ones on every rank.
            scorer: The policy as it is now, or the one that training began with.

        Raises:
            ValueError: if the starting policy was not kept.
        """
        policy = self.policy if scorer == "policy" else self._reference
        if policy is None:
            raise ValueError("scorer must be 'policy' unless the learner keeps the starting policy")
        return self._without_grad(batch, lambda micro: policy.logprobs(micro, 1.0)[0])

    def update(self, batch: TokenBatch, update: int, rng: np.random.Generator) -> UpdateResult:
        """Trains on the episodes of one collection.

        Args:
            batch: All of them, with advantages; prepared here if it is not yet.
            update: Number of earlier updates; sets the learning rate.
            rng: Deals the minibatches.

        Returns:
            What happened.
        """
        self.stepper.begin_update(update)
        if self.critic is not None:
            self.critic.stepper.begin_update(update)
        batch = self.prepare(batch)
        scored: list[TokenScores] = []
        losses, norms, num_tokens = [], [], 0
        num_unscorable = torch.zeros(1, dtype=torch.float64)
        critic_steps: list[CriticStep] = []
        for _ in range(self._config.num_epochs):
            for minibatch in split_minibatches(batch, self._config.num_minibatches, rng):
                if self.critic is not None:
                    critic_steps.append(self.critic.step(minibatch))
                chosen = self._with_gradient(minibatch)
                losses.append(self._accumulate(minibatch, chosen, scored, num_unscorable))
                norms.append(self.stepper.step())
                num_tokens += chosen.num_tokens
        finite = [norm for norm in norms if math.isfinite(norm)]
        self._ranks.sum_([num_unscorable])
        return UpdateResult(
            scores=join_scores(self._ranks.gather(join_scores(scored))),
            loss=self._mean_sum(losses),
            grad_norm=_finite_mean(norms),
            num_steps=len(finite),
            num_skipped_steps=len(norms) - len(finite),
            num_tokens=num_tokens,
            num_unscorable=int(num_unscorable),
            mismatch=self._mismatch(batch),
            critic=self._critic_result(critic_steps, batch) if critic_steps else None,
            loss_scale=self.stepper.loss_scale,
        )

    def accumulate_gradient(self, batch: TokenBatch) -> float:
        """Adds the gradient of this rank's part of a minibatch's loss; returns that part."""
        batch = self.prepare(batch)
        return self._accumulate(batch, self._with_gradient(batch), [], torch.zeros(1))

    def state(self) -> dict[str, Any]:
        """State for a checkpoint beside weights and optimisers, as plain JSON."""
        critic = {} if self.critic is None else self.critic.stepper.scaler_state()
        return {"scaler": self.stepper.scaler_state(), "critic_scaler": critic}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.stepper.load_scaler_state(state.get("scaler", {}))
        if self.critic is not None:
            self.critic.stepper.load_scaler_state(state.get("critic_scaler", {}))

    def _with_gradient(self, minibatch: TokenBatch) -> TokenBatch:
        """The sequences of a minibatch that have a gradient.

        A sequence whose advantages are all 0 has no gradient unless there is another term. It
        is left out here and still counts in the minibatch's denominators.
        """
        has_other_terms = (
            self._config.kl_coef > 0
            or self._config.entropy_coef > 0
            or self._config.objective.penalty_denominator(minibatch) is not None
        )
        if has_other_terms:
            return minibatch
        return select_sequences(minibatch, sequences_with_signal(minibatch))

    def _micro_batches(self, batch: TokenBatch) -> list[MicroBatch]:
        """This rank's part of a batch, in pieces that fit into memory."""
        is_even = self._sharded is not None
        tokens = self._config.micro_batch_tokens
        split = split_by_nodes if self._config.prefixes == "shared" else split_by_tokens
        return micro_batches(batch, tokens, self._ranks, is_even=is_even, split=split)

    def _is_sharded(self, has_critic: bool) -> bool:
        """Tells whether the policy is to be shared out over the ranks."""
        if self._config.parallel == "replicated" or self._ranks.world_size == 1:
            return False
        if has_critic or self._config.dtype == "fp16":
            reason = "a critic" if has_critic else "dtype fp16"
            raise ValueError(f"parallel must be 'replicated' with {reason}, got 'sharded'")
        return True

    def _inside(self, function: Callable[[], Result]) -> Result:
        """Calls something that computes with the policy's weights."""
        if self._sharded is None:
            return function()
        result: Result = self._sharded(function)
        return result

    def _accumulate(
        self,
        minibatch: TokenBatch,
        chosen: TokenBatch,
        scored: list[TokenScores],
        num_unscorable: Float[Tensor, " one"],
    ) -> float:
        """Forward and backward pass of this rank's part; returns its part of the loss.

        Tokens that cannot be scored are added to ``num_unscorable``.
        """
        denominator = self._denominator(minibatch)
        objective = self._config.objective
        penalty_denominator = objective.penalty_denominator(minibatch)
        total = 0.0
        for part in self._micro_batches(chosen):
            micro = part.batch
            with self.policy.packed_attention():
                logprobs, entropies = self._inside(partial(self._logprobs, micro))
                micro = to_device(micro, logprobs.device)
                tokens = loss_tokens(micro, logprobs)
                is_scored = is_scorable(tokens, micro.ref_logprobs)
                tokens, reference = without_unscorable(tokens, micro.ref_logprobs, is_scored)
                loss = aggregate(
                    kept(self._token_loss(tokens, reference, entropies), is_scored),
                    micro.sequence,
                    self._config.aggregation,
                    denominator=denominator,
                )
                if penalty_denominator is not None:
                    penalty = kept(objective.penalty(tokens, minibatch), is_scored)
                    loss = loss + penalty.sum() / penalty_denominator
                if part.is_filler:
                    loss = loss * 0.0
                self.stepper.backward(loss)
            if part.is_filler:
                continue
            total += float(loss.detach())
            num_unscorable += float((~is_scored).sum())
            found = token_scores(tokens, reference, entropies, objective.is_clipped(tokens))
            scored.append(chosen_scores(found, is_scored.cpu()))
        return total

    def _logprobs(
        self, micro: TokenBatch
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Log-probabilities and entropies under the policy that learns."""
        has_entropy_grad = self._config.entropy_coef > 0
        return self.policy.logprobs(micro, self._temperature, has_entropy_grad=has_entropy_grad)

    def _denominator(self, minibatch: TokenBatch) -> float:
        """Divisor of a minibatch's sum of token losses, whatever its micro-batches."""
        if self._config.aggregation == "token-mean":
            return minibatch.num_action_tokens
        return minibatch.num_sequences * (self._config.length_norm or 1)

    def _token_loss(
        self,
        tokens: LossTokens,
        ref_logprobs: Float[Tensor, " token"] | None,
        entropies: Float[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Surrogate, divergence and entropy bonus of each token."""
        loss = self._config.objective(tokens)
        weights = self._config.mismatch.weights(
            tokens.old_logprobs, tokens.sampling_logprobs, tokens.sequence
        )
        if weights is not None:
            loss = loss * weights
        if ref_logprobs is not None and self._config.kl_coef > 0:
            estimate = divergence(
                self._config.kl_estimator, tokens.logprobs, ref_logprobs, tokens.old_logprobs
            )
            loss = loss + self._config.kl_coef * estimate
        if self._config.entropy_coef > 0:
            loss = loss - self._config.entropy_coef * entropies
        return loss

    def _mismatch(self, batch: TokenBatch) -> dict[str, float]:
        """Divergence of engine and trainer, where the log-probabilities of both are known."""
        if self._config.old_logprobs == "sampled" or batch.old_logprobs is None:
            return {}
        is_finite = batch.old_logprobs.isfinite() & batch.sampling_logprobs.isfinite()
        old, sampling = batch.old_logprobs[is_finite], batch.sampling_logprobs[is_finite]
        sequence = batch.sequence[is_finite]
        stats = mismatch_stats(old.numpy(), sampling.numpy(), sequence.numpy())
        correction = self._config.mismatch
        weights = correction.weights(old, sampling, sequence)
        if weights is not None and stats:
            is_truncated = correction.is_truncated(weights)
            stats["mismatch_truncated_share"] = float(is_truncated.float().mean())
        return stats

    def _score_frozen(self, policy: Policy, batch: TokenBatch) -> Float[Tensor, " token"]:
        """Log-probabilities of a whole batch, in its own order, without gradients."""
        return self._without_grad(batch, lambda micro: policy.logprobs(micro, self._temperature)[0])

    @torch.no_grad()
    def _without_grad(
        self, batch: TokenBatch, function: Callable[[TokenBatch], Float[Tensor, " token"]]
    ) -> Float[Tensor, " token"]:
        """Something about every action token of a batch, in the batch's order.

        Each rank looks at its part, and the parts are put together.
        """
        result = torch.zeros(batch.num_action_tokens)
        placed = replace(batch, places=torch.arange(batch.num_action_tokens))
        for part in self._micro_batches(placed):
            values = self._inside(partial(function, part.batch)).cpu()
            if part.batch.places is not None and not part.is_filler:
                result[part.batch.places] = values
        self._ranks.sum_([result])
        return result

    def _critic_result(self, steps: Sequence[CriticStep], batch: TokenBatch) -> CriticResult:
        """The means over the critic's steps."""
        return CriticResult(
            loss=self._mean_sum([step.loss for step in steps]),
            grad_norm=_finite_mean([step.grad_norm for step in steps]),
            explained_variance=explained_variance(*value_targets(batch)),
        )

    def _mean_sum(self, parts: Sequence[float]) -> float:
        """The mean over the minibatches of losses of which every rank has a part."""
        losses = torch.tensor(parts, dtype=torch.float64)
        self._ranks.sum_([losses])
        return float(np.mean(losses.numpy()))


def _finite_mean(values: Sequence[float]) -> float:
    """The mean of those that are finite, NaN if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
