"""Low-rank adapters: a few weights learn beside the model's own, which stay as they are.

The package peft makes the layers. The policy stays the Hugging Face model that it was, with the
layers inside, so that scoring, sampling and the optimiser need not know; what has to know asks
:func:`peft_model`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

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
    on_adapter: Literal["stack", "continue"] = "stack"
    """Where the model is an adapter's folder: merge it and learn new ones on top, or learn on with
    it, at its own rank, alpha and layers."""

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
        ValueError: if the model has no layer of these names, or has adapters already, which new
            ones would take the place of.
    """
    peft = _peft()
    import torch

    if has_adapter_layers(model):
        raise ValueError(
            "model must have no adapters, got one that has: merge them first (load_policy does so "
            "with an adapter's folder), or learn on with them (lora.on_adapter=continue)"
        )
    names = settings.target_modules
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
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


def adapter_base(path: str) -> str | None:
    """Name of the model that an adapter was trained on; None if the path is no adapter's.

    A folder that holds a whole model beside the adapter is a model.

    Args:
        path: A folder, or a name on the hub, where only what was loaded before is looked at.

    Raises:
        ValueError: if the adapter's configuration names no model.
    """
    folder = Path(path)
    if folder.is_dir():
        file = folder / "adapter_config.json"
        if not file.is_file() or (folder / "config.json").is_file():
            return None
    else:
        from transformers.utils.peft_utils import find_adapter_config_file

        try:
            found = find_adapter_config_file(path)
        except (OSError, ValueError):
            return None
        if found is None:
            return None
        file = Path(found)
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file} must name the adapter's model in base_model_name_or_path")
    beside = folder / base
    return str(beside) if folder.is_dir() and beside.is_dir() else base


def adapter_on(model: PreTrainedModel, path: str, *, is_merged: bool) -> PreTrainedModel:
    """Puts a trained adapter onto the model that it was trained on.

    Args:
        model: The model; changed in place.
        path: Folder or name of the adapter.
        is_merged: If true, its weights become the model's own; otherwise it alone learns on.

    Returns:
        The same model.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the adapter does not fit, holds NaN or infinity, or is of a kind that
            cannot learn on.
    """
    peft = _peft()
    kind = peft.PeftConfig.from_pretrained(path)
    if not is_merged:
        _check_continues(kind, path)
    try:
        wrapped = peft.PeftModel.from_pretrained(model, path, is_trainable=not is_merged)
        if is_merged:
            merged = wrapped.merge_and_unload(safe_merge=True)
            # New adapters on top name this one as what they stand on.
            merged.name_or_path = merged.config._name_or_path = path
            if hasattr(merged, "peft_config"):
                del merged.peft_config  # peft's memory of the adapter that is no more
            return cast("PreTrainedModel", merged.requires_grad_(True))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter in {path} does not fit its model: {error}") from error
    base = cast("PreTrainedModel", wrapped.get_base_model())
    base.__dict__[_KEY] = wrapped
    return base


def _check_continues(kind: Any, path: str) -> None:
    """Refuses adapters that hold more than low-rank layers, which checkpoints could not merge."""
    extra = [
        name
        for name in ("use_dora", "modules_to_save", "trainable_token_indices")
        if getattr(kind, name, None)
    ]
    if str(getattr(kind.peft_type, "value", kind.peft_type)) != "LORA":
        extra = [f"peft_type {kind.peft_type}"]
    elif getattr(kind, "bias", "none") != "none":
        extra.append("bias")
    if extra:
        raise ValueError(
            f"the adapter in {path} cannot learn on: it has {', '.join(extra)}, and plain LoRA "
            "alone can; merge it with lora.on_adapter=stack"
        )


def has_adapter_layers(model: nn.Module) -> bool:
    """Tells whether adapters stand in a model, whoever put them there."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters need the package peft: pip install 'calibadv[lora]'") from error
    return peft


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
