"""Low-rank adapters: a few weights learn beside the model's own, which stay as they are.

The package peft makes the layers. The policy stays the Hugging Face model that it was, with the
layers inside, so that scoring, sampling and the optimiser need not know; what has to know asks
:func:`peft_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from calibadv_env.common.checks import POSITIVE, Checked

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_KEY: Final = "_calibadv_peft_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora(Checked):
    """Adapters in place of the model's own weights."""

    rank: Annotated[int, POSITIVE] = 16
    """Width of an adapter."""
    alpha: Annotated[float, POSITIVE] = 32.0
    """Scale: what an adapter adds is multiplied by alpha / rank."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the layers that get one; all-linear means every linear layer but the output."""

    def __post_init__(self) -> None:
        """Checks ranges, and that some layer is named."""
        Checked.__post_init__(self)
        if not self.target_modules:
            raise ValueError("target_modules must name a layer, got ()")


def add_lora(model: PreTrainedModel, settings: Lora, *, seed: int = 0) -> PreTrainedModel:
    """Puts adapters into a model and freezes the rest.

    **Source:** LoRA (arXiv 2106.09685), as peft does it; no dropout, no bias.

    Args:
        model: The policy; changed in place.
        settings: Size and place of the adapters.
        seed: Of the adapters' first halves; their second halves are 0, so that the policy is the
            same at first.

    Returns:
        The same model.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the model has no layer of these names.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("lora needs the package peft: pip install 'calibadv[lora]'") from error
    import torch

    names = settings.target_modules
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules="all-linear" if names == ("all-linear",) else list(names),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
    base = cast("PreTrainedModel", wrapped.get_base_model())
    base.__dict__[_KEY] = wrapped
    return base


def peft_model(model: nn.Module) -> Any | None:
    """The peft model round a model that has adapters, None for others."""
    return model.__dict__.get(_KEY)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model with its adapters merged in, under the names of one without.

    Args:
        model: What :func:`add_lora` gave.

    Returns:
        New tensors where there is an adapter, the model's own elsewhere; on the CPU.
    """
    modules = dict(model.named_modules())
    merged = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        head, _, tail = name.partition(".base_layer.")
        if tail == "weight":
            layer: Any = modules[head]
            for adapter in layer.active_adapters:
                tensor = tensor + layer.get_delta_weight(adapter).to(tensor)
        merged[f"{head}.{tail}" if tail else name] = tensor.detach().cpu().contiguous()
    return merged
