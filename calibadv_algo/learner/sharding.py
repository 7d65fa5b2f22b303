"""A policy that no process holds whole: every rank keeps a share of each weight (FSDP2).

The weights of a layer are put together when it is computed and dropped afterwards. Gradients and
the optimiser's averages stay shared out, so memory for them falls with the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibadv_algo.learner.ranks import full_tensor, is_sharded

Result = TypeVar("Result")


class ShardedModel(nn.Module):
    """A model that is shared out over the ranks, and a copy of it that stays whole.

    Attributes:
        model: The model; its parameters are parts.
    """

    def __init__(self, model: PreTrainedModel, whole: PreTrainedModel) -> None:
        """Shares a model's weights out; all ranks come here with the same ones.

        Args:
            model: Its parameters are replaced by their parts.
            whole: An equal one; it stays as it is until `gather_whole` refreshes it.

        Raises:
            RuntimeError: if there is no process group.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__()
        self.model = model
        # A plain attribute: the whole is no part of what is sharded.
        object.__setattr__(self, "_whole", whole)
        mesh = init_device_mesh(whole.device.type, (torch.distributed.get_world_size(),))
        names = set(getattr(whole, "_no_split_modules", None) or ())
        for layer in self.model.modules():
            if type(layer).__name__ in names:
                fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                # The losses of the ranks are parts of one sum, so their gradients add up.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def forward(self, function: Callable[[], Result]) -> Result:
        """Computes something with `model`; what is outside of the layers is whole meanwhile."""
        return function()

    def gather_whole(self) -> PreTrainedModel:
        """The whole with the weights as they are now; all ranks call it together."""
        whole: PreTrainedModel = object.__getattribute__(self, "_whole")
        with torch.no_grad():
            pairs = zip(whole.parameters(), self.model.parameters(), strict=True)
            for target, part in pairs:
                target.copy_(full_tensor(part))
        return whole

    def take_whole(self) -> None:
        """Copies its share of the whole's weights to every rank."""
        whole: PreTrainedModel = object.__getattribute__(self, "_whole")
        with torch.no_grad():
            for part, source in zip(self.model.parameters(), whole.parameters(), strict=True):
                part.copy_(shard_like(source.detach(), part))


def shard_like(tensor: Tensor, target: Tensor) -> Tensor:
    """A tensor that every rank holds whole, shared out as another one is."""
    if not is_sharded(target):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    # Every rank has the data, so nothing has to be sent.
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)
