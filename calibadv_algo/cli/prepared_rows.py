"""Around `calibadv data prepare`: datasets that are there already, rows as they were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from calibadv_env.data.prepared import own_folder, read_prepared
from calibadv_env.data.registry import get_dataset

_SHOWN: Final = 3
_CHARACTERS: Final = 100


def refuse_known(name: str, *, force: bool) -> None:
    """Refuses to replace a dataset that was prepared before, unless that is wished.

    Raises:
        ValueError: naming what is there.
    """
    folder = own_folder(name)
    note = None if force else read_prepared(folder)
    if note is not None:
        sizes = ", ".join(f"{one['tasks']} {split}" for split, one in note["splits"].items())
        raise ValueError(
            f"{name} is there already: {sizes} questions in {folder}. --force replaces it, or "
            "choose another name"
        )


def say_next(name: str, splits: Sequence[str], console: Console, *, has_corpus: bool) -> None:
    """Shows the first questions as they were read, and the commands that come next."""
    tasks = get_dataset(name).tasks(splits[0])
    console.print(f"the first questions of {splits[0]}, as they were read:", markup=False)
    for index in range(min(_SHOWN, len(tasks))):
        task = tasks[index]
        hops = " → ".join(", ".join(hop) for hop in task.gold_passages)
        evidence = f"  [{hops}]" if hops else ""
        text = f"  {task.question}  →  {' | '.join(task.golden_answers)}{evidence}"
        cut = text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"
        console.print(cut, markup=False, soft_wrap=True)
    if has_corpus:
        console.print(
            f"next: calibadv data audit {name} --split {splits[-1]}  # can the documents answer?",
            markup=False,
            soft_wrap=True,
        )
        console.print(
            f"      calibadv eval MODEL --env.dataset {name} --env.split {splits[-1]}  # what can "
            "a policy do? (atlas-tiny reads questions like those of the atlas, and no free text)",
            markup=False,
            soft_wrap=True,
        )
