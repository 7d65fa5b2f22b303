"""Steps of an optimiser: gradient, clip, learning rate, and loss scaling for fp16."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.ranks import Ranks, SingleRank, full_tensor, is_sharded

AUTOCAST_DTYPES: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that computations run in under autocast, by the setting's name."""

FP16_GROWTH_INTERVAL: Final = 400
"""Steps without overflow after which the loss scale doubles, as in the FP16 recipe for verl."""


class Stepper:
    """AdamW over some parameters.

    With ``dtype="fp16"`` losses are multiplied by a scale before their gradients are taken,
    because small gradients are 0 in fp16. The scale is halved after a step whose gradient was
    not finite, which is left out, and doubled after 400 steps without one. Gradients are divided
    by it before anything looks at them, so it does not change what is learnt.

    Attributes:
        optimizer: The optimiser itself.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        config: OptimConfig,
        *,
        lr: float | None = None,
        warmup_fraction: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Makes the optimiser.

        Args:
            parameters: What is trained, at least one, all on one device.
            config: The settings.
            lr: Peak learning rate; None means that of the settings.
            warmup_fraction: Share of the updates with a rising one; None means likewise.
            ranks: Processes whose gradients add up; None means this one alone. Gradients of
                parameters that are sharded over them have been added up before.
        """
        self._ranks = ranks or SingleRank()
        self._parameters = list(parameters)
        self._config = config
        self._peak_lr = config.lr if lr is None else lr
        self._warmup_fraction = (
            config.warmup_fraction if warmup_fraction is None else warmup_fraction
        )
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=self._peak_lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._scaler: torch.amp.GradScaler | None = None
        if config.dtype == "fp16":
            device = self._parameters[0].device
            self._scaler = torch.amp.GradScaler(device.type, growth_interval=FP16_GROWTH_INTERVAL)
            # A scaler makes its scale at the first loss; an update without any needs it as well.
            self._scaler.scale(torch.zeros((), device=device))

    @property
    def lr(self) -> float:
        """The learning rate in use."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def loss_scale(self) -> float | None:
        """Factor of the losses in fp16; None otherwise."""
        return None if self._scaler is None else float(self._scaler.get_scale())

    def begin_update(self, update: int) -> None:
        """Sets the learning rate.

        Args:
            update: Number of earlier updates.
        """
        factor = lr_factor(update, self._config, self._warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self._peak_lr * factor

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds the gradient of a loss, scaled if need be."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clips the gradient and steps, unless it is not finite; returns its norm before.

        The gradient is the sum over the ranks, and so is what is clipped.
        """
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not is_sharded(parameter):
                gradients.append(parameter.grad)
        self._ranks.sum_(gradients)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        clipped = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip)
        norm = float(full_tensor(clipped))
        if math.isfinite(norm):
            self.optimizer.step()
        if self._scaler is not None:
            self._scaler.update()
        self.optimizer.zero_grad()
        return norm

    def scaler_state(self) -> dict[str, Any]:
        """State of the loss scale for a checkpoint, as plain JSON; {} without one."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Restores the loss scale of a checkpoint."""
        if self._scaler is not None:
            self._scaler.load_state_dict(dict(state))


def lr_factor(update: int, config: OptimConfig, warmup_fraction: float | None = None) -> float:
    """Learning rate of an update relative to the peak.

    It rises linearly over the first ``warmup_fraction`` of the schedule's updates, then stays or
    falls to ``final_lr_fraction`` at the last of them. The schedule is as long as the run unless
    ``schedule_updates`` says otherwise.

    Args:
        update: Number of earlier updates.
        config: Schedule, its number of updates, warm-up and final share.
        warmup_fraction: Takes the place of the setting's; None keeps that.

    Returns:
        A factor between 0 and 1; never 0 in the warm-up.
    """
    fraction = config.warmup_fraction if warmup_fraction is None else warmup_fraction
    num_updates = config.schedule_updates or config.num_updates
    num_warmup = round(fraction * num_updates)
    if update < num_warmup:
        return (update + 1) / num_warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (update - num_warmup) / max(1, num_updates - 1 - num_warmup))
    fall = progress if config.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - config.final_lr_fraction) * fall
