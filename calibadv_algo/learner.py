"""One update of the policy: minibatches, micro-batches, gradients, the optimiser's step.

The formulas are in ``losses.py``. What is decided here is which tokens go through the model
together, and that it makes no difference: denominators are those of the whole minibatch, so the
micro-batches' gradients add up to the minibatch's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from calibadv_algo.batching import (
    TokenBatch,
    replace_logprobs,
    select_sequences,
    sequences_with_signal,
    split_by_tokens,
    split_minibatches,
)
from calibadv_algo.config import OptimConfig
from calibadv_algo.losses import KL_ESTIMATORS, aggregate, policy_loss
from calibadv_algo.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What the policy said about the tokens that were trained on, in the order of training.

    Attributes:
        logprobs: Log-probabilities just before the step that used them.
        old_logprobs: Log-probabilities before the update.
        advantages: Advantages.
        entropies: Entropies of the tokens' distributions, in nats.
        ref_logprobs: Log-probabilities under the reference policy, if there is one.
    """

    logprobs: Float[Tensor, " token"]
    old_logprobs: Float[Tensor, " token"]
    advantages: Float[Tensor, " token"]
    entropies: Float[Tensor, " token"]
    ref_logprobs: Float[Tensor, " token"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What an update did.

    Attributes:
        scores: The tokens that were trained on; sequences without signal may be missing.
        loss: Mean over the minibatches.
        grad_norm: Mean norm of the gradient before clipping.
        num_steps: Steps of the optimiser.
        num_skipped_steps: Steps left out because the gradient was not finite.
        num_tokens: Tokens that went forward and backward.
    """

    scores: TokenScores
    loss: float
    grad_norm: float
    num_steps: int
    num_skipped_steps: int
    num_tokens: int


class Learner:
    """Changes a policy's weights.

    Attributes:
        policy: The policy that learns.
        optimizer: AdamW over the policy's trainable weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimConfig,
        *,
        temperature: float = 1.0,
        ref_model: PreTrainedModel | None = None,
    ) -> None:
        """Makes the optimiser, and keeps a frozen copy of the model if there is a KL term.

        Args:
            model: What learns; shared with whoever else holds it.
            config: Loss and optimiser.
            temperature: That of the sampling.
            ref_model: Reference policy; None means a copy of ``model`` as it is now. Not used
                without a KL term.
        """
        self._config = config
        self._temperature = temperature
        dtype = torch.bfloat16 if config.dtype == "bf16" else None
        self.policy = Policy(
            model,
            autocast_dtype=dtype,
            is_gradient_checkpointing=config.gradient_checkpointing,
        )
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._reference: Policy | None = None
        if config.kl_coef > 0:
            frozen = copy.deepcopy(model) if ref_model is None else ref_model
            self._reference = Policy(frozen.requires_grad_(False), autocast_dtype=dtype)

    def update(self, batch: TokenBatch, update: int, rng: np.random.Generator) -> UpdateResult:
        """Trains on the episodes of one collection.

        Args:
            batch: All of them, with advantages.
            update: Number of earlier updates; sets the learning rate.
            rng: Deals the minibatches.

        Returns:
            What happened.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._config.lr * lr_factor(update, self._config)
        batch = self._prepare(batch)
        scored: list[TokenScores] = []
        losses, norms, num_tokens = [], [], 0
        for _ in range(self._config.num_epochs):
            for minibatch in split_minibatches(batch, self._config.num_minibatches, rng):
                micro_batches = self._micro_batches(minibatch)
                loss = self._accumulate(minibatch, micro_batches, scored)
                losses.append(loss)
                norms.append(self._step())
                num_tokens += sum(micro.num_tokens for micro in micro_batches)
        finite = [norm for norm in norms if math.isfinite(norm)]
        return UpdateResult(
            scores=_join_scores(scored),
            loss=float(np.mean(losses)),
            grad_norm=float(np.mean(finite)) if finite else math.nan,
            num_steps=len(finite),
            num_skipped_steps=len(norms) - len(finite),
            num_tokens=num_tokens,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def accumulate_gradient(self, batch: TokenBatch) -> float:
        """Adds the gradient of one minibatch's loss to the weights' and returns the loss."""
        batch = self._prepare(batch)
        return self._accumulate(batch, self._micro_batches(batch), [])

    def _prepare(self, batch: TokenBatch) -> TokenBatch:
        """Fills in old and reference log-probabilities where the settings ask for them."""
        if self._config.old_logprobs == "recomputed":
            batch = replace_logprobs(batch, sampling=self._score_frozen(self.policy, batch))
        if self._reference is not None:
            batch = replace_logprobs(batch, ref=self._score_frozen(self._reference, batch))
        return batch

    def _micro_batches(self, minibatch: TokenBatch) -> list[TokenBatch]:
        """What has to go through the model for the minibatch's gradient.

        A sequence whose advantages are all 0 has no gradient unless there is a KL or entropy
        term. It is left out here and still counts in the minibatch's denominators.
        """
        has_other_terms = self._reference is not None or self._config.entropy_coef > 0
        if not has_other_terms:
            chosen = sequences_with_signal(minibatch)
            if not chosen:
                return []
            minibatch = select_sequences(minibatch, chosen)
        return split_by_tokens(minibatch, self._config.micro_batch_tokens)

    def _accumulate(
        self,
        minibatch: TokenBatch,
        micro_batches: Sequence[TokenBatch],
        scored: list[TokenScores],
    ) -> float:
        """Forward and backward pass of every micro-batch; returns the minibatch's loss."""
        is_token_mean = self._config.aggregation == "token-mean"
        denominator = minibatch.num_action_tokens if is_token_mean else minibatch.num_sequences
        total = 0.0
        for micro in micro_batches:
            with self.policy.packed_attention():
                logprobs, entropies = self.policy.logprobs(
                    micro, self._temperature, has_entropy_grad=self._config.entropy_coef > 0
                )
                micro = _to_device(micro, logprobs.device)
                token_loss = self._token_loss(micro, logprobs, entropies)
                loss = aggregate(
                    token_loss,
                    micro.sequence,
                    self._config.aggregation,
                    denominator=denominator,
                )
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            scored.append(_scores(micro, logprobs, entropies))
        return total

    def _token_loss(
        self,
        micro: TokenBatch,
        logprobs: Float[Tensor, " token"],
        entropies: Float[Tensor, " token"],
    ) -> Float[Tensor, " token"]:
        """Surrogate, divergence and entropy bonus of each token."""
        loss = policy_loss(
            logprobs,
            micro.sampling_logprobs,
            micro.advantages,
            clip_low=self._config.clip_low,
            clip_high=self._config.clip_high,
        )
        if micro.ref_logprobs is not None:
            estimate = KL_ESTIMATORS[self._config.kl_estimator]
            loss = loss + self._config.kl_coef * estimate(logprobs, micro.ref_logprobs)
        if self._config.entropy_coef > 0:
            loss = loss - self._config.entropy_coef * entropies
        return loss

    def _step(self) -> float:
        """Clips the gradient and steps, unless it is not finite; returns its norm."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def _score_frozen(self, policy: Policy, batch: TokenBatch) -> Float[Tensor, " token"]:
        """Log-probabilities of a whole batch, in its own order, without gradients."""
        # float64 counts exactly, so the place of a token can travel through the split.
        places = torch.arange(batch.num_action_tokens, dtype=torch.float64)
        result = torch.empty(batch.num_action_tokens)
        carrier = replace_logprobs(batch, sampling=places)
        for micro in split_by_tokens(carrier, self._config.micro_batch_tokens):
            logprobs, _ = policy.logprobs(micro, self._temperature)
            result[micro.sampling_logprobs.long()] = logprobs.cpu()
        return result


def lr_factor(update: int, config: OptimConfig) -> float:
    """Learning rate of an update relative to the peak.

    It rises linearly over the first ``warmup_fraction`` of the updates, then stays or falls to
    ``final_lr_fraction`` at the last update.

    Args:
        update: Number of earlier updates.
        config: Schedule, number of updates, warm-up and final share.

    Returns:
        A factor between 0 and 1; never 0 in the warm-up.
    """
    num_warmup = round(config.warmup_fraction * config.num_updates)
    if update < num_warmup:
        return (update + 1) / num_warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (update - num_warmup) / max(1, config.num_updates - 1 - num_warmup))
    fall = progress if config.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - config.final_lr_fraction) * fall


def _to_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """The batch with its per-token vectors on a device; the rest is not needed there."""
    if device.type == "cpu":
        return batch
    ref = batch.ref_logprobs
    return TokenBatch(
        input_ids=batch.input_ids,
        sequence_starts=batch.sequence_starts,
        action_mask=batch.action_mask,
        advantages=batch.advantages.to(device),
        sampling_logprobs=batch.sampling_logprobs.to(device),
        sequence=batch.sequence.to(device),
        turn=batch.turn,
        ref_logprobs=None if ref is None else ref.to(device),
    )


def _scores(
    micro: TokenBatch, logprobs: Float[Tensor, " token"], entropies: Float[Tensor, " token"]
) -> TokenScores:
    """What to remember of a micro-batch, on the CPU and without gradients."""
    ref = micro.ref_logprobs
    return TokenScores(
        logprobs=logprobs.detach().cpu(),
        old_logprobs=micro.sampling_logprobs.cpu(),
        advantages=micro.advantages.cpu(),
        entropies=entropies.detach().cpu(),
        ref_logprobs=None if ref is None else ref.cpu(),
    )


def _join_scores(scores: Sequence[TokenScores]) -> TokenScores:
    """The tokens of all micro-batches, one after the other."""
    empty = torch.zeros(0)
    refs = [item.ref_logprobs for item in scores if item.ref_logprobs is not None]
    return TokenScores(
        logprobs=torch.cat([empty, *(item.logprobs for item in scores)]),
        old_logprobs=torch.cat([empty, *(item.old_logprobs for item in scores)]),
        advantages=torch.cat([empty, *(item.advantages for item in scores)]),
        entropies=torch.cat([empty, *(item.entropies for item in scores)]),
        ref_logprobs=torch.cat(refs) if refs else None,
    )
