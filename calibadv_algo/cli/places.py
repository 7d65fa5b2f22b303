"""Folders of runs, comparisons, updates and policies, wherever a command takes one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from calibadv_algo.cli.warned import say

COMPARISON_FILE: Final = "comparison.json"
_UPDATES: Final = "update_*"


def policy_at(name: str) -> str:
    """The policy that a name or folder stands for; of a run the last one, which is said.

    A folder may be that of a policy, of an update (``checkpoints/update_000020``), of a run, or of
    a comparison, of which the first method's first seed that has a checkpoint is taken. Anything
    else is given back as it is: a shipped policy's name, a name on the hub.

    Raises:
        ValueError: if a folder of a run or of a comparison holds no checkpoint.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    if (folder / COMPARISON_FILE).is_file():
        return _of_comparison(folder)
    if (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file():
        return _taken(_last_update(folder), "the last update of the run")
    if (folder / "policy").is_dir() and folder.match(_UPDATES):
        return _taken(folder / "policy", "the policy of the update")
    return name


def comparison_at(folder: Path) -> Path:
    """The comparison that a folder is, or lies in as one of its runs.

    Raises:
        ValueError: if it is neither.
    """
    for candidate in (folder, *list(folder.absolute().parents)[:4]):
        if (candidate / COMPARISON_FILE).is_file():
            if candidate != folder:
                say(f"taken: the comparison {candidate}, which {folder} is a part of")
            return candidate
    if not folder.is_dir():
        raise ValueError(f"comparison_dir {folder}: there is no such folder")
    if (folder / "metrics.jsonl").is_file():
        raise ValueError(
            f"{folder} is a run and no comparison: `calibadv diagnose {folder} --output page.html` "
            f"shows its trajectories, `calibadv watch {folder}` its numbers"
        )
    raise ValueError(f"{folder} holds no {COMPARISON_FILE}, so no comparison wrote it")


def trajectories_at(path: Path) -> Path:
    """The recorded rollouts that a path stands for: those of an update's run, else itself."""
    if path.is_dir() and path.match(_UPDATES) and (path.parent.parent / "trajectories").is_dir():
        run = path.parent.parent
        say(f"taken: the trajectories of the run {run}, all updates of it")
        return run
    return path


def _of_comparison(folder: Path) -> str:
    runs = [run for run in sorted((folder / "runs").glob("*")) if _updates(run)]
    if not runs:
        raise ValueError(f"{folder} is a comparison none of whose runs has a checkpoint yet")
    others = ", ".join(run.name for run in runs[1:])
    what = f"the last update of {runs[0].name}" + (f" (there are also {others})" if others else "")
    return _taken(_last_update(runs[0]), what)


def _last_update(run: Path) -> Path:
    updates = _updates(run)
    if not updates:
        raise ValueError(f"{run} is a run without a checkpoint yet")
    return updates[-1] / "policy"


def _updates(run: Path) -> list[Path]:
    return [path.parent for path in sorted((run / "checkpoints").glob(f"{_UPDATES}/policy"))]


def _taken(policy: Path, what: str) -> str:
    say(f"taken: {policy} ({what})")
    return str(policy)
