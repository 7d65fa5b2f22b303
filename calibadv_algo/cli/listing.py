"""`calibadv list`: names that other commands take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from calibadv_algo.cli.setup import SHIPPED_POLICIES
from calibadv_algo.experiments.arms import ARMS
from calibadv_algo.experiments.baseline import baseline_names, find_baseline
from calibadv_algo.training.presets import PRESETS
from calibadv_env.data.registry import describe_datasets


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """List the arms, baselines, datasets, presets or policies that there are."""

    what: Annotated[
        Literal["arms", "baselines", "datasets", "presets", "policies"], tyro.conf.Positional
    ]
    """Which names."""

    def run(self) -> int:
        """Prints a table of names and one-line descriptions."""
        columns = ("name", "what it is", *(("source",) if self.what == "baselines" else ()))
        table = Table(*columns, box=None, pad_edge=False)
        if self.what == "baselines":
            for name in baseline_names():
                baseline = find_baseline(name)
                table.add_row(name, baseline.description, baseline.source)
        else:
            for name, description in self._rows().items():
                table.add_row(name, description)
        Console(highlight=False).print(table)
        return 0

    def _rows(self) -> dict[str, str]:
        if self.what == "arms":
            return {name: arm.description for name, arm in ARMS.items()}
        if self.what == "datasets":
            return {
                one.name: "; ".join(filter(None, (one.description.rstrip("."), one.origin)))
                for one in describe_datasets()
            }
        if self.what == "policies":
            return dict.fromkeys(SHIPPED_POLICIES, "shipped with the package")
        return {
            name: f"{config.model}, {type(config.advantage).__name__}, "
            f"{config.rollout.num_questions} x {config.rollout.group_size} episodes an update, "
            f"lr {config.optim.lr:g}"
            for name, config in PRESETS.items()
        }
