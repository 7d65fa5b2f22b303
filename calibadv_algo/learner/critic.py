"""The critic: what a state is worth, before each action token.

It is a copy of the starting policy with a linear head of its own on the last hidden states, as
in Search-R1 and verl, where critic and policy share no weights. A head on the policy's own
backbone would save memory, but its loss would change the policy, and a weight between the two
would be one more number to choose. The head starts at 0: so does every value, and no random
number is drawn.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibadv_algo.batching import TokenBatch, to_device
from calibadv_algo.learner.checkpoint import restore_critic
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.optimizer import AUTOCAST_DTYPES, Stepper
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.learner.ranks import Ranks, SingleRank, micro_batches
from calibadv_algo.losses.base import aggregate
from calibadv_algo.losses.value import value_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticStep:
    """Result of one step of the critic.

    Attributes:
        loss: The clipped value loss of the minibatch; this process's part of it.
        grad_norm: Norm of the gradient before clipping; not finite if the step was left out.
    """

    loss: float
    grad_norm: float


class Critic:
    """Values of states, and how they are learnt.

    Attributes:
        module: Backbone and head; what a checkpoint saves.
        stepper: The optimiser over both.
    """

    def __init__(
        self, model: PreTrainedModel, config: OptimConfig, *, ranks: Ranks | None = None
    ) -> None:
        """Copies a model and gives it a head.

        Args:
            model: The starting policy; it is not changed.
            config: The settings; those of the critic are in ``config.critic``.
            ranks: Processes that share the work; None means this one alone.

        Raises:
            ValueError: if the model's output head is not applied to its last hidden states.
        """
        self._config = config
        self._ranks = ranks or SingleRank()
        self._backbone = Policy(
            copy.deepcopy(model),
            autocast_dtype=AUTOCAST_DTYPES[config.dtype],
            is_gradient_checkpointing=config.gradient_checkpointing,
        )
        width = int(model.config.get_text_config().hidden_size)
        head = nn.Linear(width, 1, device=model.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self._head = head
        self.module = nn.ModuleDict({"backbone": self._backbone.model.base_model, "head": head})
        self.stepper = Stepper(
            [each for each in self.module.parameters() if each.requires_grad],
            config,
            lr=config.critic_lr,
            warmup_fraction=config.critic.warmup_fraction,
            ranks=ranks,
        )

    def values(self, batch: TokenBatch) -> Float[Tensor, " token"]:
        """Values of the states before the action tokens, float32, in order of position."""
        states = self._backbone.hidden_states(batch)
        values: Tensor = self._head(states.float()).squeeze(-1)
        return values

    @torch.no_grad()
    def frozen_values(self, batch: TokenBatch) -> Float[Tensor, " token"]:
        """The same values without gradient, on the CPU."""
        return self.values(batch).cpu()

    def step(self, minibatch: TokenBatch) -> CriticStep:
        """Moves the values of a minibatch towards its returns.

        Args:
            minibatch: With ``values``, those before the update, and ``returns``.

        Returns:
            What happened.

        Raises:
            ValueError: if values or returns are missing.
        """
        value_targets(minibatch)
        total = 0.0
        parts = micro_batches(minibatch, self._config.micro_batch_tokens, self._ranks)
        for micro in (part.batch for part in parts):
            with self._backbone.packed_attention():
                values = self.values(micro)
                micro = to_device(micro, values.device)
                old_values, returns = value_targets(micro)
                token_loss = value_loss(
                    values, old_values, returns, clip=self._config.critic.value_clip
                )
                loss = aggregate(
                    token_loss,
                    micro.sequence,
                    "token-mean",
                    denominator=minibatch.num_action_tokens,
                )
                self.stepper.backward(loss)
            total += float(loss.detach())
        return CriticStep(loss=total, grad_norm=self.stepper.step())


def load_critic(checkpoint: Path) -> Critic:
    """The critic of a checkpoint, to be asked for values.

    Args:
        checkpoint: A folder ``update_…`` with a ``critic.safetensors``.

    Raises:
        CheckpointError: if it cannot be read, or does not fit the policy beside it.
        ValueError: if that policy cannot be loaded.
    """
    model, _ = load_policy(str(checkpoint / "policy"))
    critic = Critic(model, OptimConfig())
    restore_critic(critic.module, checkpoint)
    return critic


def value_targets(
    batch: TokenBatch,
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """The values before the update and the returns of a batch.

    Raises:
        ValueError: if one of them is missing.
    """
    if batch.values is None or batch.returns is None:
        raise ValueError("batch must hold values and returns to train a critic")
    return batch.values, batch.returns


def explained_variance(values: Float[Tensor, " token"], returns: Float[Tensor, " token"]) -> float:
    """Computes how much of the returns' variance the values account for.

    ``1 - Var(returns - values) / Var(returns)``: 1 for perfect values, 0 for a constant.

    **Source:** definition. **Differs:** nothing.

    Args:
        values: Values before the update.
        returns: What they should have been.

    Returns:
        A number up to 1; NaN if the returns do not vary or there are fewer than two.
    """
    if len(returns) < 2 or float(returns.var()) == 0:
        return math.nan
    return 1 - float((returns - values).var() / returns.var())
