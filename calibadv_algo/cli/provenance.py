"""Facts that stand beside results: which code, data and starting policy they come from."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.training.config import EnvConfig

_PACKAGES: Final = ("calibadv", "torch", "transformers", "gymnasium", "bm25s")


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


def code_versions() -> dict[str, str]:
    """Versions of the code that computed the numbers."""
    found = {"git_commit": git_commit(), "python": platform.python_version()}
    return found | {name: version(name) for name in _PACKAGES}


def data_sha256(env: EnvConfig) -> str:
    """Hash of the corpus behind a search environment, "" where this process holds none."""
    name = _local_dataset(env)
    if name is None:
        return ""
    from calibadv_env.data.registry import get_dataset

    return get_dataset(name).corpus().sha256


def coverage_facts(env: EnvConfig, split: str) -> dict[str, Any] | None:
    """The audit of a split against the corpus that is searched, None if there is none.

    It is what `calibadv data audit` wrote: how much of the split the corpus can answer at all.
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
