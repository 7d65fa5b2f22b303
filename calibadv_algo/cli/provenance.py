"""Facts that stand beside results: which code, data and starting policy they come from."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.training.resumption import shown_value
from calibadv_env.common.files import write_text
from calibadv_env.data.names import PAGES

PROVENANCE_FILE: Final = "provenance.json"
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


def note_start(folder: Path, env: EnvConfig) -> None:
    """Writes into a folder which code and data its first numbers come from, unless it says so."""
    path = folder / PROVENANCE_FILE
    if not path.exists():
        facts = {"git_commit": git_commit(), "data_sha256": data_sha256(env)}
        write_text(path, json.dumps(facts, indent=1) + "\n")


def commit_of_start(folder: Path) -> str:
    """The commit that :func:`note_start` wrote, "" if there is none."""
    try:
        return str(json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["git_commit"])
    except (OSError, ValueError, KeyError):
        return ""


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


def server_identity(env: EnvConfig) -> dict[str, Any] | None:
    """Index and corpus behind a search server, as it tells them; None where it tells nothing.

    Servers of other projects tell nothing, and neither does one that does not answer.
    """
    if not env.retriever.startswith(("http://", "https://")):
        return None
    from calibadv_env.errors import RetrieverError
    from calibadv_env.retrieval.base import retriever_identity
    from calibadv_env.retrieval.opening import remote_retriever

    try:
        identity = retriever_identity(remote_retriever(env.retriever))
    except (RetrieverError, ValueError):
        return None
    return None if "url" in identity else json.loads(json.dumps(identity, default=str))


def refuse_other_index(
    folder: Path, record: Mapping[str, Any], server: Mapping[str, Any] | None
) -> None:
    """Refuses a search server with another index than the one that a run was begun with.

    Args:
        folder: The run's.
        record: What ``provenance.json`` holds.
        server: What the server of now says of itself; None if it says nothing, which is said.

    Raises:
        CheckpointError: naming what differs.
    """
    starts = [record, *record.get("resumed_by", [])]
    known = [start["search_server"] for start in starts if start.get("search_server")]
    if not known:
        return
    before = known[-1]
    if server is None:
        Console(stderr=True, highlight=False).print(
            "the search server does not say which index it has, so nobody knows whether it is the "
            "one that the run was begun with",
            soft_wrap=True,
        )
        return
    differing = sorted(name for name in {*before, *server} if before.get(name) != server.get(name))
    if differing:
        said = "; ".join(
            f"{name}: {shown_value(before.get(name))} there, {shown_value(server.get(name))} here"
            for name in differing
        )
        raise CheckpointError(
            f"{folder} holds a run whose search server had another index ({said}). Serve that "
            "index to go on with it, or choose another output_dir"
        )


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


def dataset_of_env(env: EnvConfig) -> str | None:
    """The dataset whose questions a search environment asks; None for environments of others."""
    module, _, name = env.env_id.rpartition(":")
    if module != "calibadv_env":
        return None
    import gymnasium

    import calibadv_env  # noqa: F401 (registers the ids)

    kwargs = {**gymnasium.spec(name).kwargs, **env.kwargs()}
    return str(kwargs.get("dataset", PAGES[0] if env.is_pages else env.dataset))


def _local_dataset(env: EnvConfig) -> str | None:
    """The dataset whose corpus this process searches, None where it searches none."""
    if env.retriever.startswith(("http://", "https://", "simulated:")):
        return None
    return dataset_of_env(env)
